"""What RegMean must know of a model: the inner products of each linear layer's inputs, gathered in a pass over text."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from mergedistill.errors import FuseError
from teacherzoo import Corpus, Masking, Teacher, load_teacher
from teacherzoo.atomic_write import written_whole
from teacherzoo.encoders.inference import batches
from teacherzoo.progress import ProgressCallback, no_progress
from teacherzoo.text.blocks import Block, blocks_of
from teacherzoo.text.masking import masked_positions
from vocabmerge import Kind
from vocabmerge.model_files import stored_names

AT_ONCE = 2**31
"""Bytes of Gram matrices that are gathered in one pass; where a model has more, there are more passes."""
_LENGTH = 128  # tokens of a block
_BATCH = 4096  # tokens of a batch


def gather_grams(
    folder: Path,
    encoder: Path,
    text: Path,
    out: Path,
    *,
    tokens: int,
    watch: ProgressCallback = no_progress,
) -> None:
    """G = X^T X / n of the inputs X [n, I] of every linear layer of a model, in float32, into a file of tensors.

    A masked LM reads its text as it learned to, 15 % of the pieces masked. Padding does not count. Layers that are given
    the same input (query, key and value) share their matrix, which stands in the file under the first of them; `aliases`
    of its metadata say so. Of the embeddings, whose input is one of V pieces, the shares of the pieces stand there, [V].

    Memory: the model and at most `AT_ONCE` bytes of matrices, 4 I² for each input; for BERT-base 540 MB, in one pass.

    Args:
        folder: of the model.
        encoder: of its transformer.
        text: lines that it knows, in a form that `teacherzoo.Corpus` reads.
        out: the file to write.
        tokens: read at most so many.
        watch: told (done, total, what) in tokens.

    Raises:
        FuseError: where the files name weights otherwise than transformers does.
        CorpusError, TeacherError: for text or a model that cannot be read.
    """
    teacher = load_teacher(folder, headless=True)
    rows = _rows(teacher, text, tokens)
    stored = stored_names(encoder, teacher.model)
    layers = _linear_layers(teacher.model, stored, folder)
    embedding = teacher.model.get_input_embeddings()
    gathered = _Gathered()
    passes = _passes(layers)
    total = sum(map(len, rows)) * len(passes)
    for number, layers_of_pass in enumerate(passes):
        done = number * total // len(passes)
        counted = {} if number else {_name_of(teacher.model, embedding.weight, stored): embedding}
        with gathered.listening(layers_of_pass, counted), torch.no_grad():
            for batch in batches([len(row) for row in rows], _BATCH):
                gathered.read(teacher, [rows[index] for index in batch])
                done += sum(len(rows[index]) for index in batch)
                watch(done, total, f"inner products of the inputs of {folder.name}")
    metadata = {
        "aliases": json.dumps(gathered.aliases),
        "embeddings": _name_of(teacher.model, embedding.weight, stored),
        "positions": str(sum(map(len, rows))),
    }
    with written_whole(out) as part:
        save_file(gathered.finished(), part, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Grams:
    """A file of `gather_grams`, whose matrices are read one at a time.

    Attributes:
        file: where it lies.
        aliases: layers that share the matrix of another.
        embeddings: the name of the table of embeddings.
        names: of the matrices, and of that table.
        positions: tokens that were read.
    """

    file: Path
    aliases: Mapping[str, str]
    embeddings: str
    names: frozenset[str]
    positions: int

    @classmethod
    def of(cls, file: Path) -> Grams:
        """Open a file."""
        with safe_open(file, framework="pt") as opened:
            metadata, names = opened.metadata(), frozenset(opened.keys())
        return cls(
            file=file,
            aliases=json.loads(metadata["aliases"]),
            embeddings=metadata["embeddings"],
            names=names,
            positions=int(metadata["positions"]),
        )

    def __contains__(self, name: str) -> bool:
        return name in self.names or name in self.aliases

    def __getitem__(self, name: str) -> torch.Tensor:
        """The matrix of a linear layer's weight [I, I], or the shares of the embeddings' pieces [V]."""
        with safe_open(self.file, framework="pt") as opened:
            values: torch.Tensor = opened.get_tensor(self.aliases.get(name, name))
        return values


@dataclass
class _Gathered:
    """Sums over the inputs of the modules that it listens to."""

    sums: dict[str, torch.Tensor] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    _mask: torch.Tensor | None = None  # [B, T] of the batch that is read
    _last: tuple[str, torch.Tensor] | None = None

    def finished(self) -> dict[str, torch.Tensor]:
        """Means over the positions that were read; nothing of a layer that read none."""
        return {name: total / self.counts[name] for name, total in self.sums.items()}

    def read(self, teacher: Teacher, rows: list[np.ndarray[Any, Any]]) -> None:
        width = max(map(len, rows))
        input_ids = torch.full((len(rows), width), teacher.space.pad, dtype=torch.int64)
        mask = torch.zeros(len(rows), width, dtype=torch.int64)
        for index, row in enumerate(rows):
            input_ids[index, : len(row)] = torch.from_numpy(row.astype(np.int64))
            mask[index, : len(row)] = 1
        self._mask, self._last = mask, None
        teacher.model(input_ids=input_ids, attention_mask=mask)
        self._last = None

    @contextlib.contextmanager
    def listening(
        self, layers: Mapping[str, torch.nn.Linear], embeddings: Mapping[str, torch.nn.Module]
    ) -> Iterator[None]:
        handles = [layer.register_forward_pre_hook(self._adder(name)) for name, layer in layers.items()]  # fmt: skip
        handles += [layer.register_forward_pre_hook(self._counter(name)) for name, layer in embeddings.items()]  # fmt: skip
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _adder(self, name: str) -> Any:
        def add(module: torch.nn.Linear, inputs: tuple[torch.Tensor, ...]) -> None:
            if self._last is not None and self._last[1] is inputs[0]:
                self.aliases[name] = self._last[0]
                return
            self._last = (name, inputs[0])
            positions = self._real(inputs[0].reshape(-1, module.in_features).float())
            total = self.sums.setdefault(name, torch.zeros(module.in_features, module.in_features))
            total.addmm_(positions.T, positions)
            self.counts[name] = self.counts.get(name, 0) + len(positions)

        return add

    def _counter(self, name: str) -> Any:
        def count(module: torch.nn.Embedding, inputs: tuple[torch.Tensor, ...]) -> None:
            pieces = self._real(inputs[0].reshape(-1, 1))[:, 0]
            total = self.sums.setdefault(name, torch.zeros(module.num_embeddings))
            total += torch.bincount(pieces, minlength=module.num_embeddings)
            self.counts[name] = self.counts.get(name, 0) + len(pieces)

        return count

    def _real(self, rows: torch.Tensor) -> torch.Tensor:
        """Without padding, where there is a row for each position; a head on pooled states has one for each text."""
        assert self._mask is not None
        return rows[self._mask.view(-1).bool()] if len(rows) == self._mask.numel() else rows


def _rows(teacher: Teacher, text: Path, tokens: int) -> list[np.ndarray[Any, Any]]:
    """The ids of blocks of the text, as the model is to read them."""
    rows = []
    masking = Masking()
    length = min(_LENGTH, teacher.max_length)
    for block in blocks_of(Corpus("text", text).documents(), teacher.backend, length=length):
        rows.append(_masked(block, masking, teacher) if teacher.kind is Kind.MASKED_LM else block.token_ids)  # fmt: skip
        tokens -= len(rows[-1])
        if tokens <= 0:
            break
    return rows


def _masked(block: Block, masking: Masking, teacher: Teacher) -> np.ndarray[Any, Any]:
    masked = block.token_ids.copy()
    masked[masked_positions(block, masking, space=teacher.space, draw=0)] = teacher.space.mask
    return masked


def _linear_layers(model: Any, stored: Mapping[str, str], folder: Path) -> dict[str, torch.nn.Linear]:  # fmt: skip
    """Every linear layer of a model by its weight's name in the files, but for one that is tied to the embeddings."""
    table = model.get_input_embeddings().weight
    layers = {}
    for name, module in model.named_modules():
        if not isinstance(module, torch.nn.Linear) or module.weight is table:
            continue
        if f"{name}.weight" not in stored:
            raise FuseError(
                f"{folder}: expected the weight of {name} in its files under that name, found none; open the model with "
                "transformers and save it again."
            )
        layers[stored[f"{name}.weight"]] = module
    return layers


def _name_of(model: Any, weight: torch.Tensor, stored: Mapping[str, str]) -> str:
    state = model.state_dict(keep_vars=True)
    return next(stored[name] for name, tensor in state.items() if tensor is weight and name in stored)  # fmt: skip


def _passes(layers: Mapping[str, torch.nn.Linear]) -> list[dict[str, torch.nn.Linear]]:
    """In the model's order, as many at a time as have room; shared inputs are counted as if they were not."""
    passes: list[dict[str, torch.nn.Linear]] = [{}]
    room = AT_ONCE
    for name, layer in layers.items():
        size = 4 * layer.in_features**2
        if size > room and passes[-1]:
            passes.append({})
            room = AT_ONCE
        passes[-1][name] = layer
        room -= size
    return passes
