"""The report as one HTML page that needs nothing else."""

import base64
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import resources
from typing import Any

from xeval.report.colour import MODEL_COLOURS
from xeval.report.figures import figure, interval, letter, megabytes, milliseconds, scaled
from xeval.report.markup import Markup, tag
from xeval.report.pareto import Point, pareto
from xeval.report.tables import Badges, heatmap, model_name, models_table, overview
from xeval.statistics.results import Result
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
    badges = {
        model: (letter(i), MODEL_COLOURS[i % len(MODEL_COLOURS)])
        for i, model in enumerate(summary.models)
    }
    tasks = _by_task(summary.tables)
    conditions = time_conditions(summary.costs)
    body = tag(
        "main",
        tag("header", tag("h1", title), _lede(summary), _contents(tasks, summary)),
        _overview(summary, tasks, badges, conditions),
        [_task(i, tables, summary, badges, conditions) for i, tables in enumerate(tasks.values())],
        _missing(summary),
        _notes(summary, conditions),
        class_="wrap",
    )
    return _document(title, body)


def time_conditions(costs: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The conditions that all latencies share, in words; None where there are none or they differ."""
    timed = [cost for cost in costs.values() if cost.get("latency_ms") is not None]
    if not timed or any(
        [cost.get(c) for c in _CONDITIONS] != [timed[0].get(c) for c in _CONDITIONS]
        for cost in timed
    ):
        return None
    return _in_words(timed[0])


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


def _lede(summary: Summary) -> Markup:
    languages = {language for table in summary.tables for language in table.places.values()}
    tasks = {table.task for table in summary.tables}
    counts = [(len(summary.models), "model"), (len(tasks), "task"), (len(languages), "language")]
    words = [f"{n} {name}" + ("" if n == 1 else "s") for n, name in counts]
    return tag("p", " · ".join(words), class_="soft")


def _contents(tasks: Mapping[tuple[str, str], Sequence[Table]], summary: Summary) -> Markup:
    links = [("overview", "Overview")]
    links += [(f"task-{i}", task) for i, (task, _) in enumerate(tasks)]
    links += [("missing", "Not run")] if summary.missing else []
    links += [("notes", "How to read this")]
    items = [tag("li", tag("a", name, href=f"#{anchor}")) for anchor, name in links]
    return tag("nav", tag("ul", items), aria_label="Sections")


def _overview(
    summary: Summary,
    tasks: Mapping[tuple[str, str], Sequence[Table]],
    badges: Badges,
    conditions: str | None,
) -> Markup:
    primary = [tables[0] for tables in tasks.values()]
    note = "Mean over languages, and below it the 95 % interval. ★ marks the best mean of a task; it need not be shown to be better than the next."
    return _section(
        "overview",
        tag("h2", "Overview"),
        tag("p", note, class_="soft small"),
        overview(summary, primary, badges, timed=conditions is not None),
        tag("p", f"Latency: {conditions}.", class_="soft small") if conditions else None,
    )


def _task(
    index: int,
    tables: Sequence[Table],
    summary: Summary,
    badges: Badges,
    conditions: str | None,
) -> Markup:
    first, *others = tables
    return _section(
        f"task-{index}",
        tag("div", tag("h2", first.task), tag("span", _unit(first), class_="unit"), class_="head"),
        tag("p", _in_a_sentence(first), class_="soft"),
        _one_metric(first, summary, badges, conditions),
        [
            tag(
                "details",
                tag("summary", f"The same by {_unit(table)}"),
                _one_metric(table, summary, badges, conditions),
            )
            for table in others
        ],
        tag(
            "details",
            tag("summary", "Protocol ", tag("code", first.digest)),
            tag(
                "dl",
                [
                    [tag("dt", key), tag("dd", str(first.protocol[key]))]
                    for key in sorted(first.protocol)
                ],
            ),
        ),
    )


def _unit(table: Table) -> str:
    score = table.score
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
    if table.source:
        sentence += f"Tuned on {table.source}; "
    sentence += f"scored on {_sets(table)}."
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


def _one_metric(table: Table, summary: Summary, badges: Badges, conditions: str | None) -> Markup:
    if not table.cells:
        return tag("p", "No model has a figure.")
    return Markup(
        models_table(table, badges)
        + _plots(table, summary, badges, conditions)
        + tag("h3", "By language")
        + heatmap(table, badges)
    )


def _plots(table: Table, summary: Summary, badges: Badges, conditions: str | None) -> Markup:
    columns: list[tuple[str, str, Callable[[float], str]]] = [
        ("parameters", "parameters", scaled)
        if any(c.get("parameters") for c in summary.costs.values())
        else ("bytes", "size of the weights", megabytes)
    ]
    if conditions:
        columns.append(("latency_ms", "latency", milliseconds))
    figures = []
    for column, words, shown in columns:
        points = [
            Point(
                letter=badges[row.model][0],
                name=row.model,
                colour=badges[row.model][1],
                cost=float(summary.costs[row.model][column]),
                score=row.mean,
            )
            for row in table.rows
            if row.mean and summary.costs.get(row.model, {}).get(column)
        ]
        if points:
            title = f"Score and {words}"
            picture = pareto(
                points,
                title=f"{table.task}: {title.lower()}",
                cost_title=words,
                shown=shown,
                score=table.score,
            )
            figures.append(tag("figure", tag("figcaption", title), picture))
    if not figures:
        return Markup()
    names = [tag("li", model_name(row.model, badges)) for row in table.rows]
    better = "higher" if table.score.higher_is_better else "lower"
    note = f"Further left is cheaper, {better} is better. The dashed line joins the models that no other equals at their cost or below; bars are 95 % intervals."
    return Markup(
        tag("div", figures, class_="plots")
        + tag("ul", names, class_="key")
        + tag("p", note, class_="soft small")
    )


def _missing(summary: Summary) -> Markup | None:
    if not summary.missing:
        return None
    return _section(
        "missing",
        tag("h2", "Not run"),
        tag("ul", [tag("li", line) for line in summary.missing], class_="missing"),
    )


def _notes(summary: Summary, conditions: str | None) -> Markup:
    notes = [
        "A score of a language is the mean over seeds. Its 95 % interval joins two uncertainties: of the test items "
        "(a bootstrap over them) and, with two seeds or more, of the tuning (the spread between seeds). With one seed "
        "it speaks of that one tuned model only. Where all items are alike, as at 100 %, no interval can be given.",
        "Intervals that overlap do not show that two models are equal, and those of one language are no test between "
        "models: they were scored on the same items. That test is xeval compare.",
        "Means are taken over the test sets that every model of the table has, each with the same weight: a language "
        "with three of them counts three times. "
        "The transfer gap is the score on the source language less the mean over the other languages.",
        "Parameters, size and operations are those of the model before tuning; a multiply-add counts as two operations.",
    ]
    timed = {m: c for m, c in summary.costs.items() if c.get("latency_ms") is not None}
    if timed and conditions is None:
        each = "; ".join(
            f"{m}: {milliseconds(c['latency_ms'])} ({_in_words(c)})" for m, c in timed.items()
        )
        notes.append(
            f"Latencies were measured under different conditions and are not set side by side. {each}."
        )
    return _section("notes", tag("h2", "How to read this"), [tag("p", note) for note in notes])


def _section(anchor: str, *content: object) -> Markup:
    said = tag("p", class_="said", aria_live="polite")
    return tag("section", *content, said, id=anchor)


def _document(title: str, body: Markup) -> str:
    style, script = _resource("page.css"), _resource("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="generator", content="xeval"),
        tag("link", rel="icon", href="data:,"),
        tag("title", title),
        tag("style", Markup(style)),
    )
    whole = tag("html", head, tag("body", body, tag("script", Markup(script))), lang="en")
    return f"<!doctype html>\n{whole}\n"


def _resource(name: str) -> str:
    return (resources.files("xeval.report") / name).read_text(encoding="utf-8")
