"""Declared siblings == imported siblings, and every window admits the sibling as it stands.

Late imports and imports for type checking count: a package that mentions another one requires it.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

from graph import ROOT, Package, WorkspaceError, read_packages


def imported_siblings(package: Package, names: set[str]) -> dict[str, Path]:
    """Siblings that the package's sources import, each with a file that does."""
    files: dict[str, Path] = {}
    for file in sorted(package.source.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), filename=str(file))):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [node.module or ""]
            else:
                continue
            for module in modules:
                top = module.partition(".")[0]
                if top in names - {package.name}:
                    files.setdefault(top, file)
    return files


def requirement(package: Package) -> str:
    """How a sibling requires the package as it stands: its distribution, in this minor version and no other."""
    version = package.version
    window = f">={version.major}.{version.minor},<{version.major}.{version.minor + 1}"
    return package.distribution + window


def check(packages: dict[str, Package]) -> list[str]:
    """One sentence for each fault."""
    faults = []
    for name, package in packages.items():
        imported = imported_siblings(package, set(packages))
        faults += [
            f"{name} imports {sibling} ({file.relative_to(package.folder)}) but does not declare it: "
            f'add "{requirement(packages[sibling])}" to its dependencies.'
            for sibling, file in imported.items()
            if sibling not in package.siblings
        ]
        for sibling, wanted in package.siblings.items():
            if sibling not in imported:
                faults.append(f"{name} declares {sibling} but never imports it: remove it.")
            bounds = {part.operator for part in wanted.specifier}
            if wanted.name != packages[sibling].distribution:
                faults.append(
                    f"{name} requires {wanted}, but {sibling} is distributed as {packages[sibling].distribution}: "
                    f'write "{requirement(packages[sibling])}".'
                )
            elif not wanted.specifier.contains(packages[sibling].version) or bounds != {">=", "<"}:
                faults.append(
                    f"{name} requires {wanted}, but {sibling} stands at {packages[sibling].version}: "
                    f'write "{requirement(packages[sibling])}".'
                )
    return faults


def main() -> None:
    """Exit with the faults, if there are any."""
    faults = check(read_packages(ROOT))
    if faults:
        sys.exit("\n".join(f"siblings: {fault}" for fault in faults))


if __name__ == "__main__":
    try:
        main()
    except WorkspaceError as error:
        sys.exit(f"siblings: {error}")
