"""The report as Markdown, for the summary of a job."""

from collections.abc import Iterable

from xeval.report.figures import NOTHING, figure, interval, metric_title, scaled
from xeval.statistics.result import Result
from xeval.statistics.summary import Estimate, Summary, Table, summarise


def markdown(results: Iterable[Result], *, title: str = "xeval report") -> str:
    """Tables of means, of languages and of what was not run.

    Args:
        results: as `read_results` gives them.
        title: its heading.

    Raises:
        XevalError: as `summarise`.
    """
    summary = summarise(results)
    parts = [f"# {_text(title)}"]
    for table in summary.tables:
        metric = metric_title(table.score)
        parts += [
            f"## {_text(table.task)} ({_text(metric)})",
            _models(table, summary),
            *_methods(table),
            _languages(table),
        ]
    if summary.missing:
        parts.append("## Not run\n\n" + "\n".join(f"- {_text(line)}" for line in summary.missing))
    return "\n\n".join(parts) + "\n"


def _models(table: Table, summary: Summary) -> str:
    score = table.score
    heads = [
        "Model",
        f"Mean of {len(table.common)}",
        "95 % interval",
        "Source",
        "Transfer gap",
        "Worst",
        "Seeds",
        "Parameters",
    ]
    rows = []
    for row in table.rows:
        name = _text(row.model)
        worst = f"{figure(row.worst[1], score)} ({_text(row.worst[0])})" if row.worst else NOTHING
        rows.append(
            [
                f"**{name}**" if row.model in table.best() else name,
                figure(row.mean.value if row.mean else None, score),
                (interval(row.mean, score) if row.mean else "") or NOTHING,
                figure(row.source, score),
                figure(row.gap, score),
                worst,
                str(row.mean.seeds if row.mean else 0),
                scaled(summary.costs.get(row.model, {}).get("parameters")),
            ]
        )
    return _rows(heads, rows)


def _methods(table: Table) -> list[str]:
    lines = [f"- {_text(model)}: {_text(how)}" for model, how in table.methods.items()]
    return ["\n".join(lines)] if lines else []


def _languages(table: Table) -> str:
    rows = [
        [_text(place), *(_cell(table.cells.get((model, place)), table) for model in table.models)]
        for place in table.places
    ]
    return _rows(["Language", *map(_text, table.models)], rows)


def _cell(cell: Estimate | None, table: Table) -> str:
    if cell is None:
        return NOTHING
    within = interval(cell, table.score)
    return figure(cell.value, table.score) + (f" ({within})" if within else "")


def _rows(heads: list[str], rows: list[list[str]]) -> str:
    rule = ["---", *["---:"] * (len(heads) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [heads, rule, *rows])


def _text(text: str) -> str:
    """Text that stays text: no markup, no new cell, no new line."""
    flat = " ".join(text.split())
    for character in "\\`*_[]|#!":
        flat = flat.replace(character, "\\" + character)
    return flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
