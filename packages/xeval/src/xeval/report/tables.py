"""The tables of the page: overview, models of a task, languages of a task."""

import re
from collections.abc import Iterable, Mapping

from xeval.report.colour import cividis, hex_of, ink_on, ink_on_hex
from xeval.report.figures import (
    NOTHING,
    figure,
    interval,
    megabytes,
    milliseconds,
    scaled,
)
from xeval.report.markup import Markup, tag
from xeval.statistics.metrics import Score
from xeval.statistics.summary import Estimate, ModelScore, Summary, Table

Badges = Mapping[str, tuple[str, str]]
"""For each model, its letter and its colour."""


def model_name(model: str, badges: Badges) -> Markup:
    """A model's badge and name."""
    letter, colour = badges[model]
    badge = tag(
        "span", letter, class_="badge", style=f"background:{colour};color:{ink_on_hex(colour)}"
    )
    return tag("span", badge, tag("span", _breakable(model), class_="name"), class_="model")


def _breakable(name: str) -> list[str | Markup]:
    """A name that may be broken after its separators, as names of models are long and have no spaces."""
    parts = re.split(r"(?<=[-_/.@])", name)
    return [part for piece in parts for part in (piece, tag("wbr"))][:-1]


def overview(summary: Summary, primary: Iterable[Table], badges: Badges, *, timed: bool) -> Markup:
    """Models in rows; the mean of every task and the costs in columns."""
    primary = list(primary)
    heads = [_head("Model", kind="text", first="ascending")]
    for i, table in enumerate(primary):
        heads.append(
            _head(table.task, _metric(table.score), best_first=table.score, sorted_=i == 0)
        )
    costs = summary.costs
    heads += [_head("Parameters", "of them embeddings")] if _any(costs, "parameters") else []
    heads += [_head("Size", "weights on disk")] if _any(costs, "bytes") else []
    heads += [_head("Operations", "per example")] if _any(costs, "flops") else []
    heads += [_head("Latency", "median")] if timed else []
    order = _best_first(primary[0]) if primary else []
    rows = []
    for model in [*order, *(m for m in summary.models if m not in order)]:
        cells = [tag("th", model_name(model, badges), scope="row", data_v=model)]
        for table in primary:
            row = next((r for r in table.rows if r.model == model), None)
            cells.append(_mean_cell(row, table))
        cost = costs.get(model, {})
        if _any(costs, "parameters"):
            embeddings = cost.get("embedding_parameters")
            small = scaled(embeddings) if embeddings is not None else None
            cells.append(_number(cost.get("parameters"), scaled(cost.get("parameters")), small))
        if _any(costs, "bytes"):
            cells.append(_number(cost.get("bytes"), megabytes(cost.get("bytes"))))
        if _any(costs, "flops"):
            cells.append(_number(cost.get("flops"), scaled(cost.get("flops"))))
        if timed:
            cells.append(_number(cost.get("latency_ms"), milliseconds(cost.get("latency_ms"))))
        rows.append(tag("tr", cells))
    return _scrolled("Overview", _table(heads, rows))


def models_table(table: Table, badges: Badges) -> Markup:
    """Models in rows; mean with interval, source, transfer gap and worst language in columns."""
    score = table.score
    heads = [
        _head("Model", kind="text", first="ascending"),
        _head("Mean", f"of {len(table.common)} test sets", best_first=score, sorted_=True),
        tag("th", "95 % interval", _range_scale(table), scope="col", class_="wide"),
    ]
    transfer = any(row.gap is not None for row in table.rows)
    if transfer:
        heads.append(_head("Source", table.source, best_first=score))
        heads.append(
            _head(
                "Transfer gap",
                "source − mean of others" if score.higher_is_better else "mean of others − source",
                first="ascending",
            )
        )
    heads.append(_head("Worst", best_first=score))
    heads.append(_head("Seeds", first="descending"))
    by_model = {row.model: row for row in table.rows}
    rows = []
    for model in _best_first(table):
        row = by_model[model]
        cells = [
            tag("th", model_name(model, badges), scope="row", data_v=model),
            _mean_cell(row, table),
            tag("td", _range(row.mean, table, badges[model][1]), class_="wide"),
        ]
        if transfer:
            cells.append(_number(row.source, figure(row.source, score)))
            cells.append(_number(row.gap, figure(row.gap, score)))
        worst = row.worst
        cells.append(
            _number(worst and worst[1], figure(worst and worst[1], score), worst and worst[0])
        )
        seeds = row.mean.seeds if row.mean else 0
        cells.append(_number(seeds, str(seeds)))
        rows.append(tag("tr", cells))
    return _scrolled(f"{table.task}: models", _table(heads, rows))


def heatmap(table: Table, badges: Badges) -> Markup:
    """Languages in rows, models in columns, the better the yellower."""
    score = table.score
    heads = [_head("Language", kind="text", first="ascending", sorted_=True)]
    heads += [_head(model_name(model, badges), best_first=score) for model in table.models]
    low, high = _extremes(table)
    rows = []
    for place, language in table.places.items():
        head = tag("th", _language(place, language, table), scope="row", data_v=place)
        cells = [
            _heat_cell(table.cells.get((model, place)), score, low, high) for model in table.models
        ]
        rows.append(tag("tr", head, cells))
    return Markup(
        _scrolled(f"{table.task}: languages and models", _table(heads, rows, "heat"))
        + _legend(score, low, high)
    )


