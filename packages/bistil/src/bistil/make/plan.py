"""How deep the student is: asked for, or as deep as its size allows."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bistil.encoders.answers import assumption, plain_kind
from bistil.errors import MakeError
from bistil.extract.config import strategy_for
from bistil.extract.plan import nothing_to_learn
from bistil.losses.weights import weights_for
from bistil.make.config import Making
from bistil.student.shape import ShapeSizes
from teacherzoo.encoders.kinds import encoder_folder, model_layout
from teacherzoo.encoders.layers import spread_layers
from teacherzoo.encoders.teachers import longest_text, read_tokenizer
from vocabmerge import Kind, Layout, read_layout
from xeval.cost.parameters import parameters_of

KINDS: dict[str, str] = {
    Kind.SENTENCE: "sentence encoder",
    Kind.SPARSE: "sparse encoder",
    Kind.HEADLESS: "encoder",
    Kind.CLASSIFIER: "classifier",
    "reranker": "reranker",
    "scorer": "scorer of texts",
    Kind.TOKEN_CLASSIFIER: "token classifier",
    Kind.MASKED_LM: "masked language model",
}

_IDLE = (
    "nothing to learn: the layers are the model's first ones, on which the terms for its kind are 0 before any training; ask for another "
    "number of layers, or for a term of what comes out, such as cosine, by `bistil extract --term`"
)
_IN_BATCHES = (Kind.SENTENCE, Kind.SPARSE, Kind.CLASSIFIER)
_SPLADE = (("Transformer", "SpladePooling"), ("MLMTransformer", "SpladePooling"))


@dataclass(frozen=True, kw_only=True)
class MakePlan:
    """What will be made of a trimmed model.

    Attributes:
        kind: of the model.
        words: for it, such as "sentence encoder".
        assumed: of it, in sentences.
        layers: for each of the student's layers the model's.
        depth: layers of the model.
        whole: parameters of the model.
        trimmed: of the trimmed one.
        student: of the student, by the number of its layers.
        tokens: that training reads at most.
        idle: whether the terms compare nothing but layers that are the model's own, so that there is nothing to learn.
    """

    kind: Kind
    words: str
    assumed: tuple[str, ...]
    layers: tuple[int, ...]
    depth: int
    whole: int
    trimmed: int
    student: int
    tokens: int
    idle: bool = False

    def lines(self) -> list[str]:
        """For the terminal."""
        return [
            *self.assumed,
            f"a {self.words} of {self.whole:,} parameters; its vocabulary trimmed, {self.trimmed:,}",
            f"a student of {len(self.layers)} of its {self.depth} layers, {self.student:,}",
            f"training on at most {self.tokens:,} tokens",
            *([_IDLE] if self.idle else []),
        ]

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {**asdict(self), "kind": self.kind.value}


def kind_of(layout: Layout) -> Kind:
    """The kind of a model that `make` can make smaller and judge.

    Args:
        layout: of the model's folder.

    Raises:
        MakeError: for another.
    """
    if layout.kind not in KINDS:
        raise MakeError(
            f"{layout.folder}: a {layout.kind.value.replace('_', ' ')} model is none that make can judge; trim it with `vocabmerge trim`, "
            f"or take a {', a '.join(KINDS.values())}."
        )
    names = tuple(module.name for module in layout.modules)
    if layout.kind is Kind.SPARSE and names not in _SPLADE:
        raise MakeError(
            f"{layout.folder}: a sparse encoder of {', '.join(names)}; a student is made of a masked language model with SpladePooling "
            "behind it alone. Trim this one with `vocabmerge trim`, which keeps all of its modules."
        )
    return layout.kind


def require_rows(layout: Layout, length: int) -> None:
    """Refuse rows that are longer than a model reads, and a tokenizer that cannot pad them where answers are asked in batches.

    Args:
        layout: of the model's folder.
        length: tokens of a row.

    Raises:
        MakeError: naming the limit, or what the tokenizer lacks.
        TeacherError: for a folder of several encoders or of none.
    """
    from transformers import AutoConfig

    encoder = encoder_folder(layout)
    tokenizer = read_tokenizer(layout.folder / layout.tokenizer, layout.folder, needs_mask=False)
    config = AutoConfig.from_pretrained(encoder, trust_remote_code=False)
    if length > (longest := longest_text(config, tokenizer)):
        raise MakeError(
            f"length {length:,} is beyond the {longest:,} tokens that {layout.folder} reads; choose a smaller one."
        )
    if layout.kind in _IN_BATCHES and tokenizer.pad_token is None:
        raise MakeError(
            f"{layout.folder}: its tokenizer names no padding token, without which neither it nor a student can be asked several texts at "
            'once; name one of its pieces as "pad_token" in tokenizer_config.json.'
        )


def plan(whole: Path, trimmed: Path, making: Making) -> MakePlan:
    """Which layers, and what becomes of the parameters.

    Args:
        whole: the model's folder.
        trimmed: the same with the vocabulary of the languages.
        making: what is asked for.

    Raises:
        MakeError: for a size that one layer exceeds, or more layers than there are.
    """
    sizes = ShapeSizes(model_layout(trimmed))
    depth = len(sizes.shape.layers)
    count = making.layers or depth // 2 or 1
    if making.size is not None:
        count = _deepest(sizes, making.size)
    if count > depth:
        raise MakeError(f"{count} layers are asked for, and the model has {depth}; ask for fewer.")
    layout = read_layout(whole)
    kind = kind_of(layout)
    spread = spread_layers(depth, count, strategy_for(kind))
    layers = (0, *spread[1:]) if sizes.first_layer_pinned else spread
    return MakePlan(
        kind=kind,
        words=KINDS[plain_kind(layout)],
        assumed=tuple(assumption(layout)),
        layers=layers,
        depth=depth,
        whole=parameters_of(whole).total,
        trimmed=parameters_of(trimmed).total,
        student=_with_layers(sizes, count),
        tokens=making.steps * making.batch * making.length,
        idle=nothing_to_learn(layers, weights_for(kind)),
    )


def _with_layers(sizes: ShapeSizes, count: int) -> int:
    return sizes.parameters(replace(sizes.shape, layers=sizes.shape.layers[:count])).total


def _deepest(sizes: ShapeSizes, size: int) -> int:
    fitting = [n + 1 for n in sizes.shape.layers if _with_layers(sizes, n + 1) <= size]
    if not fitting:
        least = sizes.parameters(replace(sizes.shape, layers=(0,)))
        raise MakeError(
            f"size {size:,}: with one layer and these languages' pieces the model has {least.total:,} parameters already, "
            f"{least.embeddings:,} of them embeddings; allow more, or keep fewer pieces by a lower coverage."
        )
    return fitting[-1]
