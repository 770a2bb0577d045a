"""The floors, and that nothing goes in a circle, are held by import contracts; each is seen to turn red."""

import ast
import os
import shutil
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
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
    sources = _copied_sources(tmp_path)
    (sources / package / "planted.py").write_text(line + "\n")

    done = _lint_imports(sources)

    assert done.returncode == 1
    assert f"{contract} BROKEN" in done.stdout
    assert f"{package}.planted" in done.stdout


def test_a_planted_circle_is_broken_however_it_is_imported(tmp_path: Path) -> None:
    """A late import between two folders, an import for type checking between two files."""
    sources = _copied_sources(tmp_path)
    late = "def f():\n    from mergedistill.{} import planted\n"
    for folder, imported in (("rank", "publish"), ("publish", "rank")):
        (sources / "mergedistill" / folder / "planted.py").write_text(late.format(imported))
    typed = (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from vocabmerge.trim import {}\n"
    )
    for name, imported in (("planted", "grown"), ("grown", "planted")):
        (sources / "vocabmerge" / "trim" / f"{name}.py").write_text(typed.format(imported))

    done = _lint_imports(sources)

    assert done.returncode == 1
    assert "No circle among the files of a folder, nor among the folders BROKEN" in done.stdout
    assert "No cycles are allowed in mergedistill.\n" in done.stdout
    assert "No cycles are allowed in vocabmerge.trim.\n" in done.stdout


@pytest.mark.parametrize("folder", ["tools", "benchmarks", "examples"])
def test_programs_import_each_other_in_no_circle(folder: str) -> None:
    files = {path.stem: path for path in [*ROOT.glob(f"{folder}/*.py"), *ROOT.glob("tools/*.py")]}

    TopologicalSorter(
        {name: _imports(path) & files.keys() for name, path in files.items()}
    ).prepare()


def test_a_circle_of_programs_would_be_seen(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("def f():\n    from b import x\n")
    (tmp_path / "b.py").write_text("import a as c\n")

    with pytest.raises(CycleError):
        TopologicalSorter({name: _imports(tmp_path / f"{name}.py") for name in "ab"}).prepare()


def _imports(path: Path) -> set[str]:
    """The modules that a file imports anywhere, by the first part of their names."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").partition(".")[0])
    return names


def _copied_sources(folder: Path) -> Path:
    for source in ROOT.glob("packages/*/src"):
        shutil.copytree(
            source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__")
        )
    return folder


def _lint_imports(sources: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("lint-imports")
    return subprocess.run(
        [program, "--no-cache", "--config", ROOT / "pyproject.toml"],
        env=os.environ | {"PYTHONPATH": str(sources), "NO_COLOR": "1"},
        cwd=sources,
        capture_output=True,
        text=True,
    )
