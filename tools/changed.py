"""Which packages a git range touches, and everything above them.

`python tools/changed.py --base REF [--json]`; without a base, all packages.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from graph import ROOT, Package, WorkspaceError, read_packages, with_dependents

BYSTANDERS = (".md", ".gitignore", ".github", "LICENSE", "benchmarks", "docs", "examples")
"""What lies outside the packages and cannot change the outcome of a package's tests."""


def changed_files(root: Path, base: str) -> list[str]:
    """Paths that differ between the merge base with `base` and the working tree, untracked files included.

    Raises:
        WorkspaceError: git does not know `base`.
    """
    ancestor = _git(root, "merge-base", base, "HEAD")
    if ancestor is None:
        raise WorkspaceError(
            f"git knows no common ancestor of {base!r} and HEAD: fetch it, or name another base."
        )
    tracked = _git(root, "diff", "--name-only", ancestor.strip()) or ""
    untracked = _git(root, "ls-files", "--others", "--exclude-standard") or ""
    return sorted({*tracked.splitlines(), *untracked.splitlines()})


def changed_packages(packages: dict[str, Package], files: list[str]) -> list[str]:
    """The packages that hold one of the files, and all above them; every package if a shared file changed."""
    touched = set()
    for file in files:
        top, _, rest = file.partition("/")
        if top == "packages":
            touched.add(rest.partition("/")[0])
        elif top not in BYSTANDERS and not file.endswith(BYSTANDERS):
            return list(packages)
    return with_dependents(packages, touched & set(packages))


def _git(root: Path, *arguments: str) -> str | None:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else None


def main() -> None:
    """Print the changed packages, a line each or as a JSON list (for a job matrix)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", help="a commit, branch or tag")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    packages = read_packages()
    names = (
        changed_packages(packages, changed_files(ROOT, arguments.base))
        if arguments.base
        else list(packages)
    )
    print(json.dumps(names) if arguments.json else "\n".join(names))


if __name__ == "__main__":
    try:
        main()
    except WorkspaceError as error:
        sys.exit(f"changed: {error}")
