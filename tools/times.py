"""What a run of nox took, job by job, from the reports that `nox --report FILE` and jobs side by side leave: a table, and the time of all as the last line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def table(report: dict[str, Any], side_by_side: list[dict[str, Any]]) -> str:
    """One line for each job, the longest first, and last the seconds of all.

    Args:
        report: of nox, whose jobs ran one after the other.
        side_by_side: jobs that ran within one of those: each a name, a result, seconds, and seconds of the processors.
    """
    rows = [
        (job["duration"], job["signatures"][0], job["result"], "") for job in report["sessions"]
    ]
    within = [
        (job["seconds"], job["job"], job["result"], f", {job['processor_seconds']:.0f} s of a processor")
        for job in side_by_side
    ]  # fmt: skip
    lines = [
        f"{seconds:6.0f} s  {name}  {result}{processors}"
        for seconds, name, result, processors in sorted(rows + within)[::-1]
    ]
    summary = ", ".join(f"{name} {seconds:.0f}" for seconds, name, *_ in rows)
    if within:
        summary += (
            f"; side by side: {', '.join(f'{name} {seconds:.0f}' for seconds, name, *_ in within)}"
        )
    return "\n".join([*lines, f"{sum(row[0] for row in rows):.0f} s in all: {summary}"])


def main() -> None:
    """Print the table of nox's report, and of the jobs that ran side by side if there is a file of them."""
    report, side_by_side = map(Path, sys.argv[1:])
    within = json.loads(side_by_side.read_text(encoding="utf-8")) if side_by_side.exists() else []
    print(table(json.loads(report.read_text(encoding="utf-8")), within))


if __name__ == "__main__":
    main()
