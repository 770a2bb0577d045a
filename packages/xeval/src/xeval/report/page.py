"""The report as one HTML page that needs nothing else."""

import base64
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from xeval.report import figures, tables
from xeval.report.figures import figure, interval, megabytes, milliseconds, scaled
from xeval.report.pareto import Plot, Point, pareto
from xeval.report.render import environment, inline, render
from xeval.report.tables import Badge, badges_of
from xeval.statistics.metrics import Metric
from xeval.statistics.result import Result
from xeval.statistics.summary import Summary, Table, summarise

_CONDITIONS = ("batch", "length", "threads", "device", "dtype")


def page(results: Iterable[Result], *, title: str = "xeval report") -> str:
    """The page.

    It loads nothing: styles, script and pictures are inside, and a content security policy forbids the rest.

    Args:
        results: as `read_results` gives them.
        title: its heading.

    Raises:
        XevalError: as `summarise`.
    """
    summary = summarise(results)
    badges = badges_of(summary)
    conditions = time_conditions(summary.costs)
    counted = {m: c for m, c in summary.costs.items() if c.get("flops") is not None}
    body = render(
        _TEMPLATES,
        "page.html.jinja",
        title=title,
        summary=summary,
        tasks=list(_by_task(summary.tables).values()),
        counts=_counts(summary),
        badges=badges,
        conditions=conditions,
        counted=counted,
        counted_for=counted_for(counted),
        timed={m: c for m, c in summary.costs.items() if c.get("latency_ms") is not None},
        plots_of=partial(_plots, summary=summary, badges=badges, timed=conditions is not None),
    )
    script = inline("page.js")
    document = render(
        _TEMPLATES,
        "document.html.jinja",
        title=title,
        style=inline("page.css"),
        script=script,
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        body=body,
    )
    return f"<!doctype html>\n{document}\n"


def time_conditions(costs: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The conditions that all latencies share, in words; None where there are none or they differ."""
    timed = [cost for cost in costs.values() if cost.get("latency_ms") is not None]
    if not timed or any(
        [cost.get(c) for c in _CONDITIONS] != [timed[0].get(c) for c in _CONDITIONS]
        for cost in timed
    ):
        return None
    return _in_words(timed[0])


def counted_for(counted: Mapping[str, Mapping[str, Any]]) -> str | None:
    """What all operations are for, in words; None where there are none, or examples of different lengths."""
    lengths = {cost.get("length") for cost in counted.values()}
    if len(lengths) != 1:
        return None
    (length,) = lengths
    return "per example" + (f" of {length} sub-words" if length else "")


def _in_words(cost: Mapping[str, Any]) -> str:
    batch, threads = cost.get("batch"), cost.get("threads")
    return (
        f"{batch} {'example' if batch == 1 else 'examples'} of {cost.get('length')} sub-words at a time, "
        f"{threads} {'thread' if threads == 1 else 'threads'}, {cost.get('device')}, {cost.get('dtype')}"
    )


def _by_task(tables: Sequence[Table]) -> dict[tuple[str, str], list[Table]]:
    tasks: dict[tuple[str, str], list[Table]] = {}
    for table in tables:
        tasks.setdefault((table.task, table.split), []).append(table)
    return tasks


def _counts(summary: Summary) -> str:
    languages = {language for table in summary.tables for language in table.places.values()}
    tasks = {table.task for table in summary.tables}
    counts = [(len(summary.models), "model"), (len(tasks), "task"), (len(languages), "language")]
    return " · ".join(f"{n} {name}" + ("" if n == 1 else "s") for n, name in counts)


def _unit(score: Metric) -> str:
    unit = " in %" if score.unit == "%" else ""
    return score.title + unit + ("" if score.higher_is_better else ", lower is better")


def _in_a_sentence(table: Table) -> str:
    sentence = ""
    best = table.best()
    row = next((r for r in table.rows if r.model in best), None)
    if row and row.mean and len(best) > 1:
        sentence = f"Best mean: {figure(row.mean.value, table.score)}, of {' and '.join(best)}. "
    elif row and row.mean:
        within = f" ({interval(row.mean, table.score)})" if interval(row.mean, table.score) else ""
        sentence = f"Best mean: {row.model}, {figure(row.mean.value, table.score)}{within}. "
    trained = f"Trained on {table.source}; scored" if table.source else "Scored"
    sentence += f"{trained} on {_sets(table)}."
    outside = [place for place in table.places if place not in table.common]
    if len(outside) > 6:
        sentence += (
            f" {len(outside)} of them are not in the mean, because not every model has them."
        )
    elif outside:
        sentence += f" Not in the mean, because not every model has them: {', '.join(outside)}."
    return sentence


def _sets(table: Table) -> str:
    sets, languages = len(table.places), len(set(table.places.values()))
    many = f"{languages} language" + ("" if languages == 1 else "s")
    return (
        f"the {table.split} sets of {many}"
        if sets == languages
        else f"{sets} {table.split} sets of {many}"
    )


def _plots(
    table: Table, *, summary: Summary, badges: Mapping[str, Badge], timed: bool
) -> list[Plot]:
    """Score against size, and against latency where it was measured alike; none where no model has a cost."""
    columns: list[tuple[str, str, Callable[[float], str]]] = [
        ("parameters", "parameters", scaled)
        if any(c.get("parameters") for c in summary.costs.values())
        else ("bytes", "size of the weights", megabytes)
    ]
    if timed:
        columns.append(("latency_ms", "latency", milliseconds))
    plots = []
    for column, words, shown in columns:
        points = [
            Point(
                letter=badges[row.model].letter,
                name=row.model,
                colour=badges[row.model].colour,
                cost=float(summary.costs[row.model][column]),
                score=row.mean,
            )
            for row in table.rows
            if row.mean and summary.costs.get(row.model, {}).get(column)
        ]
        if points:
            plot = pareto(
                points,
                caption=f"Score and {words}",
                title=f"{table.task}: score and {words}",
                cost_title=words,
                shown=shown,
                score=table.score,
            )
            plots.append(plot)
    return plots


_TEMPLATES = environment(
    filters={
        "any_has": tables.any_has,
        "best_first": tables.best_first,
        "best_first_of_all": tables.best_first_of_all,
        "conditions_in_words": _in_words,
        "exact": lambda value: repr(float(value)),
        "figure": figure,
        "in_a_sentence": _in_a_sentence,
        "interval": interval,
        "interval_scale": tables.interval_scale,
        "megabytes": megabytes,
        "metric": figures.metric_title,
        "milliseconds": milliseconds,
        "name_parts": tables.name_parts,
        "row_of": tables.row_of,
        "scaled": scaled,
        "shade": tables.shade,
        "unit": _unit,
    },
    values={"nothing": figures.NOTHING, "gradient": tables.GRADIENT},
)
