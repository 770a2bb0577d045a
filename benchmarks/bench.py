"""Runs the questions of this folder: the tests of what is measured first, then the figures, then the report.

    python benchmarks/bench.py                        the quick set, at quick sizes
    python benchmarks/bench.py kdkernels xeval_cost   the questions whose names begin so
    python benchmarks/bench.py --full                 every question, at the sizes that the goals are stated for
    python benchmarks/bench.py --peers                in an environment of its own, with the rivals of peers.txt
    python benchmarks/bench.py --base main            the working tree against a commit, in turns; slower exits 1

Everything is written to `.bench/`: `latest.jsonl` (or `comparison.json` with --base), `report.html` and `report.md`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import report
from compare_commits import Outcome, compare, sources
from peers import environment
from questions import ROOT, BenchError, Question, choose, read_questions


def main() -> int:
    """0: measured; 1: a test is red, a question failed, or something is slower beyond noise; 2: misuse."""
    try:
        return run(_arguments(sys.argv[1:]))
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2


def run(arguments: argparse.Namespace, root: Path = ROOT) -> int:
    """Test, measure and report."""
    wanted = choose(read_questions(root), arguments.names, full=arguments.full)
    if arguments.base and not arguments.names:
        wanted = _changed(wanted, arguments.base, root)
    output = _output_folder(root)
    python = environment(root, output / "peers") if arguments.peers else sys.executable
    given = {name for name in ("data", "model") if getattr(arguments, name) is not None}
    wanted = _possible(wanted, python, given)
    if not wanted:
        print("bench: nothing to measure.")
        return 0
    options = [] if arguments.full else ["--quick"]
    for name in sorted(given):
        options += [f"--{name}", str(getattr(arguments, name).resolve())]
    known: dict[str, bool] = {}
    green = [question for question in wanted if _tested(question, python, root, known)]
    faults = [f"{question.name}: its tests are red" for question in wanted if question not in green]
    outcome = None
    if arguments.base:
        outcome = compare(
            green, arguments.base, root=root, python=python, options=options, say=print
        )
        (output / "comparison.json").write_text(
            json.dumps(outcome.to_json(), indent=1), encoding="utf-8"
        )
        print(report.comparison_markdown(outcome))
    else:
        faults += _measure(green, python, options, output / "latest.jsonl", root)
    _report(output, outcome, arguments.history, root)
    for fault in faults:
        print(f"bench: {fault}.", file=sys.stderr)
    return 1 if faults or (outcome is not None and outcome.red) else 0


def _arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        exit_on_error=False,
    )
    parser.add_argument("names", nargs="*", help="how the names of questions begin")
    parser.add_argument("--full", action="store_true", help="full sizes; all, unless named")
    parser.add_argument("--data", type=Path, help="a folder of real text")
    parser.add_argument("--model", type=Path, help="the folder of multilingual-e5-small")
    parser.add_argument("--peers", action="store_true", help="with the rivals of peers.txt")
    parser.add_argument("--base", help="a commit to compare the working tree with")
    parser.add_argument(
        "--history", type=Path, action="append", default=[], help="records of earlier runs"
    )
    try:
        arguments, unknown = parser.parse_known_args(given)
    except argparse.ArgumentError as error:
        raise BenchError(f"{error}.") from error
    if unknown:
        raise BenchError(
            f"bench knows no argument {unknown[0]!r}: it takes NAMES, --full, --data DIR, --model DIR, --peers, "
            "--base REF and --history FILE."
        )
    for name in ("data", "model"):
        folder = getattr(arguments, name)
        if folder and not folder.is_dir():
            raise BenchError(f"--{name} {str(folder)!r} is no folder.")
    return arguments


def _output_folder(root: Path) -> Path:
    """The folder of what a run leaves, which git does not see."""
    output = root / ".bench"
    output.mkdir(exist_ok=True)
    (output / ".gitignore").write_text("*\n")
    return output


def _changed(questions: list[Question], base: str, root: Path) -> list[Question]:
    """The questions about packages that differ from `base`, or stand above one that does."""
    sys.path.insert(0, str(root / "tools"))
    from changed import changed_files, changed_packages
    from graph import WorkspaceError, read_packages

    try:
        touched = changed_packages(read_packages(root), changed_files(root, base))
    except WorkspaceError as error:
        raise BenchError(str(error)) from error
    return [question for question in questions if question.package in touched]


def _possible(questions: Sequence[Question], python: str, given: set[str]) -> list[Question]:
    """The questions whose needs are met by the folders `given`, and by the machine; the others are named."""
    met = {None: True, "data": "data" in given, "model": {"data", "model"} <= given}
    if any(question.needs == "gpu" for question in questions):
        look = "import sys, torch; sys.exit(not torch.cuda.is_available())"
        done = subprocess.run([python, "-c", look], capture_output=True)
        met["gpu"] = done.returncode == 0
    words = {
        "data": "--data FOLDER",
        "model": "--model FOLDER and --data FOLDER",
        "gpu": "a CUDA device",
    }
    for question in questions:
        if not met[question.needs]:
            print(f"absent: {question.name} needs {words[question.needs or '']}")
    return [question for question in questions if met[question.needs]]


def _tested(question: Question, python: str, root: Path, known: dict[str, bool]) -> bool:
    """Whether all tests of a question are green; each file runs once."""
    for test in question.tests:
        if test not in known:
            print(f"testing {test}", flush=True)
            done = subprocess.run([python, "-m", "pytest", "-q", test], cwd=root)
            known[test] = done.returncode == 0
    return all(known[test] for test in question.tests)


def _measure(
    questions: Sequence[Question], python: str, options: Sequence[str], out: Path, root: Path
) -> list[str]:
    """Run the questions one after the other; the faults."""
    out.unlink(missing_ok=True)
    faults = []
    for question in questions:
        print(f"\n== {question.name}", flush=True)
        done = subprocess.run(
            [python, str(question.file), *options, "--out", str(out)],
            env=os.environ | {"PYTHONPATH": sources(root)},
        )
        if done.returncode != 0:
            faults.append(f"{question.name} failed with exit {done.returncode}")
    return faults


def _report(output: Path, outcome: Outcome | None, history: Sequence[Path], root: Path) -> None:
    files = [*sorted((root / "benchmarks" / "results").glob("*.jsonl")), *history]
    latest = output / "latest.jsonl"
    runs = report.read([*files, *([latest] if latest.exists() else [])])
    (output / "report.html").write_text(report.page(runs, outcome), encoding="utf-8")
    (output / "report.md").write_text(report.markdown(runs, outcome), encoding="utf-8")
    print(f"\nreport: {output / 'report.html'}")


if __name__ == "__main__":
    sys.exit(main())
