"""The demo, told anew: it ends well, goes on where it was, and the README shows what it shows."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CELL = re.compile(r"([\d.]+) ±([\d.]+)")


def rows(markdown: str) -> dict[str, list[str]]:
    lines = [line.strip("| ").split(" | ") for line in markdown.splitlines() if "|" in line]
    return {name: cells for name, *cells in lines if not name.startswith("---")}


@pytest.mark.slow
def test_the_table_in_the_readme_is_the_demos_own(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "examples" / "demo.py"), "--out", str(tmp_path / "demo")]
    subprocess.run(command, check=True, cwd=tmp_path)
    told = rows((tmp_path / "demo" / "table.md").read_text(encoding="utf-8"))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = rows(readme.split("<!-- demo -->")[1].split("<!-- /demo -->")[0])

    assert shown.keys() == told.keys()
    assert shown["model"] == told["model"]
    compared = 0
    for model, cells in told.items():
        for here, there in zip(cells, shown[model], strict=True):
            mine, its = CELL.fullmatch(here), CELL.fullmatch(there)
            if mine and its:
                apart = abs(float(mine[1]) - float(its[1]))
                assert apart <= float(mine[2]) + float(its[2]), (model, here, there)
                compared += 1
    assert compared >= 4 * (len(told) - 2)  # every model on four languages

    again = subprocess.run(command, check=True, cwd=tmp_path, capture_output=True, text=True)
    assert "Told in" in again.stdout
    page = (tmp_path / "demo" / "report.html").read_text(encoding="utf-8")
    assert page.count("<img") == 4
    assert "http" not in page
