"""What one package may import: of an environment that has everything, the distributions that it requires and no more.

`python tools/borrowed.py FROM INTO REQUIREMENT…` links the files of those distributions, and of what they require in
turn, from one environment into another, with the bytecode that there is of them. It takes seconds where an installation
takes minutes, and an import of what is not required fails as it would after one.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable
from importlib.metadata import Distribution, distributions
from importlib.util import cache_from_source
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def site_packages(environment: Path) -> Path:
    """Where an environment keeps what is installed.

    Raises:
        FileNotFoundError: where it has no such folder.
    """
    for pattern in ("lib/python*/site-packages", "Lib/site-packages"):
        for folder in environment.glob(pattern):
            return folder
    raise FileNotFoundError(f"{environment}: no site-packages; is it an environment?")


def required(environment: Path, requirements: Iterable[Requirement]) -> dict[str, Distribution]:
    """The distributions of `environment` that `requirements` ask for, directly or by others.

    Raises:
        LookupError: for one that is not there, or of another version than is asked for.
    """
    there = {
        canonicalize_name(distribution.metadata["Name"]): distribution
        for distribution in distributions(path=[str(site_packages(environment))])
    }
    chosen: dict[str, Distribution] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [(wanted, "") for wanted in requirements]
    while waiting:
        wanted, extra = waiting.pop()
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(wanted.name)
        if name not in there:
            raise LookupError(f"{wanted}: not in {environment}; fill it with `nox -s dev`.")
        distribution = there[name]
        if not wanted.specifier.contains(distribution.version, prereleases=True):
            raise LookupError(f"{wanted}: {environment} has {distribution.version}.")
        chosen[name] = distribution
        for asked in {"", *wanted.extras} - {known for of, known in seen if of == name}:
            seen.add((name, asked))
            waiting += [(Requirement(line), asked) for line in distribution.requires or ()]
    return chosen


def borrow(source: Path, target: Path, requirements: Iterable[Requirement]) -> list[str]:
    """Link what `requirements` ask for from one environment into another; the names of the distributions."""
    chosen = required(source, requirements)
    home, there = site_packages(source), site_packages(target)
    for distribution in chosen.values():
        for file in distribution.files or ():
            if ".." in file.parts:  # a program, which starts the other environment's Python
                continue
            _link(home / file, there / file)
            if file.suffix == ".py":
                # Not among the files of a distribution where it was made by an import.
                bytecode = Path(cache_from_source(str(file)))
                _link(home / bytecode, there / bytecode)
    return sorted(chosen)


def _link(source: Path, target: Path) -> None:
    if target.exists() or not source.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


def main() -> None:
    """Link, or exit with what is missing."""
    source, target, *requirements = sys.argv[1:]
    try:
        borrow(Path(source), Path(target), map(Requirement, requirements))
    except (LookupError, FileNotFoundError) as error:
        sys.exit(f"borrowed: {error}")


if __name__ == "__main__":
    main()
