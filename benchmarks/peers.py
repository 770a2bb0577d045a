"""The environment in which rivals are measured: torch first, our packages, then `peers.txt`, whose versions are pinned."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from questions import BenchError


def environment(root: Path, folder: Path) -> str:
    """The Python of the environment in `folder`, which is filled unless it is up to date.

    Raises:
        BenchError: pip failed.
    """
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    stamp, wanted = folder / "stamp", _digest(root)
    if stamp.exists() and stamp.read_text() == wanted:
        return str(python)
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    stamp.unlink(missing_ok=True)
    sys.path.insert(0, str(root / "tools"))
    from graph import read_packages

    # Ground first: pip looks on the index for a sibling whose folder it has not met yet.
    packages = read_packages(root).values()
    tests = sorted({str(wanted) for package in packages for wanted in package.test_requirements})
    editable = [
        argument
        for package in packages
        for argument in ("-e", _with_extras(package.folder, package.extras))
    ]
    for arguments in (
        ["torch"],
        [*editable, *tests, "-r", str(root / "benchmarks" / "peers.txt")],
    ):
        _pip(str(python), arguments, root)
    stamp.write_text(wanted)
    return str(python)


def _with_extras(folder: Path, extras: Iterable[str]) -> str:
    wanted = ",".join(sorted(extras))
    return f"{folder}[{wanted}]" if wanted else str(folder)


def _pip(python: str, arguments: list[str], root: Path) -> None:
    constraints = str(root / "constraints.txt")
    done = subprocess.run(
        [python, "-m", "pip", "install", "-q", *arguments],
        env=os.environ | {"PIP_CONSTRAINT": constraints, "PIP_BUILD_CONSTRAINT": constraints},
    )
    if done.returncode != 0:
        raise BenchError(f"pip could not install {' '.join(arguments)}: see above.")


def _digest(root: Path) -> str:
    files = [
        root / "benchmarks" / "peers.txt",
        root / "constraints.txt",
        *sorted(root.glob("packages/*/pyproject.toml")),
    ]
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()
