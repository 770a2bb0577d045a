"""A small town: two languages, their text, teachers of each, and recipes over them; pretrained once for all tests."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from toyworld import World

from mergedistill.recipe.read import read_recipe
from mergedistill.recipe.recipe import Recipe
from teacherzoo import Corpus
from teacherzoo.pretrain.config import PretrainingConfig
from teacherzoo.pretrain.pretrain import pretrain_teacher

LANGUAGES = ("qav", "qag")


@pytest.fixture(scope="session")
def town(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `qav.txt` and `qag.txt` and teachers: `wp` and `wp-other` (one tokenizer, other weights) and `uni` of
    the first language, `foreign` of the second."""
    folder = tmp_path_factory.mktemp("town")
    toy = World(seed=0)
    for language in LANGUAGES:
        text = "\n".join(toy.sentences(language, 400)) + "\n"
        (folder / f"{language}.txt").write_text(text, encoding="utf-8")
    pretrained = (
        ("wp", "qav", "wordpiece"),
        ("uni", "qav", "unigram"),
        ("foreign", "qag", "wordpiece"),
    )
    for name, language, family in pretrained:
        pretrain_teacher(
            [Corpus(language, folder / f"{language}.txt", held_out_share=0.05)],
            folder / name,
            config=PretrainingConfig(
                family=family,  # type: ignore[arg-type]  # one of the two
                vocabulary=300,
                layers=2,
                width=32,
                steps=30,
                batch=16,
                length=32,
            ),
        )
    _shaken(folder / "wp", folder / "wp-other")
    return folder


def _shaken(source: Path, target: Path) -> None:
    """The same teacher with a little noise on its weights."""
    import torch
    from transformers import AutoModelForMaskedLM

    shutil.copytree(source, target)
    model = AutoModelForMaskedLM.from_pretrained(source)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(target)


@pytest.fixture
def recipe_of(town: Path, tmp_path: Path) -> Callable[..., Recipe]:
    """Makes recipes: the keys given replace those of a small one with a teacher for each language."""

    def made(**changes: object) -> Recipe:
        stated: dict[str, object] = {
            "out": "run",
            "languages": {language: str(town / f"{language}.txt") for language in LANGUAGES},
            "teachers": [
                {"teacher": str(town / "wp"), "languages": ["qav"]},
                {"teacher": str(town / "foreign"), "languages": ["qag"]},
            ],
            "held_out_share": 0.05,
            "rank": {"documents": 10},
            "vocabulary": {"normalizer": "keep"},
            "student": {"layers": 1, "width": 32},
            "distil": {"block_length": 32},
            "train": {"steps": 4, "tokens": 256, "checkpoint_every": 2},
        }
        stated |= changes
        file = tmp_path / "recipe.yaml"
        file.write_text(yaml.safe_dump(stated))
        return read_recipe(file)

    return made
