"""The report: one HTML page that needs nothing else, and one summary in Markdown, from records. Nothing is measured here.

    python benchmarks/report.py RESULTS.jsonl… --html report.html --markdown report.md

A goal is one that a question states for its full size. What a quick run finds is shown, but not counted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import formatting
from compare_commits import Change, Outcome
from html_page import page
from latest import Comparison, Record, goals, newest, read

__all__ = ["comparison_markdown", "markdown", "page", "read"]


def markdown(runs: Sequence[Comparison], outcome: Outcome | None = None) -> str:
    """The summary: what became slower, what is missed, then every figure that is held to a goal."""
    missed, met = goals(runs, met=False), goals(runs, met=True)
    parts = ["# Benchmarks"]
    if outcome is not None:
        parts.append(comparison_markdown(outcome))
    if met or missed:
        parts.append(f"{len(met)} of {len(met) + len(missed)} goals of the full runs are met.")
        parts.append(_goals(missed + met))
    quick = [
        (run, record)
        for run in newest(runs)
        if run.quick
        for record in run.records
        if record["bar"] is not None
    ]
    if quick:
        parts += ["## Quick sizes", _goals(quick)]
    return "\n\n".join(parts) + "\n"


def _goals(rows: Sequence[tuple[Comparison, Record]]) -> str:
    lines = [
        "| question | comparison | contender | figure | goal | |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for run, record in rows:
        about = f"{run.what} ({formatting.shape(run)})" if run.shape else run.what
        cells = [
            run.question, about, record["contender"], formatting.judged(record), formatting.goal(record),
            "met" if record["met"] else "**missed**",
        ]  # fmt: skip
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def comparison_markdown(outcome: Outcome) -> str:
    """What changed against the base, worst first; what is within noise is only counted."""
    changed = beyond_noise(outcome)
    unchanged = len(outcome.changes) - len(changed)
    lines = [f"## Against {outcome.base} ({outcome.commit})", ""]
    if changed:
        lines += [
            "| question | comparison | contender | cost, new to base | |",
            "| --- | --- | --- | --- | --- |",
        ]
    for change in changed:
        within = change.interval
        lines.append(
            f"| {change.question} | {change.what} ({change.shape}) | {change.contender} | "
            f"{within.ratio:.3f} ({within.low:.3f} to {within.high:.3f}) | **{change.change}** |"
        )
    lines += ["", f"{unchanged} of {len(outcome.changes)} contenders are within noise."]
    lines += [f"- {sentence}" for sentence in [*outcome.failed, *outcome.absent]]
    return "\n".join(lines)


def beyond_noise(outcome: Outcome) -> list[Change]:
    """Changes beyond noise, worst first."""
    changed = [change for change in outcome.changes if change.change != "within noise"]
    return sorted(changed, key=lambda change: -change.interval.ratio)


def main() -> int:
    """Read records, write page and summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--html", type=Path, help="where the page goes")
    parser.add_argument("--markdown", type=Path, help="where the summary goes; else printed")
    arguments = parser.parse_args()
    try:
        runs = read(arguments.results)
    except (OSError, ValueError) as error:
        print(f"report: {error}", file=sys.stderr)
        return 2
    if arguments.html:
        arguments.html.write_text(page(runs), encoding="utf-8")
    if arguments.markdown:
        arguments.markdown.write_text(markdown(runs), encoding="utf-8")
    else:
        print(markdown(runs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
