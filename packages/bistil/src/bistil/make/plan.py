"""How deep the student is: asked for, or as deep as its size allows."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bistil.errors import MakeError
from bistil.extract.config import strategy_for
from bistil.make.config import Making
from teacherzoo.encoders.layers import spread_layers
from vocabmerge import Kind, read_layout
from xeval.cost.parameters import Parameters, parameters_of

KINDS = {
    Kind.SENTENCE: "sentence encoder",
    Kind.HEADLESS: "encoder",
    Kind.CLASSIFIER: "classifier",
    Kind.TOKEN_CLASSIFIER: "token classifier",
    Kind.MASKED_LM: "masked language model",
}


@dataclass(frozen=True, kw_only=True)
class MakePlan:
    """What will be made of a trimmed model.

    Attributes:
        kind: of the model.
        layers: for each of the student's layers the model's.
        depth: layers of the model.
        whole: parameters of the model.
        trimmed: of the trimmed one.
        student: of the student, by the number of its layers.
        tokens: that training reads at most.
    """

    kind: Kind
    layers: tuple[int, ...]
    depth: int
    whole: int
    trimmed: int
    student: int
    tokens: int

    @property
    def kind_in_words(self) -> str:
        """Such as "sentence encoder"."""
        return KINDS[self.kind]

    def lines(self) -> list[str]:
        """For the terminal."""
        return [
            f"a {self.kind_in_words} of {self.whole:,} parameters; its vocabulary trimmed, {self.trimmed:,}",
            f"a student of {len(self.layers)} of its {self.depth} layers, {self.student:,}",
            f"training on at most {self.tokens:,} tokens",
        ]

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {**asdict(self), "kind": self.kind.value}


def kind_of(folder: Path) -> Kind:
    """The kind of a model that `make` can make smaller and judge.

    Raises:
        MakeError: for another.
    """
    kind = read_layout(folder).kind
    if kind not in KINDS:
        raise MakeError(
            f"{folder}: a {kind.value.replace('_', ' ')} model is none that make can judge; trim it with `vocabmerge trim`, "
            f"or take a {', a '.join(KINDS.values())}."
        )
    return kind


def plan(whole: Path, trimmed: Path, making: Making) -> MakePlan:
    """Which layers, and what becomes of the parameters.

    Args:
        whole: the model's folder.
        trimmed: the same with the vocabulary of the languages.
        making: what is asked for.

    Raises:
        MakeError: for a size that one layer exceeds, or more layers than there are.
    """
    cut = parameters_of(trimmed)
    depth, pinned = _depth_of(trimmed)
    count = making.layers or depth // 2 or 1
    if making.size is not None:
        count = _deepest(cut, depth, making.size)
    if count > depth:
        raise MakeError(f"{count} layers are asked for, and the model has {depth}; ask for fewer.")
    kind = kind_of(whole)
    spread = spread_layers(depth, count, strategy_for(kind))
    return MakePlan(
        kind=kind,
        layers=(0, *spread[1:]) if pinned else spread,
        depth=depth,
        whole=parameters_of(whole).total,
        trimmed=cut.total,
        student=_with_layers(cut, depth, count),
        tokens=making.steps * making.batch * making.length,
    )


def _depth_of(folder: Path) -> tuple[int, str]:
    """Layers of a model folder, and why the first must stay the first, empty where it need not."""
    from transformers import AutoConfig

    from teacherzoo.encoders.families import known_family

    config = AutoConfig.from_pretrained(folder / read_layout(folder).transformers[0])
    family = known_family(config)
    return int(getattr(config, family.depth)), family.first_layer_pinned


def _with_layers(parameters: Parameters, depth: int, count: int) -> int:
    return parameters.total - parameters.body + parameters.body * count // depth


def _deepest(parameters: Parameters, depth: int, size: int) -> int:
    fitting = [n for n in range(1, depth + 1) if _with_layers(parameters, depth, n) <= size]
    if not fitting:
        least = _with_layers(parameters, depth, 1)
        raise MakeError(
            f"size {size:,}: with one layer and these languages' pieces the model has {least:,} parameters already, "
            f"{parameters.embeddings:,} of them embeddings; allow more, or keep fewer pieces by a lower coverage."
        )
    return fitting[-1]
