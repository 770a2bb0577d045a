"""What of a model folder goes into an exported graph: a module from input tensors to output tensors, and their names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from bistil.encoders.answers import assumption, form_of_answers
from bistil.errors import ExportError
from bistil.export.graph.heads import Part, part_of
from bistil.export.graph.pooled import (
    INPUTS,
    Pipeline,
    open_cross_encoder,
    open_sentences,
    open_sparse,
)
from teacherzoo.encoders.kinds import PLAIN_NAMES, model_layout, open_whole
from teacherzoo.encoders.teachers import has_tokenizer, teacher_folder
from vocabmerge import Kind, Layout
from vocabmerge.encoder_folder.sentence_modules import Module
from xeval.encoder import longest_row, open_tokenizer
from xeval.finetune.checkpoint import read_finetuned

PLACES_OF_WORDS = ("word_start", "word_size")
_ROWS = ("batch", "sequence")
_OUTPUTS: dict[Kind, dict[str, tuple[str, ...]]] = {
    Kind.HEADLESS: {"last_hidden_state": (*_ROWS, "width")},
    Kind.MASKED_LM: {"logits": (*_ROWS, "vocabulary")},
    Kind.TOKEN_CLASSIFIER: {"logits": (*_ROWS, "labels")},
    Kind.CLASSIFIER: {"logits": ("batch", "labels")},
    Kind.QUESTION_ANSWERING: {"start_logits": _ROWS, "end_logits": _ROWS},
}
_PIPELINES = {Kind.SENTENCE: open_sentences, Kind.SPARSE: open_sparse}


@dataclass(frozen=True, kw_only=True)
class Graph:
    """What is exported.

    Attributes:
        kind: of the folder; None for a model tuned by xeval, whose task stands in `about`.
        folder: where the model lies.
        module: the inputs to a tuple of tensors.
        inputs: their names.
        outputs: names of these, and what the axes of each are.
        labels: names of the last axis; empty where it has none.
        tokenizer: of the model.
        longest: tokens that it reads at most.
        pieces: rows of its embedding.
        pairs: whether it scores pairs of texts, as a reranker does.
        several_labels: whether its labels do not exclude one another.
        regression: whether its logits are numbers that stand for themselves.
        assumed: of what it is, in sentences.
        modules: of sentence-transformers, in order, with their folders and files; empty for other models.
        prompts: of a model of sentence-transformers, name to text.
        default_prompt: what stands in front of every text, of a pair in front of the first, unless another prompt is named; "" for nothing.
        leaves_prompt_out: whether pooling leaves prompts out, of which the graph knows those in `prompts` alone.
        similarity: by which the model compares vectors: "cosine", "dot", "euclidean" or "manhattan".
        about: of a model tuned by xeval, what one who serves it must know.
    """

    kind: Kind | None
    folder: Path
    module: nn.Module
    inputs: tuple[str, ...]
    outputs: Mapping[str, tuple[str, ...]]
    labels: tuple[str, ...]
    tokenizer: Any
    longest: int
    pieces: int
    pairs: bool = False
    several_labels: bool = False
    regression: bool = False
    assumed: tuple[str, ...] = ()
    modules: tuple[Module, ...] = ()
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str = ""
    leaves_prompt_out: bool = False
    similarity: str = "cosine"
    about: Mapping[str, Any] = field(default_factory=lambda: {"task": None, "pooling": None})


def open_graph(model: str) -> Graph:
    """Open a folder as what will be exported.

    Args:
        model: a folder, or a name on the Hub.

    Raises:
        ExportError: for a folder without tokenizer, a kind of model that has no graph, or modules that cannot be one.
        TeacherError: for weights that are missing or cannot be read.
        VocabularyError: for a folder that is not understood.
        XevalError: for a tuned folder that cannot be read.
    """
    folder = Path(model) if Path(model).is_dir() else teacher_folder(model)
    if (folder / "xeval.json").is_file():
        _require_tokenizer(folder)
        return _tuned_graph(folder)
    layout = model_layout(folder)
    _require_tokenizer(folder / layout.tokenizer)
    if layout.kind in _PIPELINES:
        return _pipeline_graph(layout, _PIPELINES[layout.kind](layout))
    if layout.reranker or (layout.kind is Kind.CLASSIFIER and layout.modules):
        return _pipeline_graph(layout, open_cross_encoder(layout))
    if layout.kind not in _OUTPUTS:
        raise ExportError(
            f"{model}: it is {PLAIN_NAMES[layout.kind]}; exported are encoders without a head, sentence and sparse encoders, "
            "rerankers, models with a head for masked words, sequences, tokens or questions, and folders of xeval tune."
        )
    return _stock_graph(layout)


def _require_tokenizer(folder: Path) -> None:
    if not has_tokenizer(folder):
        raise ExportError(
            f"{folder}: there is no tokenizer (tokenizer.json), and nobody could serve the graph without; save the model's own "
            "tokenizer into the folder, AutoTokenizer.from_pretrained(…).save_pretrained(folder)."
        )


def _pipeline_graph(layout: Layout, opened: Pipeline) -> Graph:
    config = opened.encoder.config
    labelled = layout.kind is Kind.CLASSIFIER and not layout.reranker
    form = form_of_answers(config.problem_type, config.num_labels) if labelled else "labels"
    if not opened.tokenizer.is_fast:
        raise ExportError(
            f"{layout.folder}: expected a fast tokenizer (a tokenizer.json), which programs without torch read, got "
            f"{type(opened.tokenizer).__name__}; convert it first."
        )
    return Graph(
        kind=layout.kind,
        folder=layout.folder,
        module=opened.module.eval(),
        inputs=_input_names(config, opened.tokenizer),
        outputs=opened.outputs,
        labels=_labels(config) if layout.kind is Kind.CLASSIFIER else (),
        tokenizer=opened.tokenizer,
        longest=min(opened.longest, longest_row(opened.encoder)),
        pieces=opened.encoder.get_input_embeddings().num_embeddings,
        pairs=bool(layout.reranker),
        several_labels=form == "several" or opened.several_labels,
        regression=form == "numbers",
        assumed=tuple(assumption(layout)),
        modules=layout.modules,
        prompts=opened.prompts,
        default_prompt=opened.default_prompt,
        leaves_prompt_out=opened.leaves_prompt_out,
        similarity=opened.similarity,
    )


def _stock_graph(layout: Layout) -> Graph:
    tokenizer = open_tokenizer(str(layout.folder / layout.tokenizer))
    model = open_whole(layout)
    model.set_attn_implementation("eager")
    outputs = _OUTPUTS[layout.kind]
    labelled = any("labels" in axes for axes in outputs.values())
    form = form_of_answers(model.config.problem_type, model.config.num_labels) if labelled else "labels"  # fmt: skip
    return Graph(
        kind=layout.kind,
        folder=layout.folder,
        module=_Stock(model, tuple(outputs)),
        inputs=_input_names(model.config, tokenizer),
        outputs=outputs,
        labels=_labels(model.config) if labelled else (),
        tokenizer=tokenizer,
        longest=min(longest_row(model), tokenizer.model_max_length),
        pieces=model.get_input_embeddings().num_embeddings,
        several_labels=form == "several",
        regression=form == "numbers",
    )  # fmt: skip


def _tuned_graph(folder: Path) -> Graph:
    tuned = read_finetuned(folder)
    part = part_of(tuned.model.head)
    if part is None:
        raise ExportError(f"{folder}: it was tuned for {tuned.task!r}, whose head cannot be exported.")  # fmt: skip
    encoder: Any = tuned.model.encoder.cpu()
    encoder.config._attn_implementation = "eager"
    pieces = tuned.pieces
    return Graph(
        kind=None,
        folder=folder,
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


def _labels(config: Any) -> tuple[str, ...]:
    return tuple(config.id2label[number] for number in range(config.num_labels))


def _input_names(config: Any, tokenizer: Any) -> tuple[str, ...]:
    """Types only where model and tokenizer tell first texts from second: a model that never saw a second type must not be given one."""
    typed = (getattr(config, "type_vocab_size", 0) or 0) > 1
    return INPUTS if typed and INPUTS[2] in tokenizer.model_input_names else INPUTS[:2]


class _Stock(nn.Module):
    """A model of transformers, to some of its outputs."""

    def __init__(self, model: nn.Module, outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self._outputs = outputs

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        outputs = self.model(**dict(zip(INPUTS, inputs, strict=False)))
        return tuple(outputs[name] for name in self._outputs)


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
