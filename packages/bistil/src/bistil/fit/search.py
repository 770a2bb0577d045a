"""Which shapes a budget allows, which of them nothing beats, and which are tried."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

from bistil.fit.choices import Choices
from bistil.fit.config import Budget
from bistil.fit.latency import LatencyModel
from bistil.fit.parts import PartWorths
from bistil.student.shape import Shape, ShapeSizes

_SHOWN = 12


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A shape, and what is known of it before it is made.

    Attributes:
        shape: of the student.
        parameters: exactly.
        bytes: of its graph with eight-bit weights, at most.
        float_bytes: of its weights in float32, exactly.
        latency_ms: fitted.
        predicted: worth before training, in percent.
    """

    shape: Shape
    parameters: int
    bytes: int
    float_bytes: int
    latency_ms: float
    predicted: float

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def candidates_of(
    sizes: ShapeSizes, choices: Choices, parts: PartWorths, latency: LatencyModel
) -> list[Candidate]:
    """All shapes that can be put together of the choices.

    Args:
        sizes: of the model.
        choices: of widths, feed-forward units and pieces.
        parts: worth of single cuts, of whose layers a shape has one set, and of each width that number of heads which is worth more.
        latency: fitted.
    """
    places = product(parts.layers, choices.widths, choices.feed_forwards, choices.pieces)
    heads = {width: parts.best_heads(width, choices) for width in choices.widths}
    shapes = (Shape(layers=layers, width=width, heads=heads[width], feed_forward=inner, pieces=pieces) for layers, width, inner, pieces in places)  # fmt: skip
    return [candidate_of(sizes, shape, parts, latency) for shape in shapes]


def candidate_of(
    sizes: ShapeSizes, shape: Shape, parts: PartWorths, latency: LatencyModel
) -> Candidate:
    """One shape with its costs."""
    return Candidate(
        shape=shape,
        parameters=sizes.total(shape),
        bytes=sizes.eight_bit_bytes(shape),
        float_bytes=sizes.float_bytes(shape),
        latency_ms=latency.predicted(shape),
        predicted=parts.predicted(shape),
    )


def pareto_front(candidates: Iterable[Candidate], measure: str) -> list[Candidate]:
    """Those that no other equals or beats in cost and predicted worth at once, cheapest first."""
    front: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda c: (getattr(c, measure), -c.predicted, c.shape)):
        if not front or candidate.predicted > front[-1].predicted:
            front.append(candidate)
    return front


def thinned(front: Sequence[Candidate], budget: Budget) -> list[Candidate]:
    """About a dozen of a front, evenly spread over the logarithm of its cost; the last within the budget is among them."""
    if len(front) <= _SHOWN:
        return list(front)
    cost = [math.log(getattr(candidate, budget.measure)) for candidate in front]
    marks = [cost[0] + (cost[-1] - cost[0]) * n / (_SHOWN - 1) for n in range(_SHOWN)]
    chosen = {min(range(len(front)), key=lambda n: abs(cost[n] - mark)) for mark in marks}
    affordable = [n for n, c in enumerate(front) if getattr(c, budget.measure) <= budget.limit]
    return [front[n] for n in sorted(chosen | {*affordable[-1:]})]


def finalists(
    candidates: Iterable[Candidate],
    budget: Budget,
    count: int,
    *,
    measured: Callable[[Sequence[Shape]], Sequence[float]],
) -> list[Candidate]:
    """The shapes that are tried: of each depth and width the best within the budget, and of those the best.

    What single cuts tell before training is too crude to leave it at shapes that are all alike, and training gives back more
    of one part than of another (Muralidharan et al. 2024, "Compact Language Models via Pruning and Knowledge Distillation").
    Under a budget of time, the fitted one is not trusted: a shape is measured, and tried if that is within the budget.

    Args:
        candidates: of any cost.
        budget: that they must keep.
        count: how many at most.
        measured: milliseconds of shapes.
    """
    best: dict[tuple[int, int], Candidate] = {}
    for candidate in candidates:
        if getattr(candidate, budget.measure) <= budget.limit:
            place = len(candidate.shape.layers), candidate.shape.width
            if place not in best or _order(candidate) < _order(best[place]):
                best[place] = candidate
    ranked = sorted(best.values(), key=_order)
    if budget.latency is None:
        return ranked[:count]
    ranked = ranked[: 2 * count]
    times = measured([candidate.shape for candidate in ranked]) if ranked else []
    kept = [c for c, time in zip(ranked, times, strict=True) if time <= budget.latency]
    return kept[:count]


def _order(candidate: Candidate) -> tuple[Any, ...]:
    """The better first; of equals the smaller, then the lower."""
    return (-candidate.predicted, candidate.parameters, candidate.shape)
