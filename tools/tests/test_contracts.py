"""The floors are held by import contracts; each is seen to turn red."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize(
    ("package", "line", "contract"),
    [
        ("kdkernels", "import vocabmerge", "Ground-floor packages do not know each other"),
        ("xeval", "def f():\n    from teacherzoo import x", "The ground floor imports no sibling"),
        ("teacherzoo", "import kdkernels", "teacherzoo imports vocabmerge alone"),
        (
            "bistil",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import mergedistill",
            "The second floor: never each other",
        ),
        ("mergedistill", "import xeval", "mergedistill does not import the judge"),
    ],
)
def test_a_planted_import_breaks_its_contract(
    tmp_path: Path, package: str, line: str, contract: str
) -> None:
    for source in ROOT.glob("packages/*/src"):
        shutil.copytree(
            source, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__")
        )
    (tmp_path / package / "planted.py").write_text(line + "\n")

    done = subprocess.run(
        [
            Path(sys.executable).with_name("lint-imports"),
            "--no-cache",
            "--config",
            ROOT / "pyproject.toml",
        ],
        env=os.environ | {"PYTHONPATH": str(tmp_path), "NO_COLOR": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 1
    assert f"{contract} BROKEN" in done.stdout
    assert f"{package}.planted" in done.stdout
