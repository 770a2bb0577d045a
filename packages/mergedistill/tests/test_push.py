from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mergedistill.cli.app import app


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "de.txt").write_text("x")
    file = tmp_path / "recipe.yaml"
    file.write_text(
        "out: run\nlanguages: {de: de.txt}\nteachers: [{teacher: nowhere/x, languages: [de]}]\n"
    )
    return file


def test_a_finished_student_is_pushed_without_the_notes_of_its_run(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed: list[Any] = []

    def push(*arguments: Any, **options: Any) -> str:
        pushed.append((arguments, options))
        return "https://huggingface.co/someone/ours"

    monkeypatch.setattr("vocabmerge.hub.push.push_folder", push)
    module = import_module("mergedistill.run.run")  # a function of the package has that name, too
    monkeypatch.setattr(module, "run", lambda *_, **__: tmp_path / "student")

    done = CliRunner().invoke(app, ["run", str(recipe), "--push", "someone/ours", "--quiet"])

    assert done.exit_code == 0, done.output
    assert "https://huggingface.co/someone/ours" in done.stdout
    [(arguments, options)] = pushed
    assert arguments == (tmp_path / "student", "someone/ours")
    assert options["ignore"] == ["stage.json", "made_of.json"]
    assert options["public"] is False


def test_a_bad_name_is_refused_before_the_run(recipe: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["run", str(recipe), "--push", "not a name"])

    assert done.exit_code == 2
    assert "OWNER/NAME" in done.stderr
    assert not (tmp_path / "run").exists()
