"""How a student is extracted: everything that is not a model, a text or a folder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from bistil.errors import ExtractError
from bistil.losses.table import Sees
from bistil.losses.weights import LossWeights, require_seen, weights_for

if TYPE_CHECKING:
    from teacherzoo.encoders.layers import Strategy
    from vocabmerge import Kind

_RATES = {"sentence": (1e-3, 0.06)}  # kind to learning rate and warmup, where they are not BiStil's
_LAYERS: dict[str, Strategy] = {"sentence": "outer"}  # likewise

PAPER: Mapping[str, Any] = {"loss": LossWeights(), "layers": "last", "learning_rate": 1e-4, "warmup": 0.0}  # fmt: skip
"""Ansell et al.'s (2023) setting where another is the default of a kind of teacher: `Extraction(**PAPER)`."""

CHECKPOINTS = "checkpoints"
"""In the work folder of an extraction, what its training goes on from."""

Init = Literal["teacher", "random"]
Precision = Literal["auto", "float32", "bfloat16"]
Optimizer = Literal["adamw", "muon"]
Units = Literal["reconstruction", "taylor", "bottleneck"]

_UNITS: Units = "reconstruction"


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """How a student is extracted; the defaults are BiStil's (Ansell et al. 2023).

    Args:
        reduction: how many of the teacher's layers become one.
        layers: "last" of each block, "alternate", "bottom", "last-k", "even", "outer", or their numbers (see
            `bistil.student.layers.layer_map`); "last" unless given, of sentence encoders "outer".
        width: of the student's hidden states, a multiple of its attention heads; as the teacher's unless given. Which units
            it keeps is chosen on the text, see `bistil.student.narrow`.
        feed_forward: units of its feed-forward layers, as many in each; as the teacher's unless given.
        heads: attention heads, as many in each layer, a divisor of the width; as many as the teacher's unless given, and narrower
            where the width is.
        units: by which measure of their importance the units of a narrower student are chosen, see
            `bistil.student.importance.unit_importance`; "reconstruction" unless given.
        init: the student's first weights: the teacher's, or random ones (a model from scratch).
        loss: its terms and their weights; by default what the teacher's kind needs, see `bistil.losses.weights.weights_for`.
        threshold: keep a piece whose probability reaches this in some language; 1e-6 unless another rule is given.
        top: or: how many pieces to keep, by probability.
        budget: or: how many pieces to keep, fairly to the worst-served language.
        keep_vocabulary: or: keep it whole.
        steps: optimiser steps; 0 copies layers and trains nothing.
        batch: blocks in a batch, which is of one language; of the lines of a sentence encoder as many as make `batch` times
            `length` tokens on the average.
        length: tokens in a block; documents are packed, with a separator between them.
        learning_rate: falls linearly to 0; 1e-4 unless given, of sentence encoders 1e-3.
        warmup: share of the steps on which it rises first; none unless given, of sentence encoders 0.06.
        optimizer: "adamw", or "muon" for the weight matrices of the layers (see `teacherzoo.training.muon`), which is not to be had
            with DeepSpeed or an `optim` among `arguments`.
        prompts: put in front of the lines of a sentence encoder, in turn; the folder's default prompt, if it has one, unless given.
        mask_rate: share of the positions hidden from student and teacher alike, of running text; 0 leaves the text as it is.
        held_out_share: of each corpus, by content, for the figures in the card.
        precision: of the forward passes; "auto" is bfloat16 where the processor or GPU multiplies matrices in it, else
            float32. The student's weights are float32 all the while.
        offload: shares the teacher's weights among the processes by DeepSpeed ZeRO-3 while it teaches, for teachers that
            would not fit beside the student: "cpu", or a folder for their disk. To make the student it is opened whole once.
        seed: of masks and order, and of random weights.
        checkpoint_every: steps between checkpoints, from which an interrupted run resumes.
        arguments: further arguments of `transformers.TrainingArguments`, such as `deepspeed`.

    Raises:
        ExtractError: for a value that makes no sense.

    Example:
        >>> Extraction(reduction=3, loss=LossWeights(mlm=0.5)).steps
        200000
    """

    reduction: int = 2
    layers: Strategy | tuple[int, ...] | None = None
    width: int | None = None
    feed_forward: int | None = None
    heads: int | None = None
    units: Units | None = None
    init: Init = "teacher"
    loss: LossWeights | None = None
    threshold: float | None = None
    top: int | None = None
    budget: int | None = None
    keep_vocabulary: bool = False
    steps: int = 200_000
    batch: int = 8
    length: int = 256
    learning_rate: float | None = None
    warmup: float | None = None
    optimizer: Optimizer = "adamw"
    prompts: tuple[str, ...] = ()
    mask_rate: float = 0.15
    held_out_share: float = 0.01
    precision: Precision = "auto"
    offload: str | None = None
    seed: int = 0
    checkpoint_every: int = 5000
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, least in (("steps", 0), ("batch", 1), ("checkpoint_every", 1)):
            if getattr(self, name) < least:
                raise ExtractError(f"{name} must be at least {least}, got {getattr(self, name)!r}.")
        if self.length < 8:
            raise ExtractError(f"length must be at least 8 tokens, got {self.length!r}.")
        for name in ("mask_rate", "warmup", "held_out_share"):
            if not 0 <= (getattr(self, name) or 0.0) < 1:
                raise ExtractError(f"{name} must be in [0, 1), got {getattr(self, name)!r}.")
        if not 0 <= (self.learning_rate or 0.0) < math.inf:
            raise ExtractError(
                f"learning_rate must be a number from 0 on, got {self.learning_rate!r}."
            )
        masked = [term for term in self.weights.terms if Sees.MASKED_ROWS in term.sees]
        names = " and ".join(term.name for term in masked)
        if self.mask_rate == 0 and masked:
            raise ExtractError(
                f"mask_rate 0 hides nothing, so {names} would have no position; raise it."
            )
        for name in ("deepspeed", "optim") if self.optimizer == "muon" else ():
            if name in self.arguments:
                raise ExtractError(
                    f"The optimizer is muon, and the Trainer arguments name {name}, which brings one of its own; leave one or the other out."
                )
        for name, choices in (("init", get_args(Init)), ("precision", get_args(Precision)), ("optimizer", get_args(Optimizer)), ("units", (None, *get_args(Units)))):  # fmt: skip
            if getattr(self, name) not in choices:
                raise ExtractError(
                    f"{name} must be one of {', '.join(filter(None, choices))}, got {getattr(self, name)!r}."
                )
        if self.units is not None and not self._narrower:
            raise ExtractError(
                f"units {self.units!r} says what a narrower student keeps, and none of width, feed_forward and heads is given; give "
                "one, or leave units out."
            )
        if self.offload is not None and Sees.MASKED_ROWS in self.weights.sees_of_teacher:
            raise ExtractError(
                f"offload shares the teacher's weights, which {names} needs whole; leave the term out, or do without offload."
            )
        if self.offload is not None and "deepspeed" in self.arguments:
            raise ExtractError(
                "offload shares the teacher's weights and leaves the student to DDP; leave the DeepSpeed configuration out, "
                "or do without offload."
            )
        if not 0 <= (self.threshold or 0.0) <= 1:
            raise ExtractError(f"threshold must be from 0 to 1, got {self.threshold!r}.")
        rules = [name for name in ("threshold", "top", "budget") if getattr(self, name) is not None]
        if len(rules) + self.keep_vocabulary > 1:
            raise ExtractError(
                "Of threshold, top, budget and keep_vocabulary one can hold; leave the others out."
            )

    @property
    def weights(self) -> LossWeights:
        """`loss`, or that of a masked LM where none is given."""
        return self.loss or LossWeights()

    @property
    def _narrower(self) -> bool:
        return (self.width, self.feed_forward, self.heads) != (None, None, None)

    def decided(self, kind: Kind) -> Extraction:
        """The same with what was left open decided: loss, layers and rate by the teacher's kind, the precision by this machine.

        Raises:
            ExtractError: for terms that a teacher of this kind does not have what they see for.
        """
        from teacherzoo.training.arguments import has_bfloat16  # late: imports torch

        loss = weights_for(kind, narrow=self.width is not None) if self.loss is None else self.loss
        require_seen(loss, kind)
        if self.prompts and kind != "sentence":
            raise ExtractError(
                f"prompts stand before the lines of a sentence encoder, and this is a teacher of kind {kind.value!r}; leave them out."
            )
        precision = self.precision
        if precision == "auto":
            precision = "bfloat16" if has_bfloat16() else "float32"
        rate, warmup = _RATES.get(kind.value, (1e-4, 0.0))
        return replace(
            self,
            loss=loss,
            layers=strategy_for(kind) if self.layers is None else self.layers,
            precision=precision,
            units=(self.units or _UNITS) if self._narrower else None,
            learning_rate=rate if self.learning_rate is None else self.learning_rate,
            warmup=warmup if self.warmup is None else self.warmup,
        )

    def to_json(self) -> dict[str, Any]:
        """As plain values; widths, heads, and how units are chosen, only where they are not the teacher's."""
        stated = {**asdict(self), "loss": self.weights.to_json(), "arguments": dict(self.arguments)}
        return {
            name: value
            for name, value in stated.items()
            if value not in (None, ())
            or name not in ("width", "feed_forward", "heads", "units", "prompts")
        }


def strategy_for(kind: Kind) -> Strategy:
    """Which layers a student of a teacher of this kind takes unless one says otherwise."""
    return _LAYERS.get(kind.value, "last")
