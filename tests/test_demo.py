"""The demo, told anew: it ends well, and the README shows what it shows."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CELL = re.compile(r"([\d.]+) ±([\d.]+)")


def table(markdown: str) -> dict[str, list[str]]:
    lines = [line for line in markdown.splitlines() if line.startswith("| ")]
    return {name: cells for name, *cells in (line.strip("| ").split(" | ") for line in lines)}


@pytest.mark.slow
def test_the_table_in_the_readme_is_the_demos_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Figures hold for the machine and the torch that they were made with; elsewhere the story is told in a tenth of the steps."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = readme.split("<!-- demo -->")[1].split("<!-- /demo -->")[0]
    for folder in ("examples", "benchmarks"):
        monkeypatch.syspath_prepend(str(ROOT / folder))
    from demo_page import where

    same_machine = shown.strip().endswith(where())
    command = [sys.executable, str(ROOT / "examples" / "demo.py"), "--out", str(tmp_path / "demo")]
    subprocess.run([*command, *["--quick"] * (not same_machine)], check=True, cwd=tmp_path)
    written = (tmp_path / "demo" / "table.md").read_text(encoding="utf-8")
    made, there = table(written), table(shown)

    page = (tmp_path / "demo" / "report.html").read_text(encoding="utf-8")
    assert page.count("<img") == 4
    assert "http" not in page
    assert made.keys() == there.keys()
    assert made["model"] == there["model"]
    compared = 0
    for model, cells in made.items():
        for cell, cell_shown in zip(cells, there[model], strict=True):
            new, old = CELL.fullmatch(cell), CELL.fullmatch(cell_shown)
            assert bool(new) == bool(old), (model, cell, cell_shown)
            if new and old:
                apart = abs(float(new[1]) - float(old[1]))
                if same_machine:
                    assert apart <= float(new[2]) + float(old[2]), (model, cell, cell_shown)
                compared += 1
    assert compared >= 4 * (len(made) - 2)  # every model on four languages


def test_a_folder_without_text_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "examples" / "demo.py"), "--data", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    assert done.returncode == 2
    assert "there is no corpora/en.txt" in done.stderr
    assert not (tmp_path / "demo").exists()
