"""What a bare machine lacks: wheels collected beforehand, unpacked there, and metadata of our packages, which nobody installs."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

from graph import Package
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

# Of what our packages require, what images made for training lack.
LACKING = ("pydantic", "datasets", "conllu")
PYTHON = "3.12"
_PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
# What the lacking ones require in turn and is not there either.
_BEHIND = {
    "pydantic": ("pydantic-core", "annotated-types", "typing-inspection"),
    "datasets": ("dill", "multiprocess"),
}


def collect(folder: Path, packages: dict[str, Package]) -> list[str]:
    """Download wheels for Python 3.12 on Linux, at versions that fit together, from pip's own index.

    DeepSpeed has no wheel on an index, and no test for a GPU needs it; where it is wanted, `pip wheel --no-deps deepspeed` beside
    torch builds one into the folder.

    Returns:
        The names of the files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {
        requirement.name: requirement
        for package in packages.values()
        for requirement in package.requirements
        if requirement.name in LACKING
    }
    for name, requirement in wanted.items():
        _download(folder, requirement)
        behind = {requirement.name: requirement for requirement in _requirements(folder, name)}
        for required in _BEHIND.get(name, ()):
            _download(folder, behind[required])
    return sorted(file.name for file in folder.glob("*.whl"))


def _download(folder: Path, requirement: Requirement) -> None:
    stated = f"{requirement.name}{requirement.specifier}"
    platforms = [option for platform in _PLATFORMS for option in ("--platform", platform)]
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:"),
            *("--python-version", PYTHON, "--implementation", "cp", *platforms),
            *("--dest", str(folder), stated),
        ],
        check=True,
    )  # fmt: skip


def _requirements(folder: Path, name: str) -> list[Requirement]:
    """What the newest wheel of that name requires without extras."""
    files = [file for file in folder.glob("*.whl") if _named(file)[0] == canonicalize_name(name)]
    with zipfile.ZipFile(max(files, key=lambda file: _named(file)[1])) as wheel:
        place = next(
            member for member in wheel.namelist() if member.endswith(".dist-info/METADATA")
        )
        stated = Parser().parsestr(wheel.read(place).decode()).get_all("Requires-Dist", [])
    environment = {"python_version": PYTHON, "extra": ""}
    return [
        requirement
        for requirement in map(Requirement, stated)
        if requirement.marker is None or requirement.marker.evaluate(environment)
    ]


def _named(file: Path) -> tuple[str, object]:
    name, version, *_ = parse_wheel_filename(file.name)
    return name, version


def unpack_missing(wheels: Path, target: Path) -> list[str]:
    """Install into `target` the wheels of what is not there, the newest of each name; what is there stays as it is.

    Returns:
        The names of the files.
    """
    newest: dict[str, Path] = {}
    for file in sorted(wheels.glob("*.whl"), key=lambda file: _named(file)[1]):
        newest[_named(file)[0]] = file
    chosen = [file for name, file in newest.items() if not _is_there(name)]
    if chosen:
        subprocess.run(
            [
                *(sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps"),
                *("--no-compile", "--target", str(target), *map(str, chosen)),
            ],
            check=True,
        )  # fmt: skip
    return sorted(file.name for file in chosen)


def _is_there(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def metadata_of(packages: dict[str, Package], folder: Path) -> None:
    """Say of each of our packages which version it is, as an installation would: they ask when they are imported."""
    for package in packages.values():
        name = package.distribution
        place = folder / f"{name.replace('-', '_')}-{package.version}.dist-info"
        place.mkdir(parents=True)
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {package.version}"]
        lines += [f"Requires-Dist: {requirement}" for requirement in package.requirements]
        (place / "METADATA").write_text("\n".join(lines) + "\n", encoding="utf-8")
