"""What the tables of the page show, and in which order and colour."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from xeval.report.colour import MODEL_COLOURS, cividis, hex_of, ink_on, ink_on_hex
from xeval.report.figures import letter
from xeval.statistics.metrics import Metric
from xeval.statistics.summary import ModelScore, Summary, Table


@dataclass(frozen=True)
class Badge:
    """What marks a model in tables and pictures."""

    letter: str
    colour: str

    @property
    def ink(self) -> str:
        """Black or white, for what is written on its colour."""
        return ink_on_hex(self.colour)


def badges_of(summary: Summary) -> dict[str, Badge]:
    """A letter and a colour for each model."""
    return {
        model: Badge(letter(i), MODEL_COLOURS[i % len(MODEL_COLOURS)])
        for i, model in enumerate(summary.models)
    }


def name_parts(name: str) -> list[str]:
    """A name in the parts between which it may be broken, as names of models are long and have no spaces."""
    return re.split(r"(?<=[-_/.@])", name)


def best_first(table: Table) -> list[str]:
    """Models by their means, those without one last."""
    sign = -1 if table.score.higher_is_better else 1
    means = {row.model: sign * row.mean.value for row in table.rows if row.mean}
    return sorted(table.models, key=lambda model: means.get(model, float("inf")))


def best_first_of_all(summary: Summary, tasks: Sequence[Sequence[Table]]) -> list[str]:
    """All models, in the order of the first task."""
    order = best_first(tasks[0][0])
    return [*order, *(model for model in summary.models if model not in order)]


def row_of(table: Table, model: str) -> ModelScore | None:
    """The row of a model, where it has one."""
    return next((row for row in table.rows if row.model == model), None)


def any_has(costs: Mapping[str, Mapping[str, object]], column: str) -> bool:
    """Whether any model has this cost."""
    return any(cost.get(column) is not None for cost in costs.values())


@dataclass(frozen=True)
class Shade:
    """The colour of a cell, and of what is written on it."""

    colour: str
    ink: str


def shade(value: float, score: Metric, low: float, high: float) -> Shade:
    """The colour of a value between the lowest and the highest: the better the yellower."""
    share = (value - low) / (high - low) if high > low else 1.0
    colour = cividis(share if score.higher_is_better else 1 - share)
    return Shade(hex_of(colour), ink_on(colour))


GRADIENT = [hex_of(cividis(i / 12)) for i in range(13)]


@dataclass(frozen=True)
class IntervalScale:
    """The scale that the intervals of a table share, in the units of their pictures."""

    start: float
    stop: float
    width: int = 144

    def x(self, value: float) -> float:
        """Where a value lies in a picture, six units within its ends."""
        return round(6 + (value - self.start) / (self.stop - self.start) * (self.width - 12), 1)


def interval_scale(table: Table) -> IntervalScale:
    """A scale on which all intervals of a table have room."""
    means = [row.mean for row in table.rows if row.mean]
    ends = [x for m in means for x in (m.low, m.high, m.value) if x is not None] or [0.0, 1.0]
    room = (max(ends) - min(ends)) * 0.06 or 1.0
    score = table.score
    return IntervalScale(max(score.lowest, min(ends) - room), min(score.highest, max(ends) + room))
