"""Score against cost: which models no other beats in both, and where everything stands in the picture."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from xeval.report.colour import ink_on_hex
from xeval.report.figures import figure, metric_title
from xeval.statistics.metrics import Metric
from xeval.statistics.summary import Estimate


@dataclass(frozen=True, kw_only=True)
class Point:
    """One model in the picture."""

    letter: str
    name: str
    colour: str
    cost: float
    score: Estimate


@dataclass(frozen=True)
class _Axis:
    """From values to places, with the ticks between."""

    ticks: tuple[float, ...]
    start: float
    stop: float
    logarithmic: bool

    def share(self, value: float) -> float:
        """Where a value lies, from 0 to 1."""
        if self.logarithmic:
            value, start, stop = math.log(value), math.log(self.start), math.log(self.stop)
        else:
            start, stop = self.start, self.stop
        return (value - start) / (stop - start)


def pareto_front(points: Sequence[Point], *, higher_is_better: bool) -> list[Point]:
    """The points that no other equals or beats in cost and score at once, cheapest first."""
    sign = 1 if higher_is_better else -1
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p.cost, -sign * p.score.value)):
        if not front or sign * point.score.value > sign * front[-1].score.value:
            front.append(point)
    return front


@dataclass(frozen=True)
class Frame:
    """The picture, and the field within it that the axes enclose."""

    width: int = 420
    height: int = 270
    left: int = 58
    right: int = 402
    top: int = 14
    bottom: int = 224


@dataclass(frozen=True)
class Tick:
    """A place on an axis, and what is written there."""

    place: float
    label: str


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A model in the picture: where it stands, and what is said of it."""

    letter: str
    colour: str
    ink: str
    cost: float
    x: float
    y: float
    whisker: tuple[float, float] | None
    words: str


@dataclass(frozen=True, kw_only=True)
class Plot:
    """All that the picture shows, in its units."""

    caption: str
    title: str
    cost_title: str
    score_title: str
    cost_ticks: tuple[Tick, ...]
    score_ticks: tuple[Tick, ...]
    points: tuple[Mark, ...]
    front_path: str
    frame: Frame


def pareto(
    points: Sequence[Point],
    *,
    caption: str,
    title: str,
    cost_title: str,
    shown: Callable[[float], str],
    score: Metric,
) -> Plot:
    """The picture.

    Args:
        points: at least one.
        caption: what stands above it.
        title: for readers who cannot see it.
        cost_title: of the horizontal axis.
        shown: a cost in words.
        score: the metric of the vertical axis.
    """
    frame = Frame()
    across = _cost_axis([p.cost for p in points])
    up = _score_axis([p.score for p in points], score)
    front = pareto_front(points, higher_is_better=score.higher_is_better)

    def x(cost: float) -> float:
        return round(frame.left + across.share(cost) * (frame.right - frame.left), 1)

    def y(value: float) -> float:
        return round(frame.bottom - up.share(value) * (frame.bottom - frame.top), 1)

    def mark(p: Point) -> Mark:
        place = ", on the front" if p in front else ""
        low, high = p.score.low, p.score.high
        return Mark(
            letter=p.letter,
            colour=p.colour,
            ink=ink_on_hex(p.colour),
            cost=p.cost,
            x=x(p.cost),
            y=y(p.score.value),
            whisker=None if low is None or high is None else (y(low), y(high)),
            words=f"{p.letter} {p.name}: {figure(p.score.value, score)} at {shown(p.cost)}{place}",
        )

    # A staircase: up to a model's cost, the best score is that of the model before it.
    first, *rest = front
    steps = "".join(f"H{x(p.cost)}V{y(p.score.value)}" for p in rest)
    return Plot(
        caption=caption,
        title=title,
        cost_title=cost_title,
        score_title=metric_title(score),
        cost_ticks=tuple(Tick(x(value), shown(value)) for value in across.ticks),
        score_ticks=tuple(Tick(y(value), f"{value:g}") for value in up.ticks),
        points=tuple(map(mark, points)),
        front_path=f"M{x(first.cost)} {y(first.score.value)}{steps}H{frame.right}",
        frame=frame,
    )


def _cost_axis(costs: Sequence[float]) -> _Axis:
    """From zero where costs are alike, logarithmic where they span more than a factor of ten."""
    low, high = min(costs), max(costs)
    if low > 0 and high / low > 10:
        start, stop = low / 1.5, high * 1.5
        powers = range(math.floor(math.log10(start)), math.ceil(math.log10(stop)) + 1)
        ticks = tuple(m * 10.0**p for p in powers for m in (1, 3) if start <= m * 10.0**p <= stop)
        return _Axis(ticks, start, stop, logarithmic=True)
    step = _round_step(high * 1.12 / 4 or 1.0)
    stop = max(high * 1.12, step)
    return _Axis(_ticks(0.0, stop, step), 0.0, stop, logarithmic=False)


def _score_axis(scores: Sequence[Estimate], score: Metric) -> _Axis:
    low = min(s.value if s.low is None else s.low for s in scores)
    high = max(s.value if s.high is None else s.high for s in scores)
    room = (high - low) * 0.2 or max(abs(high) * 0.05, 1e-3)
    low, high = max(score.lowest, low - room), min(score.highest, high + room)
    step = _round_step((high - low) / 5)
    return _Axis(_ticks(low, high, step), low, high, logarithmic=False)


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)


def _ticks(start: float, stop: float, step: float) -> tuple[float, ...]:
    first = math.ceil(start / step - 1e-9)
    last = math.floor(stop / step + 1e-9)
    return tuple(round(i * step, 10) for i in range(first, last + 1))
