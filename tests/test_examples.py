"""The recipes that people copy: all of them are sound, and the toy one runs as its README says."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from preloaded import preloaded_python

from mergedistill import read_recipe
from teacherzoo.catalogue.catalogue import catalogue_entry

EXAMPLES = Path(__file__).parents[1] / "examples"
RECIPES = sorted(EXAMPLES.glob("*.yaml"))
PUBLIC = [file for file in RECIPES if file.name != "toy.yaml"]


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_every_recipe_validates(file: Path) -> None:
    recipe = read_recipe(file)

    assert recipe.student.shape.head_count >= 1
    assert Path(recipe.out).parent.name == "runs"


@pytest.mark.parametrize("file", PUBLIC, ids=lambda file: file.stem)
def test_public_teachers_are_in_the_catalogue_and_know_their_languages(file: Path) -> None:
    for stated in read_recipe(file).teachers:
        entry = catalogue_entry(stated.teacher)
        assert entry.head == "masked-lm"
        if entry.languages:
            assert set(stated.languages) <= set(entry.languages)


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_training_arguments_are_those_of_transformers(file: Path) -> None:
    from transformers import TrainingArguments

    known = set(TrainingArguments.__dataclass_fields__)
    assert known >= set(read_recipe(file).train.arguments)


def test_the_readme_names_every_recipe() -> None:
    text = (EXAMPLES / "README.md").read_text()

    assert [file.name for file in RECIPES if f"`{file.name}`" not in text] == []


@pytest.mark.slow
def test_the_toy_recipe_runs_as_its_readme_says(tmp_path: Path) -> None:
    root = EXAMPLES.parent
    (tmp_path / "tools").mkdir()
    for file in (root / "tools").glob("toyworld*.py"):
        shutil.copy(file, tmp_path / "tools")
    folder = tmp_path / "examples"
    folder.mkdir()
    # A twentieth of the steps, on a third of the text: enough to see every command work.
    recipe, text = ((EXAMPLES / name).read_text() for name in ("toy.yaml", "README.md"))
    (folder / "toy.yaml").write_text(
        _with(recipe, {"steps: 1000": "steps: 50\n  evaluate_every: 25"})
    )
    text = _with(text, {"--steps 1000": "--steps 50", "--words 40000": "--words 13000"})
    commands = re.findall(r"^\$ (.*)$", text, flags=re.MULTILINE)
    with preloaded_python(commands=("mergedistill", "teacherzoo")) as programs:
        path = os.pathsep.join((str(programs), os.environ["PATH"]))
        for command in commands[:-1]:  # the last one, `ablate`, is the run six times over
            done = subprocess.run(
                command, shell=True, cwd=folder, env=os.environ | {"PATH": path}, capture_output=True, text=True
            )  # fmt: skip
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"

    student = folder / "runs" / "toy" / "student"
    assert (student / "README.md").is_file()
    assert (student / "curves.png").is_file()
    _fills_masks(student, folder / "world" / "corpora")


def _with(text: str, smaller: dict[str, str]) -> str:
    for stated, replacement in smaller.items():
        assert stated in text
        text = text.replace(stated, replacement)
    return text


def _fills_masks(student: Path, corpora: Path) -> None:
    import lzma

    from transformers import pipeline

    fill = pipeline("fill-mask", model=str(student))
    for language in ("qav", "qov", "qyr"):
        text = lzma.decompress((corpora / f"{language}.txt.xz").read_bytes()).decode()
        line = text.splitlines()[0].split()
        line[2] = fill.tokenizer.mask_token
        guesses = fill(" ".join(line))
        assert len(guesses) == 5
        assert guesses[0]["score"] > 1e-3
