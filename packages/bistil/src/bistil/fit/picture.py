"""The front as a picture: worth against cost, what was tried, the budget, and the chosen one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from bistil.counted import counted
from bistil.make.page_frame import page_templates

_TITLES = {
    "parameters": "parameters (millions)",
    "bytes": "bytes in eight bits (MB)",
    "latency_ms": "milliseconds a text",
}
_UNITS = {"parameters": 1e6, "bytes": 1e6, "latency_ms": 1.0}
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 720, 400, 60, 700, 40, 345


def front_picture(record: Mapping[str, Any]) -> str:
    """An SVG of its own.

    Args:
        record: what `fit` returns.
    """
    measure = record["budget"]["measure"]
    unit, limit = _UNITS[measure], record["budget"]["limit"]
    front, trials = record["front"], record["trials"]
    costs = [row[measure] / unit for row in [*front, *trials]] + [limit / unit]
    worths = [row["predicted"] for row in front] + [row["ranked"] for row in trials]
    low, high = min(costs) / 1.15, max(costs) * 1.15
    floor, ceiling = 10 * math.floor(min(worths) / 10), max(102.0, max(worths) + 2)

    def x(cost: float) -> float:
        share = (math.log(cost / unit) - math.log(low)) / (math.log(high) - math.log(low))
        return round(_LEFT + share * (_RIGHT - _LEFT), 1)

    def y(worth: float) -> float:
        return round(_BOTTOM - (worth - floor) / (ceiling - floor) * (_BOTTOM - _TOP), 1)

    rounds = sorted({row["steps"] for row in trials})
    chosen = record.get("chosen", {}).get("shape")
    return page_templates("bistil.fit").get_template("front.svg.jinja").render(
        width=_WIDTH, height=_HEIGHT, left=_LEFT, right=_RIGHT, top=_TOP, bottom=_BOTTOM,
        title=f"worth against {_TITLES[measure]}",
        cost_title=_TITLES[measure],
        cost_ticks=[(x(tick * unit), f"{tick:g}") for tick in _ticks(low, high)],
        worth_ticks=[(y(tick), f"{tick}") for tick in range(floor, int(ceiling) - 1, 10 if ceiling - floor <= 62 else 20)],
        path="M" + "L".join(f"{x(row[measure])} {y(row['predicted'])}" for row in front),
        front=[(x(row[measure]), y(row["predicted"]), f"{words(row['shape'])}: predicted {row['predicted']:.1f}") for row in front],
        trials=[
            (x(row[measure]), y(row["ranked"]), 1 + rounds.index(row["steps"]), row["shape"] == chosen,
             f"{words(row['shape'])}: {row['ranked']:.1f} after {counted(row['steps'], 'step')}")
            for row in trials
        ],
        rounds=list(enumerate(rounds, start=1)),
        limit=x(limit),
    )  # fmt: skip


def words(shape: Mapping[str, Any]) -> str:
    """A shape in a few words."""
    return (
        f"{counted(len(shape['layers']), 'layer')}, width {shape['width']:,} in {counted(shape['heads'], 'head')}, feed-forward {shape['feed_forward']:,}, "
        f"{counted(shape['pieces'], 'piece')}"
    )


def _ticks(low: float, high: float) -> Sequence[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = [m * 10.0**p for p in powers for m in (1, 2, 3, 5, 7)]
    inside = [tick for tick in every if low <= tick <= high]
    return inside if len(inside) <= 8 else [tick for tick in inside if f"{tick:e}"[0] in "125"]
