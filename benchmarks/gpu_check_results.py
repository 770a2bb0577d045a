"""A pytest plugin: every test's outcome as a JSON line, written when the test ends, in the file that `GPU_CHECK_TESTS` names."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def pytest_runtest_logreport(report: Any) -> None:
    """Called for set-up, call and tear-down; with workers, in the process that has started them."""
    if "PYTEST_XDIST_WORKER" in os.environ or (report.when != "call" and report.passed):
        return
    _append({"test": report.nodeid, "outcome": report.outcome, "seconds": round(report.duration, 2)}, report)  # fmt: skip


def pytest_collectreport(report: Any) -> None:
    """A file that cannot be read is a failure, too."""
    if report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
        _append({"test": report.nodeid, "outcome": "failed", "seconds": 0.0}, report)


def _append(outcome: dict[str, Any], report: Any) -> None:
    lines = str(report.longrepr).strip().splitlines() if report.longrepr else [""]
    faults = [line for line in lines if line.startswith("E ")]
    outcome["message"] = (faults[0].removeprefix("E ").strip() if faults else lines[-1])[:500]
    with Path(os.environ["GPU_CHECK_TESTS"]).open("a", encoding="utf-8") as file:
        file.write(json.dumps(outcome) + "\n")
