"""Everything that wants a GPU, in one command for a bare machine: the tests, the kernels' blocks, the costs.

    python benchmarks/gpu_check.py --out FOLDER [--wheels FOLDER] [--limit SECONDS] [PARTS]
    python benchmarks/gpu_check.py --collect-wheels FOLDER      before, where an index can be reached

Parts run in order of worth, each in a process and a time limit of its own; what is measured is on disk at once, so that a run
that is cut off leaves what it had. Our packages are taken from the working tree, and nothing is installed: what the machine lacks
is unpacked from --wheels into a temporary folder. What does not run is named, with the reason. FOLDER then has

    summary.txt, parts.jsonl    what ran, what did not and why, how long
    machine.json                the GPU, the driver, the libraries
    tests.jsonl                 the outcome of every test
    records.jsonl               what was measured, as benchmarks/record.py writes it
    tuned_blocks.json           rows for kdkernels' tuning.json
    log.txt                     all that the parts said
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

from gpu_check_wheels import collect, metadata_of, unpack_missing  # noqa: E402  (the path comes first)
from graph import Package, closure, read_packages  # noqa: E402

LIMIT = 540.0  # of the machine that this is for
_LEAST = 5.0  # seconds in which a part can do something
_NO_GPU = "there is no CUDA device"
# Packages whose tests and costs are worth most come first.
_ORDER = ("bistil", "teacherzoo", "mergedistill", "xeval", "kdkernels")


class CheckError(Exception):
    """The command cannot run; the message says what to do."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One process.

    Args:
        name: of the part.
        command: what to run, with the Python of this process.
        seconds: its time limit.
        reason: why it cannot run here; None where it can.
    """

    name: str
    command: tuple[str, ...]
    seconds: float
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class Status:
    """What became of a part: `done`, `failed`, `cut off` or `skipped`, and why."""

    part: str
    outcome: str
    reason: str
    seconds: float


def main(given: Sequence[str] | None = None) -> int:
    """0: everything ran that could, or there is no GPU; 1: a part failed or was cut off; 2: misuse."""
    arguments = _arguments(given)
    try:
        if arguments.collect_wheels:
            print("\n".join(collect(arguments.collect_wheels, read_packages(ROOT))))
            return 0
        return check(arguments)
    except CheckError as error:
        print(f"gpu_check: {error}", file=sys.stderr)
        return 2


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="gpu_check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("parts", nargs="*", help="names of the parts to run; all unless given")
    parser.add_argument("--out", type=Path, help="an empty or new folder")
    parser.add_argument("--wheels", type=Path, help="a folder of wheels of what the machine lacks")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds for everything")
    parser.add_argument("--collect-wheels", type=Path, help="fill this folder with such wheels")
    arguments = parser.parse_args(given)
    if bool(arguments.out) == bool(arguments.collect_wheels):
        parser.error("give --out FOLDER, or --collect-wheels FOLDER")
    return arguments


def check(arguments: argparse.Namespace) -> int:
    """Run the parts and sum up."""
    deadline = time.monotonic() + arguments.limit
    out: Path = arguments.out.resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CheckError(f"--out {str(arguments.out)!r} is there and not empty; name a new folder.")
    if arguments.wheels and not arguments.wheels.is_dir():
        raise CheckError(f"--wheels {str(arguments.wheels)!r} is no folder.")
    out.mkdir(parents=True, exist_ok=True)
    packages = read_packages(ROOT)
    with tempfile.TemporaryDirectory(prefix="gpu_check_") as scratch:
        installed = Path(scratch, "site")
        unpacked = unpack_missing(arguments.wheels, installed) if arguments.wheels else []
        metadata_of(packages, Path(scratch, "metadata"))
        environment = _environment(packages, Path(scratch, "metadata"), installed, out)
        machine_file = out / "machine.json"
        look = Part(name="machine", command=_machine_command(packages, machine_file), seconds=90)
        run = Runner(out, environment, deadline)
        run(look)
        machine = json.loads(machine_file.read_text()) if machine_file.is_file() else {}
        machine["wheels"] = unpacked
        machine_file.write_text(json.dumps(machine, indent=1) + "\n")
        parts = all_parts(packages, machine, out)
        _refuse_unknown(arguments.parts, [part.name for part in parts])
        for part in parts:
            if not arguments.parts or part.name in arguments.parts:
                run(part)
    print(run.summary(machine))
    failed = any(status.outcome in ("failed", "cut off") for status in run.statuses)
    return int(failed and bool(machine.get("gpus")))


def _refuse_unknown(names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise CheckError(f"there is no part {name!r}: they are {', '.join(known)}.")


def _environment(
    packages: dict[str, Package], metadata: Path, installed: Path, out: Path
) -> dict[str, str]:
    sources = [package.folder / "src" for package in packages.values()]
    paths = [metadata, *sources, installed, ROOT / "benchmarks"]
    inherited = os.environ.get("PYTHONPATH")
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([*map(str, paths), *([inherited] if inherited else [])]),
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "MPLBACKEND": "agg",
        "GPU_CHECK_TESTS": str(out / "tests.jsonl"),
    }


def _machine_command(packages: dict[str, Package], file: Path) -> tuple[str, ...]:
    wanted = {wanted.name for package in packages.values() for wanted in package.requirements}
    return (str(ROOT / "benchmarks" / "gpu_check_machine.py"), str(file), *sorted(wanted))


def all_parts(packages: dict[str, Package], machine: dict[str, Any], out: Path) -> list[Part]:
    """The parts in order of worth, each with the reason why it cannot run here, if there is one."""

    def reason(package: str) -> str | None:
        if not machine.get("gpus"):
            return _why_no_gpu(machine)
        lacking = missing(packages, package, machine)
        return f"{', '.join(lacking)} is missing; bring it with --wheels" if lacking else None

    def question(name: str, seconds: float, *options: str) -> Part:
        file, records = ROOT / "benchmarks" / f"{name}.py", out / "records.jsonl"
        return Part(
            name=name,
            command=(str(file), "--out", str(records), *options),
            seconds=seconds,
            reason=reason(name.partition("_")[0]),
        )

    blocks = ("--blocks", str(out / "tuned_blocks.json"))
    reasons = {package: reason(package) for package in _ORDER}
    tests = [
        Part(name=f"tests of {package}", command=(), seconds=0, reason=why)
        for package, why in reasons.items()
        if why
    ]
    tested = [package for package, why in reasons.items() if why is None]
    if tested:
        tests.append(
            Part(name="tests", command=_test_command(packages, tested, machine), seconds=180)
        )
    return [
        *tests,
        question("kdkernels_tune", 30, *blocks),
        question("kdkernels_teacher", 100, *blocks),
        question("bistil_step", 60),
        question("mergedistill_step", 60),
        question("teacherzoo_record", 60),
    ]


def _why_no_gpu(machine: dict[str, Any]) -> str:
    broken: dict[str, str] = machine.get("broken", {})
    return f"torch cannot be imported ({broken['torch']})" if "torch" in broken else _NO_GPU


def missing(packages: dict[str, Package], name: str, machine: dict[str, Any]) -> list[str]:
    """What a package and its siblings require and the machine has not."""
    needed = {
        wanted.name
        for sibling in closure(packages, name)
        for wanted in packages[sibling].requirements
    }
    return sorted(needed & set(machine.get("missing", ())))


def _test_command(
    packages: dict[str, Package], names: Sequence[str], machine: dict[str, Any]
) -> tuple[str, ...]:
    """Files with tests for a GPU, several at a time: their processes wait for compilers more than for the GPU."""
    files = [
        file
        for name in names
        for file in sorted((packages[name].folder / "tests").glob("test_*.py"))
        if "mark.gpu" in (text := file.read_text(encoding="utf-8")) or "pretended_device" in text
    ]
    workers = min(len(files), max(1, (os.cpu_count() or 1) // 2))
    several = ("-n", str(workers), "--dist", "worksteal")
    return (
        *("-m", "pytest", "-m", "gpu", "-v", "--tb=short", "-p", "no:cacheprovider"),
        *("-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT), "-p", "gpu_check_results"),
        # A warning of versions that are not those of our constraints is no failure here.
        *("-W", "default", *(() if "pytest-xdist" in machine.get("missing", ()) else several)),
        *map(str, files),
    )


class Runner:
    """Runs parts one after the other and keeps the folder up to date.

    Args:
        out: the folder.
        environment: of the processes.
        deadline: on the monotonic clock.
    """

    def __init__(self, out: Path, environment: dict[str, str], deadline: float) -> None:
        self._out, self._environment, self._deadline = out, environment, deadline
        self.statuses: list[Status] = []

    def __call__(self, part: Part) -> None:
        """Run a part, or say why not."""
        left = self._deadline - time.monotonic()
        start = time.monotonic()
        if part.reason:
            outcome, reason = "skipped", part.reason
        elif left < _LEAST:
            outcome, reason = "skipped", "the time limit of the whole run is reached"
        else:
            print(f"== {part.name}", flush=True)
            outcome, reason = self._process(part, min(part.seconds, left))
        status = Status(
            part=part.name,
            outcome=outcome,
            reason=reason,
            seconds=round(time.monotonic() - start, 1),
        )
        self.statuses.append(status)
        with (self._out / "parts.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(status)) + "\n")
        print(_line(status), flush=True)
        self.summary({})

    def _process(self, part: Part, seconds: float) -> tuple[str, str]:
        with (self._out / "log.txt").open("ab") as log:
            log.write(f"\n== {part.name}: {' '.join(part.command)}\n".encode())
            log.flush()
            process = subprocess.Popen(
                [sys.executable, *part.command],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env=self._environment,
                start_new_session=True,
            )
            try:
                code = process.wait(timeout=seconds)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                return (
                    "cut off",
                    f"the time limit of {seconds:.0f} s; what was measured before is kept",
                )
        return ("done", "") if code == 0 else ("failed", f"exit {code}; see log.txt")

    def summary(self, machine: dict[str, Any]) -> str:
        """Write `summary.txt` as things are, and return it."""
        lines = [_line(status) for status in self.statuses]
        tests = _lines_of(self._out / "tests.jsonl")
        if tests:
            outcomes = [test["outcome"] for test in tests]
            counted = ", ".join(
                f"{outcomes.count(outcome)} {outcome}" for outcome in sorted(set(outcomes))
            )
            lines.append(f"tests: {counted}")
            lines += [f"  {test['test']}: {test['message']}" for test in tests if test["outcome"] == "failed"]  # fmt: skip
        lines.append(f"records: {len(_lines_of(self._out / 'records.jsonl'))}")
        if machine:
            gpus = machine.get("gpus") or []
            lines.append(
                f"Measured on {gpus[0]['name']}."
                if gpus
                else f"Nothing was measured, for {_why_no_gpu(machine)}."
            )
        text = "\n".join(lines)
        (self._out / "summary.txt").write_text(text + "\n", encoding="utf-8")
        return text


def _line(status: Status) -> str:
    why = f" ({status.reason})" if status.reason else ""
    return f"{status.part}: {status.outcome}, {status.seconds:.1f} s{why}"


def _lines_of(file: Path) -> list[dict[str, Any]]:
    """The whole lines of a JSON Lines file, the last of which a cut-off process may have left half."""
    if not file.is_file():
        return []
    values = []
    for line in file.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError):
            values.append(json.loads(line))
    return values


if __name__ == "__main__":
    sys.exit(main())
