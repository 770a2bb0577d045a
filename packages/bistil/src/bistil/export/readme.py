"""The README of an export: what the graphs take and give, and how the program beside them serves them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

_HERE = files("bistil.export")


def write_readme(folder: Path, name: str, facts: Mapping[str, Any]) -> None:
    """Write `README.md` and `serve.py` into the folder of an export; what they show runs there as it stands.

    Args:
        folder: to write into.
        name: of the export.
        facts: of its `export.json`.
    """
    from jinja2 import Environment, StrictUndefined

    template = (_HERE / "README.md.jinja").read_text(encoding="utf-8")
    engine = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)  # noqa: S701  # Markdown
    page = engine.from_string(template).render(facts, name=name)
    (folder / "README.md").write_text(page, encoding="utf-8")
    with as_file(_HERE / "serve.py") as program:
        shutil.copy(program, folder / "serve.py")
