"""Writes a model folder again with fewer pieces: the tables lose rows, the ids follow, and all else is as it was."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from vocabmerge.config_ids import moved_lists, token_ids
from vocabmerge.encoder_folder.layout import CONFIG, GENERATION_CONFIG, Kind, Layout, named_ids
from vocabmerge.encoder_folder.parts import TablePart, open_parts
from vocabmerge.encoder_folder.sentence_modules import (
    MODULE_IDS,
    MODULE_SIZES,
    Module,
    module_config,
)
from vocabmerge.encoder_folder.transformer_part import TransformerPart, cut_part
from vocabmerge.encoder_folder.weight_files import PlannedTensor, Rows, write_safetensors
from vocabmerge.models import moved_ids
from vocabmerge.output_folder import write_json, write_tokenizer
from vocabmerge.tokenizer_file.json_file import read_json
from vocabmerge.tokenizer_file.reading import read_vocabulary
from vocabmerge.tokenizer_file.rewrite import rewrite_tokenizer
from vocabmerge.tokenizer_file.vocabulary import Vocabulary


class Cut(Protocol):
    """A vocabulary cut down, as `trim_vocabulary` gives it."""

    @property
    def before(self) -> Vocabulary:
        """The vocabulary that was cut."""

    @property
    def after(self) -> Vocabulary:
        """The result."""

    @property
    def kept(self) -> Rows:
        """The old id of each new one [V_new], ascending."""

    @property
    def new_ids(self) -> Rows:
        """The new id of each old one [V_old], -1 where it went."""


def write_trimmed(layout: Layout, out: Path, cut: Cut) -> dict[str, Any]:
    """Write a model folder again with the kept pieces alone, tokenizers included.

    Weights pass through a few rows at a time: embedding, head and head biases lose the rows of dropped pieces, and every
    other tensor, module and side file is copied bit for bit, in the precision of its file. Every id that a config names
    follows. What would describe the whole model stays behind: its card, its exports to other formats, what training left.

    Args:
        layout: the folder to cut, as `read_layout` gives it.
        out: an empty folder.
        cut: a cut of the folder's tokenizer, as `trim_vocabulary` gives it.

    Returns:
        What the report says of the model: kind, architecture, rows, parameters and bytes before and after, by part, the
        files left out, and of each config's list of pieces the ids that left it.

    Raises:
        VocabularyError: as `check_folder`, or a config id that would lose its row.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> from vocabmerge import open_tokenizer, read_layout, read_vocabulary, trim_vocabulary
        >>> BertModel(BertConfig(vocab_size=4, hidden_size=4, num_attention_heads=1, num_hidden_layers=1,
        ...                      intermediate_size=4)).save_pretrained("model")
        >>> open_tokenizer({"added_tokens": [], "model": {"type": "WordPiece", "unk_token": "[UNK]",
        ...     "continuing_subword_prefix": "##", "max_input_chars_per_word": 9,
        ...     "vocab": {"[UNK]": 0, "a": 1, "ab": 2, "abb": 3}}}, name="tiny").save("model/tokenizer.json")
        >>> cut = trim_vocabulary(read_vocabulary("model"), {"en": [0, 3, 5, 0]})
        >>> Path("small").mkdir()
        >>> report = write_trimmed(read_layout("model"), Path("small"), cut)
        >>> report["before"]["rows"], report["after"]["rows"]
        (4, 3)
        >>> BertModel.from_pretrained("small").get_input_embeddings().weight.shape
        torch.Size([3, 4])
    """
    parts = open_parts(layout, cut.before)
    rows = _rows(layout, cut, min(parts.rows, default=0))
    sizes = _Sizes()
    ids_lost = {
        path.joinpath(setting).as_posix(): ids
        for path, part in parts.transformers.items()
        for setting, ids in _write_transformer(part, out / path, rows, sizes).items()
    }
    for path, table in parts.tables.items():
        planned = [
            PlannedTensor(stored=t, rows=rows if t.name in table.vocabulary else None)
            for t in table.stored
        ]
        _write_weights(out / path, planned, table, sizes)
    for file in parts.side_files.copied:
        (out / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(layout.folder / file, out / file)
    for file, parameters in parts.side_parameters.items():
        size = (out / file).stat().st_size
        sizes.add("modules", (parameters, size), (parameters, size))
    for module in layout.modules:
        _write_module_config(layout, module, out, rows, parts.rows)
    for path in layout.tokenizers:
        _write_tokenizer(layout, path, out, cut)
    return {
        "kind": layout.kind.value,
        "architecture": layout.architecture,
        "before": {"rows": max(parts.rows, default=0), **sizes.before()},
        "after": {"rows": len(rows), **sizes.after()},
        "left_out": [file.as_posix() for file in parts.side_files.left_out],
        "ids_lost": ids_lost,
    }


def _rows(layout: Layout, cut: Cut, before: int) -> Rows:
    """The old row of each new one: those of the kept pieces, then those without a piece that a config names, as for padding."""
    extra = [row for row in named_ids(layout) if len(cut.before) <= row < before]
    return np.append(cut.kept, np.array(extra, dtype=np.int64))


class _Sizes:
    """Parameters and bytes of the parts of a model: the vocabulary, the encoder, and the modules behind it."""

    def __init__(self) -> None:
        self._before: dict[str, list[int]] = {}
        self._after: dict[str, list[int]] = {}

    def add(self, part: str, before: tuple[int, int], after: tuple[int, int]) -> None:
        """Count parameters and bytes of a part, before and after."""
        for table, counts in ((self._before, before), (self._after, after)):
            table[part] = [a + b for a, b in zip(table.get(part, (0, 0)), counts, strict=True)]

    def before(self) -> dict[str, Any]:
        """What the whole model had, and its parts."""
        return _record(self._before)

    def after(self) -> dict[str, Any]:
        """What the trimmed model has, and its parts."""
        return _record(self._after)


def _record(sizes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    parts = {name: {"parameters": n, "bytes": size} for name, (n, size) in sizes.items()}
    return {
        "parameters": sum(part["parameters"] for part in parts.values()),
        "bytes": sum(part["bytes"] for part in parts.values()),
        "parts": parts,
    }


def _write_transformer(
    part: TransformerPart, folder: Path, rows: Rows, sizes: _Sizes
) -> dict[str, list[int]]:
    """Write weights and configs; give back the ids that each list of pieces lost, by file and setting."""
    new_of_old = {old: new for new, old in enumerate(rows.tolist())}
    changes = cut_part(part, rows)
    _write_weights(folder, changes.tensors, part, sizes)
    ids_lost = {}
    for name in (CONFIG, GENERATION_CONFIG):
        file = part.folder / name
        if not file.is_file():
            continue
        settings = read_json(file)
        lists, lost = moved_lists(settings, new_of_old, part.rows)
        ids_lost.update({f"{name}: {setting}": ids for setting, ids in lost.items()})
        if name == CONFIG:
            moved = changes.settings
        else:
            moved = moved_ids(token_ids(settings), new_of_old, part.rows, where=f"{file}: ")
        write_json(folder / name, {**settings, **moved, **lists})
    return ids_lost


def _write_weights(
    folder: Path,
    planned: Sequence[PlannedTensor],
    part: TransformerPart | TablePart,
    sizes: _Sizes,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_safetensors(folder / "model.safetensors", planned, part.metadata)
    for tensor in planned:
        stored = tensor.stored
        name = "vocabulary" if stored.name in part.vocabulary else "encoder"
        sizes.add(name, (stored.numel, stored.size), (tensor.numel, tensor.size))


def _write_module_config(
    layout: Layout, module: Module, out: Path, kept: Rows, rows: Collection[int]
) -> None:
    """Move the ids that a module's settings name, and the size of an output that is the vocabulary."""
    config = module_config(layout.folder, module)
    ids = {name: config[name] for name in MODULE_IDS.get(module.name, ()) if config.get(name)}
    new_of_old = {old: new for new, old in enumerate(kept.tolist())}
    changes = moved_ids(ids, new_of_old, max(rows), where=f"{layout.folder / module.file}: ")
    for name in MODULE_SIZES.get(module.name, ()):
        if config.get(name) in rows:
            changes[name] = len(kept)
    if changes:
        write_json(out / module.file, {**config, **changes})


def _write_tokenizer(layout: Layout, path: Path, out: Path, cut: Cut) -> None:
    written = cut.after
    if path != layout.tokenizer:
        vocabulary = read_vocabulary(layout.folder / path)
        tokenizer = rewrite_tokenizer(vocabulary, cut.new_ids)
        written = replace(cut.after, tokenizer=tokenizer, config=vocabulary.config)
    write_tokenizer(out / path, written, with_model=layout.kind is not Kind.TOKENIZER)
