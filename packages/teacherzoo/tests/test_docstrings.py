import doctest
from importlib import import_module
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    "module",
    [
        "encoders.families",
        "encoders.heads",
        "encoders.layers",
        "pretrain.continued",
        "pretrain.pretrain",
        "rank.rank",
        "signals.record",
        "signals.stats",
        "signals.verify",
        "signals.verify_samples",
        "text.corpora",
        "text.words",
        "training.loss_module",
        "yaml_values",
    ],
)
def test_examples_run(
    module: str,
    teacher: Path,
    text: Path,
    recording: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "teacher").symlink_to(teacher)
    (tmp_path / "en.txt").symlink_to(text)
    if module != "signals.record":
        (tmp_path / "signals").symlink_to(recording)
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(import_module(f"teacherzoo.{module}"))
    assert result.attempted > 0
    assert result.failed == 0
