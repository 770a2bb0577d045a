"""Which test files may carry a mark: pytest told of them alone imports a few files where it would import them all."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

# Tests that take `DEVICES` from there are marked by it.
BROUGHT_BY = {"gpu": "pretended_device"}


def files_marked(marker: str, folders: Iterable[Path]) -> list[Path]:
    """The test files below `folders`, in their order, that have the word: one that has not cannot have the mark.

    Example:
        >>> [file.name for file in files_marked("browser", [Path("benchmarks")])]  # doctest: +SKIP
        ['test_browser.py']
    """
    words = "|".join({marker, BROUGHT_BY.get(marker, marker)})
    word = re.compile(rf"\b({words})\b")
    return [
        file
        for folder in folders
        for file in sorted(folder.rglob("test_*.py"))
        if word.search(file.read_text(encoding="utf-8"))
    ]
