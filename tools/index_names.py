"""No package is released under a name that on the package index is somebody else's.

`python tools/index_names.py check` looks into `index_names.toml`, where it is stated by hand which names are free or ours.
`python tools/index_names.py ask NAME` asks the index besides, through pip: each version that it has must be one that we tagged.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

from graph import ROOT, Package, WorkspaceError, read_packages
from news import releases
from packaging.version import Version

STATEMENT = Path("tools", "index_names.toml")
KNOWN = "pip"
"""Every index has it: where pip does not find this one, it reached none."""


def check(packages: dict[str, Package], root: Path) -> list[str]:
    """One sentence for each package whose name is not stated to be free or ours."""
    stated = tomllib.loads((root / STATEMENT).read_text(encoding="utf-8"))
    faults = []
    for name, package in packages.items():
        wanted = package.distribution
        if wanted in stated["taken"]:
            faults.append(
                f"{name} would be published as {wanted}, which is somebody else's ({STATEMENT}): choose another name."
            )
        elif wanted not in stated["free"]:
            faults.append(
                f"{name} would be published as {wanted}, of which {STATEMENT} says nothing: "
                f"ask `pip index versions {wanted}` and write down what it says."
            )
    return faults


def ask(
    package: Package, root: Path, published: Callable[[str], set[Version]] | None = None
) -> None:
    """Ask the index which versions it has under the package's name.

    Raises:
        WorkspaceError: one of them carries no tag of ours, or the index could not be asked.
    """
    published = published or _published
    strangers = published(package.distribution) - releases(package, root)
    if strangers:
        versions = ", ".join(map(str, sorted(strangers)))
        raise WorkspaceError(
            f"{package.distribution} {versions} on the package index is none of ours (no tag {package.name}-v… names it): "
            f"move the name to [taken] in {STATEMENT} and publish under another, or fetch the tags."
        )
    if not published(KNOWN):
        raise WorkspaceError(
            f"the package index could not be asked for {package.distribution}: "
            f"make `{sys.executable} -m pip index versions {KNOWN}` work, then release."
        )


def _published(name: str) -> set[Version]:
    """The versions that pip finds, whatever Python they are for; none where the index does not know the name."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "index", "versions", "--pre", "--ignore-requires-python", name],
        capture_output=True,
        text=True,
    )  # fmt: skip
    mark = "Available versions:"
    lines = [line for line in done.stdout.splitlines() if line.startswith(mark)]
    return {Version(version) for line in lines for version in line.removeprefix(mark).split(",")}


def main() -> None:
    """Check the statement, or ask the index for one package."""
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("check")
    verbs.add_parser("ask").add_argument("name")
    arguments = parser.parse_args()
    packages = read_packages()
    if arguments.verb == "ask" and arguments.name not in packages:
        raise WorkspaceError(f"no package {arguments.name!r}: there are {', '.join(packages)}.")
    faults = check(packages, ROOT)
    if faults:
        sys.exit("\n".join(f"index_names: {fault}" for fault in faults))
    if arguments.verb == "ask":
        ask(packages[arguments.name], ROOT)


if __name__ == "__main__":
    try:
        main()
    except WorkspaceError as error:
        sys.exit(f"index_names: {error}")
