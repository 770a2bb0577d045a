"""Measuring and recording, for every file in this folder.

A question is one file. It races contenders in one run, interleaved, and records the outcome::

    from record import Recorder, extra_memory, race

    recorder = Recorder("kdkernels_distil", arguments)      # arguments: an argparse namespace with .out
    times = race({"ours": ours, "three products": floor}, repeats=7)
    recorder.add(
        "step time", times, unit="s", floor="three products", bar={"ours": 1.15},
        memory={"ours": extra_memory(ours)}, shape={"N": 1024, "V": 120_000},
    )
    recorder.close()                                        # prints the table

Nothing here knows a package of ours. Only ratios between contenders of one run mean anything: the machines are shared.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import gc
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LIBRARIES = (
    *("torch", "triton", "transformers", "tokenizers", "datasets", "deepspeed", "pyarrow", "numpy"),
    *("liger-kernel", "skeletoken", "textbrewer", "fvcore", "onnx", "onnxruntime"),
)
CPU_FLAGS = (
    *("avx2", "avx_vnni", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8"),
    *("asimddp", "i8mm"),  # of ARM
)


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A measured quantity: the median of its repeats, and their 20th and 80th percentile."""

    median: float
    low: float
    high: float
    repeats: int


def spread(samples: Sequence[float]) -> Spread:
    """Summarise repeats."""
    ordered = sorted(samples)
    last = len(ordered) - 1
    return Spread(
        median=statistics.median(ordered),
        low=ordered[round(0.2 * last)],
        high=ordered[round(0.8 * last)],
        repeats=len(ordered),
    )


def race(
    contenders: Mapping[str, Callable[[], object]], *, repeats: int = 7, warmup: int = 1
) -> dict[str, list[float]]:
    """Time every contender `repeats` times, taking turns, so that a noisy minute harms all alike.

    Returns:
        For each contender, its times in seconds, in order; times of one index belong to one turn.
    """
    for _ in range(warmup):
        for run in contenders.values():
            run()
    times: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for turn in range(repeats):
        for name in names if turn % 2 == 0 else reversed(names):
            gc.collect()
            _synchronize()
            start = time.perf_counter()
            contenders[name]()
            _synchronize()
            times[name].append(time.perf_counter() - start)
    return times


def extra_memory(run: Callable[[], object]) -> int:
    """Peak bytes that `run` needs beyond what is held before it: device memory on a GPU, else resident memory."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return int(torch.cuda.max_memory_allocated() - before)
    Path("/proc/self/clear_refs").write_text(
        "5"
    )  # sets the high-water mark back to what is resident now
    before = status_bytes("VmRSS")
    result = run()
    peak = status_bytes("VmHWM")
    del result
    return peak - before


def timed_dtypes() -> dict[str, Any]:
    """The dtypes that this machine computes in; without units for bfloat16 its times in it say nothing."""
    torch = sys.modules["torch"]
    bfloat16 = torch.cuda.is_available() or any(flag.endswith("_bf16") for flag in _processor()[1])
    return {"fp32": torch.float32} | ({"bf16": torch.bfloat16} if bfloat16 else {})


def parser(description: str) -> argparse.ArgumentParser:
    """The arguments that every question takes."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--quick", action="store_true", help="a smaller run, at most a minute")
    made.add_argument("--out", type=Path, help="append the records to this JSON Lines file")
    made.add_argument(
        "--data", type=Path, help="a folder of real text, for the questions that can use one"
    )
    made.add_argument(
        "--model",
        type=Path,
        default=os.environ.get("DISTILLERY_E5"),
        help="the folder of multilingual-e5-small or another sentence encoder, for the questions that need one; "
        "by default what DISTILLERY_E5 names",
    )
    return made


