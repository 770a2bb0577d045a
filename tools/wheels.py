"""A wheel holds exactly the package's sources and its metadata, and an sdist what a packager needs.

`python tools/wheels.py NAME DIST` checks the built files of one package.
"""

from __future__ import annotations

import sys
import tarfile
import zipfile
from pathlib import Path

from graph import Package, WorkspaceError, read_packages


def expected_wheel(package: Package) -> set[str]:
    """File names that the wheel must hold, no more and no fewer."""
    sources = {
        str(Path(package.name) / file.relative_to(package.source))
        for file in package.source.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    info = f"{_stem(package)}.dist-info"
    metadata = {f"{info}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "licenses/LICENSE")}
    if any(package.source.glob("cli*")):
        metadata.add(f"{info}/entry_points.txt")
    return sources | metadata


def _stem(package: Package) -> str:
    """What the names of built files begin with."""
    return f"{package.distribution.replace('-', '_')}-{package.version}"


def check(package: Package, dist: Path) -> list[str]:
    """One sentence for each fault."""
    wheel = dist / f"{_stem(package)}-py3-none-any.whl"
    sdist = dist / f"{_stem(package)}.tar.gz"
    for file in (wheel, sdist):
        if not file.exists():
            return [f"{file} is missing: run `nox -s 'build({package.name})'` first."]
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    expected = expected_wheel(package)
    faults = [
        f"{wheel.name} lacks {name}: is it in src/{package.name}?"
        for name in sorted(expected - held)
    ]
    faults += [
        f"{wheel.name} holds {name}, which is no source of {package.name}: exclude it."
        for name in sorted(held - expected)
    ]
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    faults += [
        f"{sdist.name} lacks {name}."
        for name in (
            "pyproject.toml",
            "README.md",
            "LICENSE",
            "CHANGELOG.md",
            f"src/{package.name}/py.typed",
        )
        if name not in names
    ]
    return faults


def main() -> None:
    """Exit with the faults, if there are any."""
    name, dist = sys.argv[1:]
    packages = read_packages()
    if name not in packages:
        raise WorkspaceError(f"no package {name!r}: there are {', '.join(packages)}.")
    faults = check(packages[name], Path(dist))
    if faults:
        sys.exit("\n".join(f"wheels: {fault}" for fault in faults))


if __name__ == "__main__":
    try:
        main()
    except WorkspaceError as error:
        sys.exit(f"wheels: {error}")
