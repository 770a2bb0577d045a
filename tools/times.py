"""What a run of nox took, job by job, from the report that `nox --report FILE` leaves: a table, and its sum as the last line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def table(report: dict[str, Any]) -> str:
    """One line for each job, the longest first, and the sum of all."""
    jobs = [(job["duration"], job["signatures"][0], job["result"]) for job in report["sessions"]]
    lines = [f"{seconds:6.0f} s  {name}  {result}" for seconds, name, result in sorted(jobs)[::-1]]
    summary = ", ".join(f"{name} {seconds:.0f}" for seconds, name, _ in jobs)
    return "\n".join([*lines, f"{sum(job[0] for job in jobs):.0f} s in all: {summary}"])


def main() -> None:
    """Print the table of a report."""
    print(table(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
