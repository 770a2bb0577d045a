"""What came out, as lines for the terminal, one page, and a part of the student's card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bistil.counted import counted
from bistil.fit.picture import front_picture, words
from bistil.make.page_frame import page_templates
from bistil.make.plan import KINDS

_HEAD = ("layers", "width", "heads", "feed-forward", "pieces", "parameters", "MB in 8 bits", "MB in float32", "ms", "predicted", "untrained", "trained")  # fmt: skip
_OTHER = {"mean": "its worst 5 %", "worst": "all lines"}


def page(record: Mapping[str, Any]) -> str:
    """The page as HTML; it loads nothing from elsewhere.

    Args:
        record: what `fit` returns.
    """
    return page_templates("bistil.fit").get_template("report.html.jinja").render(
        record=record,
        kind=KINDS[record["kind"]],
        verdict=verdict(record),
        head=head(record),
        rows=rows(record),
        picture=front_picture(record),
    )  # fmt: skip


def head(record: Mapping[str, Any]) -> tuple[str, ...]:
    """The titles of the columns; the last but one has what the lines say that shapes are not ranked by."""
    return (*_HEAD, _OTHER[record["by"]], "")


def rows(record: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The front and what was tried, a row each, cheapest first."""
    measure, limit = record["budget"]["measure"], record["budget"]["limit"]
    tried = {_key(row): row for row in record["trials"]}  # of several rounds the last
    every = {_key(row): row for row in record["front"]} | tried
    chosen = record.get("chosen", {}).get("shape")
    return [
        _row(row, by=record["by"], chosen=row["shape"] == chosen, beyond=row[measure] > limit)
        for row in sorted(every.values(), key=lambda row: (row[measure], row["predicted"]))
    ]


def table(record: Mapping[str, Any]) -> list[str]:
    """The same in columns, for the terminal."""
    lines = [head(record), *rows(record)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(f"{cell:>{width}}" if column else f"{cell:<{width}}" for column, (cell, width) in enumerate(zip(line, widths, strict=True))).rstrip()
        for line in lines
    ]  # fmt: skip


def verdict(record: Mapping[str, Any]) -> list[str]:
    """What came out, in sentences."""
    said = [
        *record["assumed"],
        f"{record['searched']:,} shapes can be put together, {record['affordable']:,} of them within {record['budget']['words']}.",
    ]
    if "chosen" not in record:
        return [*said, "Nothing was trained; without --plan the best of them are."]
    chosen, student, whole = record["chosen"], record["student"], record["whole"]
    languages, others = student["worth"]["languages"], student["worth"]["worst"]
    if record["by"] == "worst":
        languages, others = others, languages
    said += [
        chosen["why"],
        _training(record),
        f"It has {student['ranked']:.1f} % of the whole model's worth ({record['measure']}; {_by_language(languages)}), "
        f"{student['parameters']:,} of {whole['parameters']:,} parameters, and takes {student['latency_ms']:.2f} of {whole['latency_ms']:.2f} ms a text.",
    ]
    if others:
        which = "all lines" if record["by"] == "worst" else "the worst twentieth of the lines"
        said.append(f"Of {which} it has {_by_language(others)} %.")
    if (agreement := record["agreement"]) is not None:
        said.append(f"What was predicted before training and what the first round measured agree in order by {agreement:.2f} (Spearman).")  # fmt: skip
    actual, limit = student[record["budget"]["measure"]], record["budget"]["limit"]
    within = "within" if actual <= limit else "BEYOND"
    said.append(f"What was made is {within} the budget of {record['budget']['words']}: {_in_figures(actual)}.")  # fmt: skip
    return said


def _by_language(worths: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {worth:.1f}" for name, worth in worths.items())


def _training(record: Mapping[str, Any]) -> str:
    """What its training gave, or why what was made is untrained."""
    student, steps = record["student"], record["fitting"]["steps"]
    if student["steps"] == steps:
        return f"Its training of {counted(steps, 'step')} took it from {student['untrained']:.1f} to {student['trained']:.1f}."
    return (
        f"Its training of {counted(steps, 'step')} took it from {student['untrained']:.1f} down to {student['trained']:.1f}, so that what was made is the cut "
        "as it was before; more steps, more text or a lower learning rate may do better."
    )


def card_part(record: Mapping[str, Any]) -> str:
    """What the student's card says of its shape."""
    lines = "\n\n".join(verdict(record))
    return f"\n## Why this shape\n\nFound by `bistil fit` for a budget of {record['budget']['words']}: {words(record['chosen']['shape'])}.\n\n{lines}\n"


def _in_figures(cost: float) -> str:
    """Parameters and bytes to the last one, milliseconds to a hundredth."""
    return f"{cost:,.0f}" if cost >= 1000 else f"{cost:.2f}"


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    shape = row["shape"]
    return (
        tuple(shape["layers"]),
        shape["width"],
        shape["heads"],
        shape["feed_forward"],
        shape["pieces"],
    )


def _row(row: Mapping[str, Any], *, by: str, chosen: bool, beyond: bool) -> tuple[str, ...]:
    shape = row["shape"]
    untrained, measured, other, time = "", "", "", f"~{row['latency_ms']:.2f}"
    if "worth" in row:
        ends: Sequence[tuple[float, float]] = list(row["worth"]["interval"].values())
        spread = f" ±{sum(high - low for low, high in ends) / len(ends) / 2:.1f}" if ends else ""
        mean, worst = f"{row['worth']['mean']:.1f}{spread}", row["worth"]["worst"].values()
        tail = f"{sum(worst) / len(worst):.1f}" if worst else ""
        measured, other = (mean, tail) if by == "mean" else (tail, mean)
        measured += f" @{row['steps']}"
        untrained, time = f"{row['untrained']:.1f}", f"{row['latency_ms']:.2f}"
    return (
        f"{len(shape['layers'])}: {' '.join(map(str, shape['layers']))}",
        *(f"{shape[part]:,}" for part in ("width", "heads", "feed_forward", "pieces")),
        f"{row['parameters']:,}",
        *(f"{row[size] / 1e6:.1f}" for size in ("bytes", "float_bytes")),
        time,
        f"{row['predicted']:.1f}",
        untrained,
        measured,
        other,
        "chosen" if chosen else "beyond the budget" if beyond else "",
    )
