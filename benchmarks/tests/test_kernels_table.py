"""The tables of kdkernels' README say what the records say."""

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import kernels_table
from latest import Comparison, read


def test_the_readme_shows_the_newest_records() -> None:
    readme = kernels_table.README.read_text(encoding="utf-8")
    wanted = kernels_table.with_tables(readme, read([kernels_table.RECORDS]))

    assert readme == wanted, "run python benchmarks/kernels_table.py"


def comparison(commit: str, ratio: float, **changes: Any) -> Comparison:
    shape = {"V": 250_002, "H": 768, "bias": True}
    record = {
        "contender": "linear_distil_loss", "commit": commit, "machine": "NVIDIA H100 80GB HBM3", "median": ratio / 50,
        "ratio": {"median": ratio}, "memory_bytes": 3 << 30,
    } | changes  # fmt: skip
    return Comparison(
        question="kdkernels_teacher", what=kernels_table.TOP_K, shape=shape, quick=False, records=(record,)
    )  # fmt: skip


def test_the_newest_run_on_the_machine_is_shown() -> None:
    runs = [
        comparison("old", 1.5),
        comparison("new", 1.25),
        comparison("cpu", 9.0, machine="other"),
    ]

    assert kernels_table.measured(runs).splitlines()[2:] == [
        "| implementation | time | of the products | extra memory |",
        "| --- | ---: | ---: | ---: |",
        "| `linear_distil_loss` | 25 ms | 1.25 | 3,072 MiB |",
    ]
    assert "(commit new)" in kernels_table.measured(runs)


def test_what_was_not_measured_is_not_shown() -> None:
    assert kernels_table.measured([]) == ""


def test_a_readme_without_the_marks_is_left_alone() -> None:
    with pytest.raises(ValueError, match="has no place for the tables"):
        kernels_table.with_tables("# kdkernels\n", [])
