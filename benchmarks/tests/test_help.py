"""Every benchmark says what it takes."""

import runpy
import sys
from pathlib import Path

import pytest

BENCHMARKS = sorted(
    file
    for file in Path(__file__).parents[1].glob("*.py")
    if "parse_args()" in (source := file.read_text(encoding="utf-8")) and "__main__" in source
)


@pytest.mark.parametrize("file", BENCHMARKS, ids=lambda file: file.stem)
def test_help_is_printed(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [str(file), "--help"])
    monkeypatch.syspath_prepend(str(file.parent))
    with pytest.raises(SystemExit, match=r"^0$"):
        runpy.run_path(str(file), run_name="__main__")
    assert "--help" in capsys.readouterr().out