class Recorder:
    """Collects the outcomes of one question; appends each to `--out` as JSON Lines at once, and prints a table of all."""

    def __init__(self, question: str, arguments: argparse.Namespace) -> None:
        self._question = question
        self._out: Path | None = arguments.out
        self._quick: bool = arguments.quick
        self._records: list[dict[str, Any]] = []
        # Of what was begun with: records in the checkout, or work that goes on there, change no figure.
        self._commit = _commit()

    def add(
        self,
        what: str,
        samples: Mapping[str, Sequence[float]],
        *,
        unit: str,
        floor: str | None = None,
        bar: Mapping[str, float] | None = None,
        at_least: bool = False,
        memory: Mapping[str, int] | None = None,
        shape: Mapping[str, object] | None = None,
        along: str | None = None,
    ) -> None:
        """Record one comparison.

        Args:
            what: what is compared, in words.
            samples: the repeats of every contender (times, or any quantity with `unit`).
            unit: of the samples.
            floor: the contender to which ratios are taken, repeat by repeat.
            bar: per contender, the goal: for its ratio to the floor, or for its value where there is no floor.
            at_least: whether the goal is a lower bound.
            memory: per contender, peak extra bytes.
            shape: sizes and options that the figures hold for.
            along: the size in `shape` over which the picture draws a curve through such comparisons.
        """
        made: list[dict[str, Any]] = []
        for name, values in samples.items():
            value = spread(values)
            ratio = (
                spread([a / b for a, b in zip(values, samples[floor], strict=True)])
                if floor is not None
                else None
            )
            goal = (bar or {}).get(name)
            judged = (ratio or value).median
            made.append(
                {
                    "question": self._question,
                    "what": what,
                    "contender": name,
                    "unit": unit,
                    **vars(value),
                    "floor": floor,
                    "ratio": vars(ratio) if ratio else None,
                    "bar": goal,
                    "at_least": at_least,
                    "met": None
                    if goal is None
                    else (judged >= goal if at_least else judged <= goal),
                    "memory_bytes": (memory or {}).get(name),
                    "shape": dict(shape or {}),
                    **({"along": along} if along else {}),
                    "quick": self._quick,
                    "commit": self._commit,
                    **_provenance(),
                }
            )
        self._records += made
        self._write(made)

    def close(self) -> None:
        """Print the table."""
        print(_table(self._records))

    def _write(self, records: Sequence[Mapping[str, Any]]) -> None:
        if self._out is not None:
            self._out.parent.mkdir(parents=True, exist_ok=True)
            with self._out.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(record, sort_keys=True) + "\n" for record in records)


def _table(records: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    heading: tuple[str, str] | None = None
    for record in records:
        shape = " ".join(f"{key}={value}" for key, value in record["shape"].items())
        if (record["what"], shape) != heading:
            heading = (record["what"], shape)
            lines.append(f"\n{record['what']}  [{shape}]")
        line = f"  {record['contender']:<34} {record['median']:>11.4g} {record['unit']:<4}"
        line += f" ({record['low']:.4g} to {record['high']:.4g})"
        if record["ratio"] and record["contender"] != record["floor"]:
            line += f"  x{record['ratio']['median']:.3f} of {record['floor']}"
        if record["memory_bytes"] is not None:
            line += f"  +{record['memory_bytes'] / 2**20:.0f} MiB"
        if record["bar"] is not None:
            sign = ">=" if record["at_least"] else "<="
            line += f"  bar {sign} {record['bar']:g}: {'met' if record['met'] else 'MISSED'}"
        lines.append(line)
    return "\n".join(lines)


def _provenance() -> dict[str, Any]:
    versions = {}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    torch = sys.modules.get("torch")
    return {
        "machine": machine(),
        "threads": torch.get_num_threads() if torch is not None else os.cpu_count(),
        "versions": {"python": platform.python_version(), **versions},
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def machine() -> str:
    """The machine in one line: its GPU where there is one, else its processor, cores and vector units."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    model, flags = _processor()
    return f"{model}, {os.cpu_count()} cores, {' '.join(flags)}"


def _processor() -> tuple[str, list[str]]:
    """Its name, and which of `CPU_FLAGS` it has."""
    model, flags = platform.machine(), set[str]()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                model = value.strip()
            elif key.strip() == "flags":
                flags = set(value.split())
    return model, [flag for flag in CPU_FLAGS if flag in flags]


def _commit() -> str:
    asked = ["git", "describe", "--always", "--dirty", "--exclude", "*"]
    with contextlib.suppress(OSError):  # a bare machine may have no git
        done = subprocess.run(asked, capture_output=True, text=True, cwd=Path(__file__).parent)
        return done.stdout.strip() or "unknown"
    return "unknown"


def _synchronize() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.synchronize()


def status_bytes(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {key}")
