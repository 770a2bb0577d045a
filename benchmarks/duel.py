"""Two commits, measured in turns: the packages of a base commit against those of the working tree.

Both sides run the same files of this folder, each in a process of its own; only PYTHONPATH differs. One round is one
run of either side, and the side that goes first changes from round to round. A contender is judged by its ratio to the floor of
its comparison, which was measured in the same minute of the same process; a floor, and what has none, by its own figure.
`verdicts.py` says what follows.
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

from questions import BenchError, Question
from standing import figure
from verdicts import (
    FIRST_ROUNDS,
    Interval,
    estimate,
    judge,
    observed,
    rounds_needed,
    strays,
)

Key = tuple[str, str, str, str]
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How one contender of one comparison fared."""

    question: str
    what: str
    shape: str
    contender: str
    unit: str
    verdict: str
    interval: Interval


@dataclass(kw_only=True)
class Outcome:
    """What a duel found."""

    base: str
    commit: str
    verdicts: list[Verdict] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    """What could not be compared, a sentence each."""
    failed: list[str] = field(default_factory=list)
    """Questions that the working tree could not answer."""

    @property
    def red(self) -> bool:
        """Whether anything became slower or worse beyond noise, or failed."""
        bad = any(each.verdict in ("slower", "worse") for each in self.verdicts)
        return bad or bool(self.failed)

    def to_json(self) -> dict[str, Any]:
        """For a file."""
        return asdict(self) | {"red": self.red}


def fight(
    questions: Sequence[Question],
    base: str,
    *,
    root: Path,
    python: str,
    options: Sequence[str],
    say: Say,
) -> Outcome:
    """Measure `questions` at the commit `base` and in the working tree, and judge.

    Raises:
        BenchError: git does not know `base`, or a side would not run its own sources.
    """
    commit = _commit(base, root)
    outcome = Outcome(base=base, commit=commit[:12])
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, _tree(commit, root) as tree:
        sides = {"new": root, "base": tree}
        arena = _Arena(sides=sides, python=python, options=options, folder=Path(folder))
        seen: dict[Key, list[float]] = {}
        facts: dict[Key, Mapping[str, Any]] = {}
        known = []
        for question in questions:
            if not (tree / "packages" / question.package).is_dir():
                outcome.absent.append(f"{question.name}: {base} has no package {question.package}.")
                continue
            arena.check(question)
            fault = _rounds(arena, question, FIRST_ROUNDS, seen, facts, say)
            if fault is None:
                known.append(question)
            else:
                (outcome.failed if fault.startswith("new") else outcome.absent).append(
                    f"{question.name}: {fault}"
                )
        suspects = {key for key, ratios in seen.items() if strays(ratios)}
        fresh: dict[Key, list[float]] = {}
        for question in known:
            if any(key[0] == question.name for key in suspects):
                fault = _rounds(arena, question, rounds_needed(len(suspects)), fresh, facts, say)
                if fault is not None:
                    outcome.failed.append(f"{question.name}: {fault}")
    for key, ratios in seen.items():
        if key in suspects and len(fresh.get(key, [])) >= rounds_needed(len(suspects)):
            interval = estimate(fresh[key], suspects=len(suspects))
            sign = judge(interval)
        else:
            interval, sign = observed(ratios), 0
        timed = facts[key]["unit"] == "s" or facts[key]["unit"].endswith("/s")
        words = ("faster", "slower") if timed else ("better", "worse")
        outcome.verdicts.append(
            Verdict(
                question=key[0], what=key[1], shape=key[2], contender=key[3], unit=facts[key]["unit"],
                verdict={-1: words[0], 0: "within noise", 1: words[1]}[sign], interval=interval,
            )
        )  # fmt: skip
    return outcome


def _rounds(
    arena: _Arena,
    question: Question,
    rounds: int,
    ratios: dict[Key, list[float]],
    facts: dict[Key, Mapping[str, Any]],
    say: Say,
) -> str | None:
    """Measure a question `rounds` times on both sides; the fault, if a side cannot answer it."""
    for number in range(rounds):
        costs: dict[str, dict[Key, float]] = {}
        order = ("new", "base") if number % 2 == 0 else ("base", "new")
        for side in order:
            say(f"{question.name}: round {number + 1} of {rounds}, {side}")
            records, fault = arena.run(question, side)
            if fault is not None:
                return f"{side} cannot answer it: {fault}"
            costs[side] = {}
            for record in records:
                cost = _cost(record)
                if cost is not None:
                    key = _key(record)
                    costs[side][key] = cost
                    facts[key] = record
        for key in costs["new"].keys() & costs["base"].keys():
            ratio = _ratio(costs["new"][key], costs["base"][key])
            ratios.setdefault(key, []).append(ratio)
    return None


@dataclass(frozen=True, kw_only=True)
class _Arena:
    """Where a side is run."""

    sides: Mapping[str, Path]
    python: str
    options: Sequence[str]
    folder: Path

    def check(self, question: Question) -> None:
        """Each side imports its own sources, not an installed copy of them."""
        look = f"import importlib.util as u; print(u.find_spec({question.package!r}).origin)"
        for side, tree in self.sides.items():
            done = subprocess.run(
                [self.python, "-c", look], env=self.environment(side), capture_output=True, text=True
            )  # fmt: skip
            if not Path(done.stdout.strip()).resolve().is_relative_to(tree.resolve()):
                raise BenchError(
                    f"{question.package} at {side} would come from {done.stdout.strip() or 'nowhere'} and not from {tree}."
                )

    def run(self, question: Question, side: str) -> tuple[list[dict[str, Any]], str | None]:
        """One run: its records, or the last line of what it said when it failed."""
        out = self.folder / "records.jsonl"
        out.unlink(missing_ok=True)
        done = subprocess.run(
            [self.python, str(question.file), *self.options, "--out", str(out)],
            env=self.environment(side), capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode != 0:
            return [], (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
        if not out.exists():
            return [], None
        return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()], None

    def environment(self, side: str) -> dict[str, str]:
        return os.environ | {"PYTHONPATH": sources(self.sides[side])}


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
    """The packages of a commit in a temporary folder; the repository is not touched."""
    with tempfile.TemporaryDirectory(prefix="bench-base-") as folder:
        packed = subprocess.run(
            ["git", "-C", str(root), "archive", "--format=tar", commit, "packages"],
            capture_output=True,
        )
        if packed.returncode != 0:
            raise BenchError(f"{commit[:12]} has no packages/: name another base.")
        with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
            archive.extractall(folder, filter="data")
        yield Path(folder)
