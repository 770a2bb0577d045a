"""Draws recorded benchmarks: `python benchmarks/pictures.py RESULTS.jsonl --into FOLDER`, one picture for each question.

Bars are ratios to the floor where a comparison has one, else the figures themselves, each with its 20th to 80th
percentile; a dashed line is the bar that a contender is held to. Comparisons that differ in one size alone, and were
recorded as points along it, are one curve for each contender. Nothing is measured here.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

Record = dict[str, Any]
PACKAGE_COLOUR, PEER_COLOUR, GOAL = "#00508f", "#9aa5b1", "#c44e00"
PEERS = (
    "eager",
    "dense",
    "sparse",
    "liger",
    "skeletoken",
    "textbrewer",
    "loop",
    "floor",
    "products",
    "raw",
    "bare",
    "plain",
)


def draw(records: Sequence[Record], folder: Path) -> list[Path]:
    """Write `QUESTION.png` for every question in `records`; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for question, group in groupby(
        sorted(records, key=_order), key=lambda record: record["question"]
    ):
        comparisons = [list(records) for _, records in groupby(group, key=_panel)]
        comparisons = [
            records for records in comparisons if len(records) > 1
        ]  # a lone figure is no picture
        if not comparisons:
            continue
        heights = [
            3.2 if "along" in records[0] else 0.35 * len(records) + 0.75 for records in comparisons
        ]
        figure = Figure(figsize=(8, sum(heights) + 0.4), layout="constrained")
        rows = figure.subplots(len(comparisons), 1, height_ratios=heights, squeeze=False)[:, 0]
        for axes, comparison in zip(rows, comparisons, strict=True):
            draw_panel = _curves if "along" in comparison[0] else _bars
            draw_panel(axes, comparison)
        first = comparisons[0][0]
        figure.supxlabel(
            f"{first['machine']}, {first['threads']} threads, {first['date']}",
            fontsize=7,
            color="#555",
        )
        file = folder / f"{question}.png"
        figure.savefig(file, dpi=130)
        written.append(file)
    return written


def _order(record: Record) -> tuple[str, str, float]:
    return (
        record["question"],
        json.dumps(_panel(record)[1:], sort_keys=True),
        record["shape"].get(record.get("along"), 0),
    )


def _panel(record: Record) -> tuple[str, str, str]:
    """What is drawn in one panel: one comparison, or all points along a size."""
    shape = {key: value for key, value in record["shape"].items() if key != record.get("along")}
    return record["question"], record["what"], json.dumps(shape, sort_keys=True)


def _curves(axes: Axes, points: Sequence[Record]) -> None:
    """One curve for each contender over the size that the points were recorded along."""
    first = points[0]
    size = first["along"]
    for name in dict.fromkeys(record["contender"] for record in points):
        curve = {
            record["shape"][size]: record["median"]
            for record in points
            if record["contender"] == name
        }
        (line,) = axes.plot(list(curve), list(curve.values()), "o-", ms=4, lw=1.3)
        axes.annotate(
            name,
            (list(curve)[-1], list(curve.values())[-1]),
            xytext=(5, -3),
            textcoords="offset points",
            fontsize=8,
            color=line.get_color(),
        )
    sizes = sorted({record["shape"][size] for record in points})
    axes.set_xscale("log")
    axes.set_xticks(sizes, [f"{number:,}" for number in sizes])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(size, fontsize=8)
    axes.set_ylabel(first["unit"], fontsize=8)
    shape = ", ".join(f"{key} {value}" for key, value in first["shape"].items() if key != size)
    axes.set_title(f"{first['what']}   {shape}", fontsize=8, loc="left")
    axes.tick_params(labelsize=7)
    axes.margins(x=0.12)
    axes.grid(axis="y", lw=0.4, color="#ddd")
    axes.spines[["top", "right"]].set_visible(False)


def _bars(axes: Axes, comparison: Sequence[Record]) -> None:
    first = comparison[0]
    relative = first["floor"] is not None
    shown = [record["ratio"] if relative else record for record in comparison]
    values = [spread["median"] for spread in shown]
    below = [spread["median"] - spread["low"] for spread in shown]
    above = [spread["high"] - spread["median"] for spread in shown]
    names = [record["contender"] for record in comparison]
    places = range(len(names) - 1, -1, -1)
    colours = [
        PEER_COLOUR if any(peer in name.lower() for peer in PEERS) else PACKAGE_COLOUR
        for name in names
    ]
    axes.barh(
        list(places),
        values,
        xerr=[below, above],
        color=colours,
        error_kw={"ecolor": "#444", "lw": 1},
    )
    axes.set_yticks(list(places), names, fontsize=8)
    for place, record, value in zip(places, comparison, values, strict=True):
        axes.annotate(
            f"{value:.3g}", (value, place), xytext=(4, 3), textcoords="offset points", fontsize=7
        )
        if record["bar"] is not None:
            axes.plot(
                [record["bar"]] * 2, [place - 0.42, place + 0.42], color=GOAL, ls="--", lw=1.5
            )
    shape = ", ".join(f"{key} {value}" for key, value in first["shape"].items())
    axes.set_title(f"{first['what']}   {shape}", fontsize=8, loc="left")
    axes.set_xlabel(f"times {first['floor']}" if relative else first["unit"], fontsize=8)
    axes.tick_params(axis="x", labelsize=7)
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)


def main() -> None:
    """Read the results and draw them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("--into", type=Path, required=True)
    arguments = parser.parse_args()
    lines = arguments.results.read_text(encoding="utf-8").splitlines()
    for file in draw([json.loads(line) for line in lines], arguments.into):
        print(file)


if __name__ == "__main__":
    main()
