"""What an extraction will do, known before anything is spent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bistil.counted import counted
from bistil.encoders.capture import encoder_of, family_of
from bistil.losses.table import Sees
from bistil.losses.weights import LossWeights
from bistil.multitask.tune import TunedTeacher
from xeval.cost.parameters import Parameters

_IDLE = (
    "learnt      nothing: the layers are the teacher's first ones, on which these terms are 0 before any training; take other layers, "
    "or add a term of what comes out, such as cosine"
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """An extraction in figures.

    Attributes:
        teacher: as the user named it.
        kind: of teacher and student: that of the teacher's folder, or of a classifier "reranker" or "scorer", see
            `bistil.encoders.answers.plain_kind`.
        assumed: of the kind, in sentences.
        architecture: their class.
        languages: the source first.
        pieces: of the vocabulary, before and after the trim.
        teacher_parameters: of the whole teacher, where they are.
        student_parameters: of the student, where they are.
        layers: for each of the student's layers the teacher's.
        teacher_layers: how many there are.
        tuned: the tuning of the teacher on tasks; None where it was left as it is.
        units: the teacher's hidden units that the student's states stand for, in its order; None for all.
        heads: for each of the student's layers the teacher's heads that it keeps; None for all.
        narrowed: what was made narrower, in words.
        attention: how attention is compared.
        terms: weights of the loss.
        frozen: parameters that no term reaches and that stay as they are.
        idle: whether the terms compare nothing but layers that are the teacher's own, so that there is nothing to learn.
        blocks: per language.
        steps: optimiser steps.
        tokens: positions read in all, over all processes.
    """

    teacher: str
    kind: str = "masked_lm"
    assumed: tuple[str, ...] = ()
    architecture: str
    languages: tuple[str, ...]
    pieces: tuple[int, int]
    teacher_parameters: Parameters
    student_parameters: Parameters
    layers: tuple[int, ...]
    teacher_layers: int
    tuned: TunedTeacher | None = None
    units: tuple[int, ...] | None = None
    heads: tuple[tuple[int, ...], ...] | None = None
    narrowed: tuple[str, ...] = ()
    attention: str
    terms: Mapping[str, float]
    frozen: int
    idle: bool = False
    blocks: Mapping[str, int]
    steps: int
    tokens: int

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """As sentences a person reads before the machine starts to work."""
        before, after = self.teacher_parameters, self.student_parameters
        kept = 100 * after.total / before.total
        return [
            f"teacher     {self.teacher}, {self.architecture} ({self.kind.replace('_', ' ')})",
            *(f"assumed     {words}" for words in self.assumed),
            *(f"tuned       {words}" for words in (self.tuned.sentences() if self.tuned else ())),
            f"languages   {', '.join(self.languages)}",
            f"vocabulary  {self.pieces[1]:,} of {self.pieces[0]:,} pieces",
            f"layers      {len(self.layers)} of {self.teacher_layers}: {', '.join(map(str, self.layers))}",
            *(f"narrower    {words}" for words in self.narrowed),
            f"parameters  {after.total:,} of {before.total:,} ({kept:.0f} %): embeddings {after.embeddings:,} of "
            f"{before.embeddings:,}, layers {after.body:,} of {before.body:,}, head {after.head:,}",
            f"attention   {self.attention}",
            f"loss        {' + '.join(f'{weight:g} {name}' for name, weight in self.terms.items())}"
            + (f"; {self.frozen:,} parameters that it does not reach stay as they are" if self.frozen else ""),
            *([_IDLE] if self.idle and self.steps else []),
            f"blocks      {', '.join(f'{language} {count:,}' for language, count in self.blocks.items())}",
            f"training    {counted(self.steps, 'step')}, {self.tokens:,} positions",
        ]  # fmt: skip


def nothing_to_learn(layers: Sequence[int], weights: LossWeights) -> bool:
    """Whether a student is the teacher's first layers, and nothing but these layers is compared."""
    first = tuple(layers) == tuple(range(len(layers)))
    return first and all(term.sees == Sees.MAPPED_LAYERS for term in weights.terms)


def attention_route(model: Any, terms: Mapping[str, float]) -> str:
    """How the attention of this architecture is compared, and why."""
    ways = []
    if "attention" in terms and family_of(model).needs_maps:
        kind = encoder_of(model).config.model_type
        ways.append(
            f"compared by eager maps held in memory: the scores of {kind} are more than products of queries and keys"
        )
    elif "attention" in terms:
        ways.append("compared by queries and keys, tile by tile; no map is stored")
    if "scores" in terms:
        ways.append(
            "compared before the softmax, by products of queries and keys, a layer at a time"
        )
    return "; ".join(ways) or "not compared"
