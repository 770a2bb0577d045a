"""The report's pictures as PNG and SVG files, for papers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from xeval.report.colour import MODEL_COLOURS, cividis, hex_of, ink_on
from xeval.report.figures import figure, metric_title, scaled
from xeval.report.page import time_conditions
from xeval.statistics.result import Result
from xeval.statistics.summary import Summary, Table, summarise

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle


def write_plots(results: Iterable[Result], folder: Path | str) -> list[Path]:
    """Draw a heatmap of every table, and score against size and latency where costs are known.

    Latency is left out where it was not measured under the same conditions for all models.

    Args:
        results: as `read_results` gives them.
        folder: made when absent.

    Returns:
        The files written, PNG and SVG of each picture.

    Raises:
        XevalError: as `summarise`.
    """
    summary = summarise(results)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    columns = [("parameters", "parameters")]
    if time_conditions(summary.costs):
        columns.append(("latency_ms", "latency, ms"))
    written: list[Path] = []
    for table in summary.tables:
        if not table.cells:
            continue
        name = re.sub(r"[^A-Za-z0-9]+", "-", f"{table.task}-{table.metric}").strip("-").lower()
        written += _save(_heatmap(table), folder / f"{name}-languages")
        for column, words in columns:
            picture = _against(table, summary, column, words)
            if picture is not None:
                written += _save(picture, folder / f"{name}-{column.partition('_')[0]}")
    return written


def _save(picture: Figure, stem: Path) -> list[Path]:
    import matplotlib

    files = [stem.with_suffix(".png"), stem.with_suffix(".svg")]
    # A fixed salt and no date: the same results give the same bytes.
    with matplotlib.rc_context({"svg.hashsalt": "xeval"}):
        picture.savefig(files[0], dpi=200, metadata={"Software": None})
        picture.savefig(files[1], metadata={"Date": None})
    return files


def _new(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of its own, without the global state of pyplot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    picture = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(picture)
    return picture, picture.add_subplot()


def _heatmap(table: Table) -> Figure:
    picture, axes = _new(2.2 + 1.1 * len(table.models), 1.4 + 0.3 * len(table.places))
    values = [cell.value for cell in table.cells.values()]
    low, high = min(values), max(values)
    for y, place in enumerate(table.places):
        for x, model in enumerate(table.models):
            cell = table.cells.get((model, place))
            share = (cell.value - low) / (high - low) if cell and high > low else 1.0
            colour = cividis(share if table.score.higher_is_better else 1 - share)
            shade, ink = (hex_of(colour), ink_on(colour)) if cell else ("#ffffff", "#555555")
            axes.add_patch(_square(x, y, shade))
            text = figure(cell.value if cell else None, table.score)
            axes.text(x, y, text, ha="center", va="center", color=ink, fontsize=9)
    axes.set_xlim(-0.5, len(table.models) - 0.5)
    axes.set_ylim(len(table.places) - 0.5, -0.5)
    axes.set_xticks(
        range(len(table.models)), [_plain(m) for m in table.models], rotation=30, ha="right"
    )
    axes.set_yticks(range(len(table.places)), [_plain(p) for p in table.places])
    axes.tick_params(length=0)
    axes.set_frame_on(False)
    axes.set_title(_plain(f"{table.task}, {table.score.title}"), loc="left", fontsize=10)
    return picture


def _square(x: float, y: float, colour: str) -> Rectangle:
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=colour, edgecolor="white", linewidth=1.5)


def _against(table: Table, summary: Summary, column: str, words: str) -> Figure | None:
    shown = [
        (row, float(summary.costs[row.model][column]))
        for row in table.rows
        if row.mean and summary.costs.get(row.model, {}).get(column)
    ]
    if not shown:
        return None
    picture, axes = _new(5.0, 3.4)
    for index, (row, x) in enumerate(shown):
        assert row.mean is not None
        y, low, high = row.mean.value, row.mean.low, row.mean.high
        error = None if low is None or high is None else [[max(0, y - low)], [max(0, high - y)]]
        colour = MODEL_COLOURS[summary.models.index(row.model) % len(MODEL_COLOURS)]
        marker = "osD^vP*X"[index % 8]
        axes.errorbar(
            x, y, yerr=error, fmt=marker, color=colour, capsize=3, label=_plain(row.model)
        )
    axes.set_xlabel(words)
    axes.set_ylabel(metric_title(table.score))
    axes.set_xlim(left=0, right=1.06 * max(x for _, x in shown))
    if column == "parameters":
        axes.xaxis.set_major_formatter(lambda value, _: scaled(value))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    picture.legend(loc="outside lower center", fontsize=8, frameon=False)
    return picture


def _plain(text: str) -> str:
    """Text that matplotlib does not take for a formula."""
    return text.replace("$", r"\$")