def _language(place: str, language: str, table: Table) -> Markup:
    marks = []
    if language == table.source:
        marks.append(tag("span", "source", class_="tagged"))
    if place not in table.common:
        marks.append(tag("span", "not in the mean", class_="tagged"))
    long = tag("span", class_="long", data_language=language)
    return tag("span", tag("span", place, class_="code"), long, marks, class_="lang")


def _heat_cell(cell: Estimate | None, score: Score, low: float, high: float) -> Markup:
    if cell is None:
        return tag("td", NOTHING, class_="none", title="not run")
    share = (cell.value - low) / (high - low) if high > low else 1.0
    colour = cividis(share if score.higher_is_better else 1 - share)
    return tag(
        "td",
        figure(cell.value, score),
        tag("small", interval(cell, score)) if cell.low is not None else None,
        style=f"background:{hex_of(colour)};color:{ink_on(colour)}",
        data_v=repr(cell.value),
    )


def _legend(score: Score, low: float, high: float) -> Markup:
    stops = ",".join(hex_of(cividis(i / 12)) for i in range(13))
    ends = (low, high) if score.higher_is_better else (high, low)
    return tag(
        "div",
        tag("span", f"worse {figure(ends[0], score)}"),
        tag("i", style=f"background:linear-gradient(90deg,{stops})"),
        tag("span", f"{figure(ends[1], score)} better"),
        class_="legend",
    )


def _extremes(table: Table) -> tuple[float, float]:
    values = [cell.value for cell in table.cells.values()]
    return min(values), max(values)


def _best_first(table: Table) -> list[str]:
    sign = -1 if table.score.higher_is_better else 1
    return sorted(
        table.models,
        key=lambda m: next(
            (sign * r.mean.value for r in table.rows if r.model == m and r.mean), float("inf")
        ),
    )


def _mean_cell(row: ModelScore | None, table: Table) -> Markup:
    if row is None or row.mean is None:
        return _number(None, NOTHING)
    best = row.model in table.best() and len(table.rows) > 1
    star = tag("span", "★", class_="star", title="best mean") if best else None
    small = tag("small", interval(row.mean, table.score)) if row.mean.low is not None else None
    return tag(
        "td",
        star,
        figure(row.mean.value, table.score),
        small,
        data_v=repr(row.mean.value),
        class_="best" if best else None,
    )


_RANGE = 144


def _range_ends(table: Table) -> tuple[float, float]:
    means = [row.mean for row in table.rows if row.mean]
    ends = [x for m in means for x in (m.low, m.high, m.value) if x is not None] or [0.0, 1.0]
    room = (max(ends) - min(ends)) * 0.06 or 1.0
    most = 100.0 if table.score.unit == "%" else float("inf")
    return max(0.0, min(ends) - room), min(most, max(ends) + room)


def _range_scale(table: Table) -> Markup:
    low, high = _range_ends(table)
    return tag("small", f"from {figure(low, table.score)} to {figure(high, table.score)}")


def _range(mean: Estimate | None, table: Table, colour: str) -> Markup | None:
    """A small picture of an interval on a scale that all models of the table share."""
    if mean is None:
        return None
    start, stop = _range_ends(table)

    def x(value: float) -> float:
        return round(6 + (value - start) / (stop - start) * (_RANGE - 12), 1)

    parts = [tag("line", x1=0, x2=_RANGE, y1=10, y2=10, class_="track")]
    if mean.low is not None and mean.high is not None:
        ends = {"x1": x(mean.low), "x2": x(mean.high), "y1": 10, "y2": 10}
        parts.append(
            tag("line", **ends, stroke=colour, stroke_width=5, stroke_linecap="round", opacity=0.5)
        )
    parts.append(tag("circle", cx=x(mean.value), cy=10, r=5, fill=colour))
    return tag("svg", parts, viewBox=f"0 0 {_RANGE} 20", class_="range", aria_hidden="true")


def _metric(score: Score) -> str:
    return score.title + (", %" if score.unit == "%" else "")


def _head(
    title: object,
    small: str | None = None,
    *,
    kind: str = "number",
    first: str = "ascending",
    best_first: Score | None = None,
    sorted_: bool = False,
) -> Markup:
    """A header that sorts; `first` is the order of the first click."""
    if best_first is not None:
        first = "descending" if best_first.higher_is_better else "ascending"
    return tag(
        "th",
        tag("button", title, type="button"),
        tag("small", small) if small else None,
        scope="col",
        data_kind=kind,
        data_first=first,
        aria_sort=first if sorted_ else None,
    )


def _number(value: float | None, shown: str, small: str | None = None) -> Markup:
    below = tag("small", small) if small else None
    return tag("td", shown, below, data_v=None if value is None else repr(float(value)))


def _table(heads: list[Markup], rows: list[Markup], kind: str = "") -> Markup:
    return tag(
        "table",
        tag("thead", tag("tr", heads)),
        tag("tbody", rows),
        class_=f"sortable {kind}".strip(),
    )


def _scrolled(label: str, table: Markup) -> Markup:
    """A wide table scrolls in its own frame, by keyboard too."""
    inner = tag("div", table, class_="scroll", tabindex=0, role="region", aria_label=label)
    return tag("div", inner, class_="frame")


def _any(costs: Mapping[str, Mapping[str, object]], column: str) -> bool:
    return any(cost.get(column) is not None for cost in costs.values())
