"""What came out, as lines for the terminal, one page, and a part of the student's card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bistil.fit.picture import front_picture, words
from bistil.make.page_frame import page_templates
from bistil.make.plan import KINDS

_HEAD = ("layers", "width", "heads", "feed-forward", "pieces", "parameters", "MB in 8 bits", "MB in float32", "ms", "predicted", "untrained", "trained", "its worst 5 %", "")  # fmt: skip


def page(record: Mapping[str, Any]) -> str:
    """The page as HTML; it loads nothing from elsewhere.

    Args:
        record: what `fit` returns.
    """
    return page_templates("bistil.fit").get_template("report.html.jinja").render(
        record=record,
        kind=KINDS[record["kind"]],
        verdict=verdict(record),
        head=_HEAD,
        rows=rows(record),
        picture=front_picture(record),
    )  # fmt: skip


def rows(record: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The front and what was tried, a row each, cheapest first."""
    measure, limit = record["budget"]["measure"], record["budget"]["limit"]
    tried = {_key(row): row for row in record["trials"]}  # of several rounds the last
    every = {_key(row): row for row in record["front"]} | tried
    chosen = record.get("chosen", {}).get("shape")
    return [
        _row(row, chosen=row["shape"] == chosen, beyond=row[measure] > limit)
        for row in sorted(every.values(), key=lambda row: (row[measure], row["predicted"]))
    ]


def table(record: Mapping[str, Any]) -> list[str]:
    """The same in columns, for the terminal."""
    lines = [_HEAD, *rows(record)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEAD))]
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
    languages = ", ".join(f"{name} {worth:.1f}" for name, worth in student["worth"]["languages"].items())  # fmt: skip
    said += [
        chosen["why"],
        _training(record),
        f"It has {student['worth']['mean']:.1f} % of the whole model's worth ({record['measure']}; {languages}), "
        f"{student['parameters']:,} of {whole['parameters']:,} parameters, and takes {student['latency_ms']:.2f} of {whole['latency_ms']:.2f} ms a text.",
    ]
    if worst := student["worth"]["worst"]:
        by_language = ", ".join(f"{name} {left:.1f}" for name, left in worst.items())
        said.append(f"Of the worst twentieth of the lines it has {by_language} %.")
    if (agreement := record["agreement"]) is not None:
        said.append(f"What was predicted before training and what the first round measured agree in order by {agreement:.2f} (Spearman).")  # fmt: skip
    actual, limit = student[record["budget"]["measure"]], record["budget"]["limit"]
    within = "within" if actual <= limit else "BEYOND"
    said.append(f"What was made is {within} the budget of {record['budget']['words']}: {_in_figures(actual)}.")  # fmt: skip
    return said


def _training(record: Mapping[str, Any]) -> str:
    """What its training gave, or why what was made is untrained."""
    student, steps = record["student"], record["fitting"]["steps"]
    if student["steps"] == steps:
        return f"Its training of {steps:,} steps took it from {student['untrained']:.1f} to {student['trained']:.1f}."
    return (
        f"Its training of {steps:,} steps took it from {student['untrained']:.1f} down to {student['trained']:.1f}, so that what was made is the cut "
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


def _row(row: Mapping[str, Any], *, chosen: bool, beyond: bool) -> tuple[str, ...]:
    shape = row["shape"]
    untrained, measured, worst, time = "", "", "", f"~{row['latency_ms']:.2f}"
    if "worth" in row:
        ends: Sequence[tuple[float, float]] = list(row["worth"]["interval"].values())
        spread = f" ±{sum(high - low for low, high in ends) / len(ends) / 2:.1f}" if ends else ""
        measured = f"{row['worth']['mean']:.1f}{spread} @{row['steps']}"
        if lines := row["worth"]["worst"].values():
            worst = f"{sum(lines) / len(lines):.1f}"
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
        worst,
        "chosen" if chosen else "beyond the budget" if beyond else "",
    )
