"""Two commits, measured in turns: the packages of a base commit against those of the working tree.

Either side runs its own files, those of this folder included, each in a process of its own: a question follows the names of its
package, and what two commits ask alike is compared. One round is one run of either side, and the side that goes first
changes from round to round. A contender is judged by its ratio to the floor of its comparison, which was measured in the same
minute of the same process; a floor, and what has none, by its own figure. `significance.py` says what follows.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from latest import figure
from questions import BenchError, Question
from significance import (
    FIRST_ROUNDS,
    Interval,
    differs,
    estimate,
    observed,
    rounds_needed,
    sign_of,
)

Key = tuple[str, str, str, str]
"""Question, comparison, shape and contender."""
Print = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Change:
    """How the cost of one contender of one comparison changed."""

    question: str
    what: str
    shape: str
    contender: str
    unit: str
    change: str
    """faster, slower, better, worse or within noise."""
    interval: Interval


@dataclass(kw_only=True)
class Outcome:
    """What a comparison of two commits showed."""

    base: str
    commit: str
    changes: list[Change] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    """What could not be compared, a sentence each."""
    failed: list[str] = field(default_factory=list)
    """Questions that the working tree could not answer."""

    @property
    def red(self) -> bool:
        """Whether anything became slower or worse beyond noise, or failed."""
        return bool(self.failed) or any(
            change.change in ("slower", "worse") for change in self.changes
        )

    def to_json(self) -> dict[str, Any]:
        """For a file."""
        return asdict(self) | {"red": self.red}


def compare(
    questions: Sequence[Question],
    base: str,
    *,
    root: Path,
    python: str,
    options: Sequence[str],
    say: Print,
) -> Outcome:
    """Measure `questions` at the commit `base` and in the working tree, and judge.

    Raises:
        BenchError: git does not know `base`, or a side would not run its own sources.
    """
    commit = _commit(base, root)
    outcome = Outcome(base=base, commit=commit[:12])
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, _tree(commit, root) as tree:
        trees = {"new": root, "base": tree}
        runner = _Runner(trees=trees, python=python, options=options, folder=Path(folder), say=say)
        answered = []
        for question in questions:
            if not (tree / "packages" / question.package).is_dir():
                outcome.absent.append(f"{question.name}: {base} has no package {question.package}.")
                continue
            if not runner.file(question, "base").exists():
                outcome.absent.append(f"{question.name}: {base} does not ask it.")
                continue
            runner.check(question)
            fault = runner.rounds(question, FIRST_ROUNDS, first := {})
            if fault is None:
                answered.append((question, first))
            else:
                (outcome.failed if fault.startswith("new") else outcome.absent).append(
                    f"{question.name}: {fault}"
                )
        candidates = sum(differs(ratios) for _, first in answered for ratios in first.values())
        for question, first in answered:
            fresh: dict[Key, list[float]] = {}
            if any(differs(ratios) for ratios in first.values()):
                fault = runner.rounds(question, rounds_needed(candidates), fresh)
                if fault is not None:
                    outcome.failed.append(f"{question.name}: {fault}")
            for key, ratios in first.items():
                unit = runner.units[key]
                if differs(ratios) and len(fresh.get(key, [])) >= rounds_needed(candidates):
                    interval = estimate(fresh[key], candidates=candidates)
                    sign = sign_of(interval)
                else:
                    interval, sign = observed(ratios), 0
                outcome.changes.append(_change(key, unit, interval, sign))
    return outcome


def _change(key: Key, unit: str, interval: Interval, sign: int) -> Change:
    question, what, shape, contender = key
    less, more = ("faster", "slower") if unit == "s" or unit.endswith("/s") else ("better", "worse")
    return Change(
        question=question, what=what, shape=shape, contender=contender, unit=unit,
        change={-1: less, 0: "within noise", 1: more}[sign], interval=interval,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Runner:
    """Runs questions on both sides."""

    trees: Mapping[str, Path]
    python: str
    options: Sequence[str]
    folder: Path
    say: Print
    units: dict[Key, str] = field(default_factory=dict)

    def file(self, question: Question, side: str) -> Path:
        """A side's own file of a question."""
        return self.trees[side] / "benchmarks" / question.file.name

    def check(self, question: Question) -> None:
        """Each side imports its own sources, not an installed copy of them."""
        look = f"import importlib.util as u; print(u.find_spec({question.package!r}).origin)"
        for side, tree in self.trees.items():
            done = subprocess.run(
                [self.python, "-c", look], env=self._environment(side), capture_output=True, text=True
            )  # fmt: skip
            if not Path(done.stdout.strip()).resolve().is_relative_to(tree.resolve()):
                raise BenchError(
                    f"{question.package} at {side} would come from {done.stdout.strip() or 'nowhere'} and not from {tree}."
                )

    def rounds(self, question: Question, rounds: int, ratios: dict[Key, list[float]]) -> str | None:
        """Measure a question `rounds` times on both sides; the fault, if a side cannot answer it."""
        for number in range(rounds):
            costs: dict[str, dict[Key, float]] = {}
            for side in ("new", "base") if number % 2 == 0 else ("base", "new"):
                self.say(f"{question.name}: round {number + 1} of {rounds}, {side}")
                records, fault = self._run(question, side)
                if fault is not None:
                    return f"{side} cannot answer it: {fault}"
                costs[side] = {
                    _key(record): cost for record in records if (cost := _cost(record)) is not None
                }
                self.units.update({_key(record): record["unit"] for record in records})
            for key in costs["new"].keys() & costs["base"].keys():
                ratio = _ratio(costs["new"][key], costs["base"][key])
                ratios.setdefault(key, []).append(ratio)
        return None

    def _run(self, question: Question, side: str) -> tuple[list[dict[str, Any]], str | None]:
        """One run: its records, or the last line of what it said when it failed."""
        out = self.folder / "records.jsonl"
        out.unlink(missing_ok=True)
        done = subprocess.run(
            [self.python, str(self.file(question, side)), *self.options, "--out", str(out)],
            env=self._environment(side), capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode != 0:
            return [], (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
        if not out.exists():
            return [], None
        return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()], None

    def _environment(self, side: str) -> dict[str, str]:
        return os.environ | {"PYTHONPATH": sources(self.trees[side])}


def sources(tree: Path) -> str:
    """PYTHONPATH for the packages of a tree."""
    return os.pathsep.join(str(folder) for folder in sorted(tree.glob("packages/*/src")))


def _key(record: Mapping[str, Any]) -> Key:
    shape = " ".join(f"{name}={value}" for name, value in record["shape"].items())
    return record["question"], record["what"], shape, record["contender"]


def _cost(record: Mapping[str, Any]) -> float | None:
    """What is better when smaller; None for what has no direction: neither a time, nor a rate, nor held to a bar."""
    rate = record["at_least"] or record["unit"].endswith("/s")
    if record["unit"] != "s" and not rate and record["bar"] is None:
        return None
    value = figure(dict(record))
    if rate:
        return 1 / value if value else None
    return value


def _ratio(new: float, old: float) -> float:
    """New to base; from or to nothing counts as a million times."""
    if new == old:
        return 1.0
    if new > 0 and old > 0:
        return new / old
    return 1e6 if new > old else 1e-6


def _commit(base: str, root: Path) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), "rev-parse", "--verify", "--quiet", f"{base}^{{commit}}"],
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise BenchError(f"git knows no commit {base!r}: fetch it, or name another base.")
    return done.stdout.strip()


@contextlib.contextmanager
def _tree(commit: str, root: Path) -> Iterator[Path]:
    """What a commit holds, in a temporary folder; the repository is not touched."""
    with tempfile.TemporaryDirectory(prefix="bench-base-") as folder:
        packed = subprocess.run(
            ["git", "-C", str(root), "archive", "--format=tar", commit], capture_output=True, check=True
        )  # fmt: skip
        with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
            archive.extractall(folder, filter="data")
        yield Path(folder)
