"""What a user of the command sees while a run goes on, and what afterwards."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mergedistill.cli.app import app
from mergedistill.recipe.recipe import Recipe
from mergedistill.run.run import run


def test_a_run_tells_a_log_each_stage_and_each_evaluation_and_prints_the_student_s_folder(
    recipe_of: Callable[..., Recipe], tmp_path: Path
) -> None:
    recipe_of(train={"steps": 4, "tokens": 256, "evaluate_every": 2})

    done = CliRunner().invoke(app, ["run", str(tmp_path / "recipe.yaml")])

    assert done.exit_code == 0, done.output
    assert done.stdout == f"{tmp_path / 'run' / 'student'}\n"
    lines = done.stderr.splitlines()
    starts = [re.match("ranking|lines compared|recording|training|the student", line) for line in lines]  # fmt: skip
    told = list(dict.fromkeys(start[0] for start in starts if start))
    assert told == ["ranking", "lines compared", "recording", "training", "the student"]
    evaluated = [line for line in lines if line.startswith("evaluated")]
    figures = r"evaluated [24]/4 \((50|100) %\), \d+\.\d{3} bits per byte on held-out text"
    assert [bool(re.match(figures, line)) for line in evaluated] == [True, True]


def test_steps_are_told_with_their_loss_and_rate(recipe_of: Callable[..., Recipe]) -> None:
    told: list[str] = []

    run(recipe_of(), until="train", watch=lambda done, total, what: told.append(what))

    steps = [what for what in told if what.startswith("training")]
    assert re.fullmatch(r"training, loss \d+\.\d\d, [\d,.]+ tokens/s", steps[-1])


def test_quiet_says_nothing_but_the_result(
    recipe_of: Callable[..., Recipe], tmp_path: Path
) -> None:
    recipe_of()

    done = CliRunner().invoke(
        app, ["run", str(tmp_path / "recipe.yaml"), "--until", "rank", "--quiet"]
    )

    assert (done.exit_code, done.stdout, done.stderr) == (0, "done until rank\n", "")


@pytest.mark.parametrize("stage", ["--until", "--force"])
def test_a_stage_that_is_not_there_is_refused_with_those_that_are(
    recipe_of: Callable[..., Recipe], tmp_path: Path, stage: str
) -> None:
    recipe_of()

    done = CliRunner().invoke(app, ["run", str(tmp_path / "recipe.yaml"), stage, "trian"])

    assert done.exit_code == 2
    assert (
        done.stderr
        == "there is no stage 'trian': they are rank, vocabulary, record, train, card.\n"
    )
    assert not (tmp_path / "run").exists()
