"""News notes and the versions that follow from them.

A user-visible change adds `packages/NAME/news/<slug>.<breaking|feature|fix>.md`. In 0.x, breaking and
feature raise the minor version, fix the patch version; from 1.0 on, breaking raises the major one.

`python tools/news.py check [--base REF]` refuses a changed source without a note and a version that went back;
`python tools/news.py next NAME` prints the version that the notes ask for.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

from changed import changed_files
from graph import ROOT, Package, WorkspaceError, read_packages
from packaging.version import Version

KINDS = {"breaking": "Breaking", "feature": "Features", "fix": "Fixes"}
_NOTE = re.compile(r"[a-z0-9][a-z0-9-]*\.(breaking|feature|fix)\.md")


def notes(package: Package) -> dict[Path, str]:
    """The package's notes and their kinds.

    Raises:
        WorkspaceError: a file in `news/` is named otherwise or empty.
    """
    kinds = {}
    for file in sorted((package.folder / "news").glob("*")):
        if file.name == ".gitkeep":
            continue
        match = _NOTE.fullmatch(file.name)
        if match is None:
            raise WorkspaceError(
                f"{package.name}: {file.name!r} is no news note: name it <slug>.<breaking|feature|fix>.md."
            )
        if not file.read_text(encoding="utf-8").strip():
            raise WorkspaceError(
                f"{package.name}: the note {file.name!r} is empty: say what changed for the user."
            )
        kinds[file] = match[1]
    return kinds


def next_version(last: Version | None, stated: Version, kinds: Iterable[str]) -> Version:
    """The version that notes of these kinds ask for after the released version `last`.

    The first release (no `last`) is the version stated in the pyproject.
    """
    if last is None:
        return stated
    wanted = set(kinds)
    if not wanted:
        return last
    if "breaking" in wanted and last.major > 0:
        return Version(f"{last.major + 1}.0.0")
    if wanted & {"breaking", "feature"}:
        return Version(f"{last.major}.{last.minor + 1}.0")
    return Version(f"{last.major}.{last.minor}.{last.micro + 1}")


def last_release(package: Package, root: Path = ROOT) -> Version | None:
    """The highest version that was released, or None before the first release."""
    return max(releases(package, root), default=None)


def releases(package: Package, root: Path = ROOT) -> set[Version]:
    """The versions that the tags `NAME-vX.Y.Z` name."""
    done = subprocess.run(
        ["git", "-C", str(root), "tag", "--list", f"{package.name}-v*"],
        capture_output=True,
        text=True,
        check=True,
    )
    return {Version(tag.removeprefix(f"{package.name}-v")) for tag in done.stdout.split()}


def check(packages: dict[str, Package], root: Path, base: str | None) -> list[str]:
    """One sentence for each fault."""
    files = changed_files(root, base) if base else []
    faults = []
    for name, package in packages.items():
        notes(package)
        earlier = {last_release(package, root), _version_at(package, root, base) if base else None}
        highest = max(earlier - {None}, default=None)
        if highest is not None and package.version < highest:
            faults.append(
                f"{name} went back from {highest} to {package.version}: versions only grow, restore {highest}."
            )
        source, news = f"packages/{name}/src/", f"packages/{name}/news/"
        touched = any(file.startswith(source) for file in files)
        if touched and not any(file.startswith(news) for file in files):
            faults.append(
                f"{name} changed since {base} without a news note: add {news}<slug>.<breaking|feature|fix>.md."
            )
    return faults


def _version_at(package: Package, root: Path, base: str) -> Version | None:
    """The version that the pyproject stated at `base`; None where the package did not exist yet."""
    file = (package.folder / "pyproject.toml").relative_to(root)
    done = subprocess.run(
        ["git", "-C", str(root), "show", f"{base}:{file}"], capture_output=True, text=True
    )
    return (
        Version(tomllib.loads(done.stdout)["project"]["version"]) if done.returncode == 0 else None
    )


def fold(package: Package, version: Version, date: str) -> None:
    """Move the package's notes into its CHANGELOG.md under `version` and write the version to its pyproject."""
    kinds = notes(package)
    section = [f"## {version} ({date})"]
    for kind, title in KINDS.items():
        texts = [
            file.read_text(encoding="utf-8").strip()
            for file, kind_of_note in kinds.items()
            if kind_of_note == kind
        ]
        if texts:
            section += [f"### {title}", "\n".join(f"- {' '.join(text.split())}" for text in texts)]
    changelog = package.folder / "CHANGELOG.md"
    head, mark, old = changelog.read_text(encoding="utf-8").partition("\n## ")
    changelog.write_text(
        head.rstrip() + "\n\n" + "\n\n".join(section) + "\n" + (mark + old if mark else ""),
        encoding="utf-8",
    )
    pyproject = package.folder / "pyproject.toml"
    text = pyproject.read_text(encoding="utf-8")
    stated, written = f'\nversion = "{package.version}"\n', f'\nversion = "{version}"\n'
    if text.count(stated) != 1:
        raise WorkspaceError(f"{pyproject}: expected one line {stated.strip()!r}: write it so.")
    pyproject.write_text(text.replace(stated, written), encoding="utf-8")
    for file in kinds:
        file.unlink()
    (package.folder / "news" / ".gitkeep").touch()


def main() -> None:
    """Check the notes, or print the next version."""
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("check").add_argument("--base")
    verbs.add_parser("next").add_argument("name")
    arguments = parser.parse_args()
    packages = read_packages()
    if arguments.verb == "check":
        faults = check(packages, ROOT, arguments.base)
        if faults:
            sys.exit("\n".join(f"news: {fault}" for fault in faults))
    elif arguments.name not in packages:
        raise WorkspaceError(f"no package {arguments.name!r}: there are {', '.join(packages)}.")
    else:
        package = packages[arguments.name]
        print(next_version(last_release(package), package.version, notes(package).values()))


if __name__ == "__main__":
    try:
        main()
    except WorkspaceError as error:
        sys.exit(f"news: {error}")
