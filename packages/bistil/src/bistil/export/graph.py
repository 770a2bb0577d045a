"""What of a model folder goes into an exported graph: a module from input tensors to output tensors, and their names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bistil.errors import ExportError
from bistil.export.heads import Part, part_of
from vocabmerge import Kind, read_layout
from xeval.encoder import longest_row, open_tokenizer, quiet
from xeval.finetune.checkpoint import read_finetuned

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
PLACES_OF_WORDS = ("word_start", "word_size")
_POOLED = (Kind.SENTENCE, Kind.SPARSE, Kind.MULTI_VECTOR)
_HEADS = ("ForMaskedLM", "ForTokenClassification", "ForSequenceClassification")


@dataclass(frozen=True, kw_only=True)
class Graph:
    """What is exported.

    Attributes:
        module: the inputs to a tuple of tensors.
        inputs: their names.
        outputs: names of these, and what the axes of each are.
        labels: names of the last axis; empty where it has none.
        tokenizer: of the model.
        longest: tokens that it reads at most.
        pieces: rows of its embedding.
        about: of a model tuned by xeval, what one who serves it must know.
    """

    module: nn.Module
    inputs: tuple[str, ...]
    outputs: Mapping[str, tuple[str, ...]]
    labels: tuple[str, ...]
    tokenizer: Any
    longest: int
    pieces: int
    about: Mapping[str, Any] = field(default_factory=lambda: {"task": None, "pooling": None})


def open_graph(model: str) -> Graph:
    """Open a folder as what will be exported.

    Raises:
        ExportError: for a head that is none of those.
        XevalError: for a folder that is no model.
    """
    if (Path(model) / "xeval.json").is_file():
        return _tuned_graph(Path(model))
    from transformers import AutoConfig, AutoModel
    from transformers.models.auto import modeling_auto

    if Path(model).is_dir() and (kind := read_layout(model).kind) in _POOLED:
        raise ExportError(
            f"{model}: it is a folder of sentence-transformers of kind {kind.value!r}, and a graph would hold its encoder without what "
            "makes vectors of the states; export a model without such modules."
        )
    tokenizer = open_tokenizer(model)
    config = AutoConfig.from_pretrained(model)
    saved = (getattr(config, "architectures", None) or [""])[0]
    head = next((known for known in _HEADS if saved.endswith(known)), None)
    if head is None and "For" in saved:
        raise ExportError(
            f"{model}: it was saved as {saved}; exported are {', '.join(_HEADS)}, encoders, and folders of xeval tune."
        )
    auto_class = AutoModel if head is None else getattr(modeling_auto, f"AutoModel{head}")
    with quiet():
        opened = auto_class.from_pretrained(
            model, dtype=torch.float32, attn_implementation="eager"
        ).eval()
    axes = {
        None: ("batch", "tokens", "width"),
        "ForMaskedLM": ("batch", "tokens", "pieces"),
        "ForTokenClassification": ("batch", "tokens", "labels"),
        "ForSequenceClassification": ("batch", "labels"),
    }[head]
    names = tuple(config.id2label[number] for number in range(config.num_labels))
    return Graph(
        module=_Stock(opened, "last_hidden_state" if head is None else "logits"),
        inputs=_input_names(config, tokenizer),
        outputs={"hidden" if head is None else "logits": axes},
        labels=names if axes[-1] == "labels" else (),
        tokenizer=tokenizer,
        longest=longest_row(opened),
        pieces=opened.get_input_embeddings().num_embeddings,
    )


def _tuned_graph(folder: Path) -> Graph:
    tuned = read_finetuned(folder)
    part = part_of(tuned.model.head)
    if part is None:
        raise ExportError(f"{folder}: it was tuned for {tuned.task!r}, whose head cannot be exported.")  # fmt: skip
    encoder: Any = tuned.model.encoder.cpu()
    encoder.config._attn_implementation = "eager"
    pieces = tuned.pieces
    return Graph(
        module=_Tuned(encoder, tuned.model.head.cpu(), part).eval(),
        inputs=(
            *_input_names(encoder.config, pieces.tokenizer),
            *(PLACES_OF_WORDS if part.words else ()),
        ),
        outputs=part.outputs,
        labels=tuned.labels if any("labels" in axes for axes in part.outputs.values()) else (),
        tokenizer=pieces.tokenizer,
        longest=pieces.limit,
        pieces=encoder.get_input_embeddings().num_embeddings,
        about={
            "task": tuned.task,
            "pooling": tuned.protocol.pooling,
            "before": pieces.before,
            "after": pieces.after,
            "unknown": pieces.tokenizer.unk_token_id,
        },
    )


def _input_names(config: Any, tokenizer: Any) -> tuple[str, ...]:
    """Types only where model and tokenizer tell first texts from second: a model that never saw a second type must not be given one."""
    typed = (getattr(config, "type_vocab_size", 0) or 0) > 1
    return INPUTS if typed and INPUTS[2] in tokenizer.model_input_names else INPUTS[:2]


class _Stock(nn.Module):
    """A model of transformers, to one of its outputs."""

    def __init__(self, model: nn.Module, output: str) -> None:
        super().__init__()
        self.model = model
        self._output = output

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return (self.model(**dict(zip(INPUTS, inputs, strict=False)))[self._output],)


class _Tuned(nn.Module):
    """A model of xeval, to what of its head goes into the graph."""

    def __init__(self, encoder: nn.Module, head: nn.Module, part: Part) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head
        self._part = part

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        read, places = (inputs[:-2], inputs[-2:]) if self._part.words else (inputs, ())
        hidden = self.encoder(**dict(zip(INPUTS, read, strict=False))).last_hidden_state
        return self._part.in_graph(self.head, hidden, read[1], *places)


def example_inputs(graph: Graph, *, rows: int, tokens: int) -> tuple[Tensor, ...]:
    """Rows of made-up text, the second half of the second one padding, in the order of the graph's inputs."""
    random = torch.Generator().manual_seed(rows)
    ids = torch.randint(graph.pieces, (rows, tokens), generator=random)
    mask = torch.ones_like(ids)
    if rows > 1:
        mask[1, tokens // 2 :] = 0
    # The RoBERTa family counts positions from what is not padding.
    pad = graph.tokenizer.pad_token_id or 0
    ids[ids == pad] = (pad + 1) % graph.pieces
    ids[mask == 0] = pad
    types = torch.zeros_like(ids)
    types[:, tokens // 2 :] = 1
    named = {**dict(zip(INPUTS, (ids, mask, types), strict=True)), **_places(mask)}
    return tuple(named[name] for name in graph.inputs)


def _places(mask: Tensor) -> dict[str, Tensor]:
    """Words of two sub-words behind each row's first; the last row goes on with the sentence of the one before."""
    rows, tokens = mask.shape
    sentences = max(1, rows - 1)
    start = torch.arange(1, tokens - 1, 2) + tokens * torch.arange(sentences)[:, None]
    size = 1 + mask[:sentences, 2::2][:, : start.shape[1]]
    size[mask[:sentences, 1:-1:2] == 0] = 0
    if rows > 1:
        start[-1, -1] = (rows - 1) * tokens + 1
        size[-1, -1] = 2
    return {"word_start": start, "word_size": size}
