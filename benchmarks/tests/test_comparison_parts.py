"""Parts of a comparison that go side by side make no model twice."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))

from comparison_parts import Part, make, rounds

SYSTEMS = ["whole+full", "cut+full+labels", "small+full+labels", "bistil+full+labels", "bistil+full", "bistil"]  # fmt: skip


def test_models_are_made_before_they_learn_and_teachers_before_they_teach() -> None:
    models, from_labels, from_teachers = rounds(SYSTEMS, ["pos", "bitext", "ner"])

    assert models == [
        Part(("whole+full",), ("bitext",)),
        Part(("cut+full+labels", "small+full+labels"), ("bitext",)),
        Part(("bistil+full+labels", "bistil+full", "bistil"), ("bitext",)),
    ]
    assert Part(("small+full+labels",), ("ner",)) in from_labels
    assert len(from_labels) == 8
    assert from_teachers == [Part(("bistil+full", "bistil"), (task,)) for task in ("pos", "ner")]


def test_teachers_that_are_a_system_themselves_teach_side_by_side() -> None:
    *_, from_labels, from_teachers = rounds([*SYSTEMS, "whole"], ["bitext", "pos"])

    assert Part(("whole",), ("pos",)) in from_labels
    assert from_teachers == [Part((name,), ("pos",)) for name in ("bistil+full", "bistil")]


def test_without_a_task_that_asks_models_as_they_are_learning_makes_them() -> None:
    models, from_labels, _ = rounds(SYSTEMS, ["pos", "ner"])

    assert not models
    assert Part(("cut+full+labels", "small+full+labels"), ("pos", "ner")) in from_labels


def test_a_part_that_fails_is_named_and_stops_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def follow(part: Part) -> None:
        (tmp_path / part.tasks[0]).write_text(str(os.getpid()))
        assert part.tasks != ("ner",)

    bad, good = Part(("bistil",), ("ner",)), Part(("bistil",), ("pos",))

    assert make([[bad, good], [Part((), ("dp",))]], follow, processes=2) == [bad]

    assert "round 1, bistil, ner: failed" in capsys.readouterr().out
    assert (tmp_path / "pos").read_text() != str(os.getpid())
    assert not (tmp_path / "dp").exists()
