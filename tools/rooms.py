"""The rooms of every package in one picture, drawn from the folders and their imports: `docs/rooms.svg`.

    python tools/rooms.py

A room is a folder, or a file beside the folders, of `src/NAME`. It stands above all rooms of its package that it imports.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from html import escape
from pathlib import Path

from graph import ROOT, Package, WorkspaceError, read_packages

PICTURE = ROOT / "docs" / "rooms.svg"
WIDTH, MARGIN, GAP, ROW, HEAD = 1000, 10, 8, 24, 50
FLOORS = ("ground", "first floor", "second floor")
STYLE = """
    svg { --ink: #14181f; --soft: #59636f; --line: #c9d0d8; --box: #f6f7f9; --room: #ffffff; --edge: #9aa5b1; }
    @media (prefers-color-scheme: dark) {
      svg { --ink: #e9ecf0; --soft: #a2acb8; --line: #3a434e; --box: #1d232b; --room: #14181f; --edge: #5e6975; }
    }
    text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", Ubuntu, sans-serif; fill: var(--ink); }
    .name { font-size: 15px; font-weight: 700; }
    .soft { font-size: 12px; fill: var(--soft); }
    .room { font-size: 12px; text-anchor: middle; }
    .package { fill: var(--box); stroke: var(--edge); }
    .folder { fill: var(--room); stroke: var(--edge); }
    .file { fill: none; stroke: var(--line); }
"""


def rooms(package: Package) -> dict[str, set[str]]:
    """Every room of a package with the rooms that it imports; late imports and those for type checking count."""
    places = [path for path in sorted(package.source.iterdir()) if _is_room(path)]
    names = {path.stem for path in places}
    return {
        path.stem: {
            room
            for file in ([path] if path.is_file() else path.rglob("*.py"))
            for room in _imported(file, package.source.name)
        }
        & names - {path.stem}
        for path in places
    }


def _is_room(path: Path) -> bool:
    if path.is_dir():
        return any(path.glob("*.py"))
    return path.suffix == ".py" and not path.stem.startswith("__")


def _imported(file: Path, package: str) -> set[str]:
    """The second parts of the names of what a file imports of its package."""
    modules: list[str] = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules += [f"{node.module}.{alias.name}" for alias in node.names]
    return {module.split(".")[1] for module in modules if module.startswith(f"{package}.")}


def levels(imports: Mapping[str, set[str]]) -> list[list[str]]:
    """Rows from the top, so that everything imported stands in a lower row.

    Raises:
        WorkspaceError: there are no such rows.
    """
    try:
        order = list(TopologicalSorter(imports).static_order())
    except CycleError as error:
        raise WorkspaceError(f"{' -> '.join(error.args[1])} is a circle of imports.") from error
    height: dict[str, int] = {}
    for name in order:
        height[name] = 1 + max((height[below] for below in imports[name]), default=-1)
    return [
        sorted(name for name in height if height[name] == level)
        for level in range(max(height.values()), -1, -1)
    ]


def draw(packages: Mapping[str, Package]) -> str:
    """The picture as SVG."""
    floors = levels({name: set(package.siblings) for name, package in packages.items()})
    shapes, words, y = [], [], MARGIN
    for floor, names in zip(reversed(FLOORS), floors, strict=True):
        width = (WIDTH - 2 * MARGIN - (len(names) - 1) * 2 * GAP) // len(names)
        shapes.append(f'<text class="soft" x="{MARGIN}" y="{y + 12}">{floor}</text>')
        y += 20
        bottom = y
        boxes = []
        for number, name in enumerate(names):
            left = MARGIN + number * (width + 2 * GAP)
            rows = levels(rooms(packages[name]))
            drawn, end = _rows(rows, packages[name].source, left, y + HEAD, width)
            bottom = max(bottom, end)
            siblings = ", ".join(sorted(packages[name].siblings)) or "none of ours"
            boxes.append((left, name, siblings, drawn))
            words.append(f"{name}: {'; '.join(', '.join(row) for row in rows)}.")
        for left, name, siblings, drawn in boxes:
            shapes += [
                f'<rect class="package" x="{left}" y="{y}" width="{width}" height="{bottom - y}" rx="9" />',
                f'<text class="name" x="{left + 12}" y="{y + 22}">{name}</text>',
                f'<text class="soft" x="{left + 12}" y="{y + 40}">imports {siblings}</text>',
                *drawn,
            ]
        y = bottom + 2 * GAP
    inside = "\n  ".join(shapes)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" role="img" aria-labelledby="title words">\n'
        '  <title id="title">The rooms of every package; each imports only rooms of lower rows</title>\n'
        f'  <desc id="words">{escape(" ".join(words))}</desc>\n'
        f"  <style>{STYLE}  </style>\n  {inside}\n</svg>\n"
    )


def _rows(
    rows: list[list[str]], source: Path, left: int, y: int, width: int
) -> tuple[list[str], int]:
    """The shapes of the rooms of a package, and where they end."""
    shapes = []
    for row in rows:
        x = left + 12
        for name in row:
            wide = 14 + 7 * len(name)
            if x + wide > left + width - 12:
                x, y = left + 12, y + ROW + 2
            kind = "folder" if (source / name).is_dir() else "file"
            shapes += [
                f'<rect class="{kind}" x="{x}" y="{y}" width="{wide}" height="{ROW - 4}" rx="5" />',
                f'<text class="room" x="{x + wide // 2}" y="{y + 14}">{name}</text>',
            ]
            x += wide + GAP
        y += ROW + GAP
    return shapes, y + GAP // 2


def main() -> int:
    """The command line."""
    try:
        PICTURE.write_text(draw(read_packages()), encoding="utf-8")
    except WorkspaceError as error:
        print(f"rooms: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
