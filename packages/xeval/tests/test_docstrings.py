"""Examples in docstrings run as they stand, in a folder with a model, a tuned one and data."""

import doctest
import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

import xeval

SOURCES = Path(xeval.__file__).parent
MODULES = sorted(
    ".".join(path.relative_to(SOURCES.parent).with_suffix("").parts)
    for path in SOURCES.rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)
VERBS = (
    *(xeval.compare, xeval.compare_mteb, xeval.cost),
    *(xeval.run, xeval.score, xeval.summarise, xeval.tune),
)


@pytest.fixture
def folder(
    models: Callable[[str], Path], tuned_pos: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    shutil.copytree(models("bert"), tmp_path / "small")
    shutil.copytree(tuned_pos, tmp_path / "tuned")
    shutil.copytree(data / "ud", tmp_path / "data/ud")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("module", MODULES)
def test_examples_give_what_they_say(module: str) -> None:
    result = doctest.testmod(import_module(module))

    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__name__)
def test_every_verb_has_an_example_of_itself(verb: Callable[..., object]) -> None:
    examples = doctest.DocTestParser().get_examples(verb.__doc__ or "")

    assert any(f"{verb.__name__}(" in example.source for example in examples)
    assert not any(doctest.SKIP in example.options for example in examples)
