"""The latest figures of every question, from the records: the newest run of every comparison, and how its figures came there."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What raced in one run: the records of all contenders, in their order."""

    question: str
    what: str
    shape: dict[str, Any]
    quick: bool
    records: tuple[Record, ...]

    @cached_property
    def key(self) -> tuple[str, str, str, bool]:
        """Equal for the runs of one comparison."""
        return self.question, self.what, json.dumps(self.shape, sort_keys=True), self.quick


class Past(NamedTuple):
    """One earlier figure."""

    date: str
    commit: str
    figure: float


def read(files: Iterable[Path]) -> list[Comparison]:
    """The runs in `files`, oldest first; those of one day in the order of the files.

    Raises:
        ValueError: a line is no record.
    """
    runs: list[Comparison] = []
    for file in files:
        group: list[Record] = []
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            try:
                record = json.loads(line)
                begins = bool(group) and not _together(group, record)
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{file}, line {number} is no record of a benchmark.") from error
            if begins:
                runs.append(_comparison(group))
                group = []
            group.append(record)
        if group:
            runs.append(_comparison(group))
    return sorted(runs, key=lambda run: run.records[0]["date"])


def _together(group: Sequence[Record], record: Record) -> bool:
    same = all(
        group[0][name] == record[name] for name in ("question", "what", "shape", "quick", "machine")
    )
    return same and record["contender"] not in [member["contender"] for member in group]


def _comparison(records: Sequence[Record]) -> Comparison:
    first = records[0]
    return Comparison(
        question=first["question"],
        what=first["what"],
        shape=first["shape"],
        quick=first["quick"],
        records=tuple(records),
    )


def newest(runs: Iterable[Comparison]) -> list[Comparison]:
    """The last run of every comparison, by question; full runs before quick ones."""
    last = {run.key: run for run in runs}
    return sorted(last.values(), key=lambda run: (run.question, run.quick))


def figure(record: Record) -> float:
    """What a contender is judged by: its ratio to the floor, else its own value."""
    if record["floor"] not in (None, record["contender"]):
        return float(record["ratio"]["median"])
    return float(record["median"])


def past(runs: Iterable[Comparison], of: Comparison, contender: str) -> list[Past]:
    """The figures of a contender of one comparison on one machine, oldest first."""
    machine = of.records[0]["machine"]
    return [
        Past(record["date"], record["commit"], figure(record))
        for run in runs
        if run.key == of.key
        for record in run.records
        if record["contender"] == contender and record["machine"] == machine
    ]


def goals(runs: Iterable[Comparison], *, met: bool) -> list[tuple[Comparison, Record]]:
    """The goals of full runs that are met, or those that are missed; goals are not stated for quick sizes."""
    return [
        (run, record)
        for run in newest(runs)
        if not run.quick
        for record in run.records
        if record["bar"] is not None and record["met"] is met
    ]
