"""The examples that docstrings show."""

import doctest
from importlib import import_module
from pathlib import Path

import pytest

SHOWN = (
    "encoders.capture", "encoders.prompts", "export.measure", "extract.config", "extract.run", "losses.matching", "losses.terms.soft_labels",
    "losses.weights", "lottery.select", "sparse.apply", "sparse.files", "sparse.gap_coding", "student.layers",
    "student.units",
)  # fmt: skip


@pytest.mark.parametrize("module", SHOWN)
def test_examples_run(
    module: str,
    teacher: Path,
    texts: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "teacher").symlink_to(teacher)
    for language in ("en", "sw"):
        (tmp_path / f"{language}.txt").symlink_to(texts[language])
    monkeypatch.chdir(tmp_path)

    result = doctest.testmod(import_module(f"bistil.{module}"))

    assert result.attempted > 0
    assert result.failed == 0
