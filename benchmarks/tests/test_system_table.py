"""The table of systems says who is ahead of bistil and who behind it, by paired tests over the same items."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))

from system_table import system_table

from xeval import Items, Result, append_result, read_results

RIGHT = {"whole+full": 90, "bistil+full": 80, "cut+full": 40, "small+full": 79}


def _results(file: Path) -> list[Result]:
    for model, right in RIGHT.items():
        for language in ("de", "fi"):
            rows = np.array([[number < right, 1] for number in range(100)], dtype=int)
            items = Items(metric="accuracy", rows=rows, test_digest="0" * 16)
            result = Result(
                model=model, model_digest=f"{model}-digest", task="topic", dataset=f"sib200/{language}", split="test", language=language,
                source_language="en", protocol={}, seed=0, metric="accuracy", value=items.value(), n=100,
            )  # fmt: skip
            append_result(file, result, items=items)
    return read_results(file)


def test_arrows_stand_where_a_difference_is_shown(tmp_path: Path) -> None:
    costs = {f"{model}-digest": {"parameters": 2_500_000} for model in RIGHT}

    table = system_table(
        _results(tmp_path / "results.jsonl"), costs, list(RIGHT), {"topic": ["de", "fi"]}
    )

    lines = {line.split("`")[1]: line for line in table.splitlines() if "`" in line}
    assert lines["whole+full"].endswith("| 2.5 | 90.00 (100.0 %) ↑ |")
    assert lines["cut+full"].endswith("| 40.00 (44.4 %) ↓ |")
    assert lines["small+full"].endswith(
        "| 79.00 (87.8 %) |"
    )  # a difference of one item in a hundred
    assert lines["bistil+full"].endswith("| 80.00 (88.9 %) |")


@pytest.mark.parametrize(
    ("systems", "said"),
    [
        (["bistil+full"], ["no shares of it", "there is none to test it against"]),
        (["whole+full"], ["nothing is tested against it"]),
        (["bistil+full", "cut+full"], ["no shares of it"]),
        (list(RIGHT), []),
    ],
)
def test_what_cannot_be_said_without_the_whole_model_or_a_rival_is_said_so(
    systems: list[str], said: list[str], tmp_path: Path
) -> None:
    rows = [row for row in _results(tmp_path / "results.jsonl") if row.model in systems]

    table = system_table(rows, {}, systems, {"topic": ["de", "fi"]})

    sentences = ["no shares of it", "nothing is tested against it", "there is none to test it against"]  # fmt: skip
    assert [sentence for sentence in sentences if sentence in table] == said
    assert (" %)" in table) == ("whole+full" in systems)
    assert ("Arrows are" in table) == (len(systems) > 1)
    assert all(f"{RIGHT[system]:.2f}" in table for system in systems)


def test_a_task_that_some_system_lacks_is_no_column(tmp_path: Path) -> None:
    table = system_table(
        _results(tmp_path / "results.jsonl"), {}, ["bistil+full", "scratch+full"], {"topic": ["de", "fi"]}
    )  # fmt: skip

    assert "topic" not in table
