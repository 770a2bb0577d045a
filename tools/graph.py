"""The package graph, read from `packages/*/pyproject.toml`. Nothing else keeps a list of packages.

Run it to see the floors: `python tools/graph.py`.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
PREFIX = "distillery-"
"""Stands before the folder's name in a distribution's where the plain name belongs to somebody else on the index."""


class WorkspaceError(Exception):
    """The workspace is not in order; the message is one sentence that names the thing and the next step."""


@dataclass(frozen=True, kw_only=True)
class Package:
    """One package of the workspace, as its pyproject states it."""

    name: str
    """Of its folder, its import package, its command, its tags and its news."""
    distribution: str
    """What pip installs and siblings require: the name, or `distillery-` and the name."""
    folder: Path
    version: Version
    requirements: tuple[Requirement, ...]
    extras: dict[str, tuple[Requirement, ...]]
    test_requirements: tuple[Requirement, ...]
    siblings: dict[str, Requirement]
    """Requirements (extras included) on other packages of the workspace, by the package's name."""

    @property
    def source(self) -> Path:
        """The import package."""
        return self.folder / "src" / self.name


def read_packages(root: Path = ROOT) -> dict[str, Package]:
    """All packages, ground first: each stands behind those that it requires.

    Raises:
        WorkspaceError: a pyproject lacks a field, or the siblings' requirements form a circle.
    """
    files = sorted((root / "packages").glob("*/pyproject.toml"))
    names = {file.parent.name for file in files}
    packages = {file.parent.name: _read_package(file, names) for file in files}
    try:
        order = list(
            TopologicalSorter({name: packages[name].siblings for name in packages}).static_order()
        )
    except CycleError as error:
        circle = " -> ".join(error.args[1])
        raise WorkspaceError(
            f"packages require each other in a circle ({circle}): remove one of these dependencies."
        ) from error
    return {name: packages[name] for name in order}


def _read_package(file: Path, names: set[str]) -> Package:
    stated = tomllib.loads(file.read_text(encoding="utf-8"))
    project, name = stated["project"], file.parent.name
    if project["name"] not in (name, PREFIX + name):
        raise WorkspaceError(
            f"{file}: the name is {project['name']!r} but the folder is {name!r}: "
            f"write {name!r}, or {PREFIX + name!r} where the index knows somebody else's {name!r}."
        )
    requirements = tuple(map(Requirement, project.get("dependencies", [])))
    extras = {
        extra: tuple(map(Requirement, wanted))
        for extra, wanted in project.get("optional-dependencies", {}).items()
    }
    everything = [*requirements, *(wanted for group in extras.values() for wanted in group)]
    return Package(
        name=name,
        distribution=project["name"],
        folder=file.parent,
        version=Version(project["version"]),
        requirements=requirements,
        extras=extras,
        test_requirements=tuple(
            map(Requirement, stated.get("dependency-groups", {}).get("test", []))
        ),
        siblings={
            _package_name(wanted): wanted for wanted in everything if _package_name(wanted) in names
        },
    )


def _package_name(wanted: Requirement) -> str:
    return canonicalize_name(wanted.name).removeprefix(PREFIX)


def closure(packages: dict[str, Package], name: str) -> list[str]:
    """The package and every sibling that it needs, ground first."""
    needed = {name}
    for dependent in reversed(list(packages)):
        if dependent in needed:
            needed.update(packages[dependent].siblings)
    return [package for package in packages if package in needed]


def with_dependents(packages: dict[str, Package], names: Iterable[str]) -> list[str]:
    """The named packages and everything above them, ground first."""
    touched = set(names)
    for name, package in packages.items():
        if touched & set(package.siblings):
            touched.add(name)
    return [name for name in packages if name in touched]


def main() -> None:
    """Print the floors."""
    for name, package in read_packages().items():
        above = ", ".join(map(str, package.siblings.values())) or "no sibling"
        print(f"{name} {package.version}: requires {above}")


if __name__ == "__main__":
    try:
        main()
    except WorkspaceError as error:
        sys.exit(f"graph: {error}")
