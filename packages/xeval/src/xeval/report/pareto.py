"""Score against cost, as an inline picture: which models no other beats in both."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from xeval.report.colour import ink_on_hex
from xeval.report.figures import figure
from xeval.report.markup import Markup, tag
from xeval.statistics.metrics import Score
from xeval.statistics.summary import Estimate

_WIDTH, _HEIGHT = 420, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 18, 14, 46


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


def pareto(
    points: Sequence[Point],
    *,
    title: str,
    cost_title: str,
    shown: Callable[[float], str],
    score: Score,
) -> Markup:
    """The picture.

    Args:
        points: at least one.
        title: for readers who cannot see it.
        cost_title: of the horizontal axis.
        shown: a cost in words.
        score: the metric of the vertical axis.
    """
    across = _cost_axis([p.cost for p in points])
    up = _score_axis([p.score for p in points], score)
    front = pareto_front(points, higher_is_better=score.higher_is_better)
    on_front = {p.letter for p in front}
    return tag(
        "svg",
        tag("title", title),
        tag("desc", "; ".join(_in_words(p, score, shown, on_front) for p in points)),
        _grid(across, up, cost_title, shown, score),
        _front_line(front, across, up),
        [
            _mark(p, across, up, score, shown, on_front)
            for p in sorted(points, key=lambda p: p.cost)
        ],
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
        class_="pareto",
    )


def _in_words(p: Point, score: Score, shown: Callable[[float], str], on_front: set[str]) -> str:
    place = ", on the front" if p.letter in on_front else ""
    return f"{p.letter} {p.name}: {figure(p.score.value, score)} at {shown(p.cost)}{place}"


def _grid(
    across: _Axis, up: _Axis, cost_title: str, shown: Callable[[float], str], score: Score
) -> list[Markup]:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    parts = []
    for value in up.ticks:
        y = _y(up, value)
        parts.append(tag("line", x1=_LEFT, x2=right, y1=y, y2=y, class_="grid"))
        label = f"{value:g}"
        parts.append(tag("text", label, x=_LEFT - 8, y=y + 4, text_anchor="end", class_="tick"))
    for value in across.ticks:
        x = _x(across, value)
        parts.append(tag("line", x1=x, x2=x, y1=bottom, y2=bottom + 4, class_="axis"))
        parts.append(
            tag("text", shown(value), x=x, y=bottom + 18, text_anchor="middle", class_="tick")
        )
    parts.append(tag("line", x1=_LEFT, x2=right, y1=bottom, y2=bottom, class_="axis"))
    middle = (_LEFT + right) / 2
    parts.append(
        tag("text", cost_title, x=middle, y=_HEIGHT - 6, text_anchor="middle", class_="label")
    )
    name = score.title + (", %" if score.unit == "%" else "")
    height = (_TOP + bottom) / 2
    turned = f"translate(12 {height:.1f}) rotate(-90)"
    parts.append(tag("text", name, transform=turned, text_anchor="middle", class_="label"))
    return parts


def _front_line(front: Sequence[Point], across: _Axis, up: _Axis) -> Markup:
    """A staircase: up to a model's cost, the best score is that of the model before it."""
    x, y = _x(across, front[0].cost), _y(up, front[0].score.value)
    path = f"M{x} {y}"
    for point in front[1:]:
        path += f"H{_x(across, point.cost)}V{_y(up, point.score.value)}"
    return tag("path", d=f"{path}H{_WIDTH - _RIGHT}", class_="front")


def _mark(
    p: Point,
    across: _Axis,
    up: _Axis,
    score: Score,
    shown: Callable[[float], str],
    on_front: set[str],
) -> Markup:
    x, y = _x(across, p.cost), _y(up, p.score.value)
    whisker = None
    if p.score.low is not None and p.score.high is not None:
        whisker = tag(
            "line",
            x1=x,
            x2=x,
            y1=_y(up, p.score.low),
            y2=_y(up, p.score.high),
            stroke=p.colour,
            class_="whisker",
        )
    return tag(
        "g",
        tag("title", _in_words(p, score, shown, on_front)),
        whisker,
        tag("circle", cx=x, cy=y, r=10, fill=p.colour, class_="mark"),
        tag(
            "text",
            p.letter,
            x=x,
            y=y + 4.5,
            text_anchor="middle",
            style=f"fill:{ink_on_hex(p.colour)}",
            class_="letter",
        ),
    )


def _x(axis: _Axis, value: float) -> float:
    return round(_LEFT + axis.share(value) * (_WIDTH - _LEFT - _RIGHT), 1)


def _y(axis: _Axis, value: float) -> float:
    return round(_HEIGHT - _BOTTOM - axis.share(value) * (_HEIGHT - _TOP - _BOTTOM), 1)


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


def _score_axis(scores: Sequence[Estimate], score: Score) -> _Axis:
    low = min(s.value if s.low is None else s.low for s in scores)
    high = max(s.value if s.high is None else s.high for s in scores)
    room = (high - low) * 0.2 or max(abs(high) * 0.05, 1e-3)
    low, high = max(0.0, low - room), high + room
    if score.unit == "%":
        high = min(high, 100.0)
    step = _round_step((high - low) / 5)
    return _Axis(_ticks(low, high, step), low, high, logarithmic=False)


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)


def _ticks(start: float, stop: float, step: float) -> tuple[float, ...]:
    first = math.ceil(start / step - 1e-9)
    last = math.floor(stop / step + 1e-9)
    return tuple(round(i * step, 10) for i in range(first, last + 1))
