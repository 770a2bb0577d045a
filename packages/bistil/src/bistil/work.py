"""The folder beside an outcome in which a run keeps what it needs to go on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bistil.errors import AdaptError, BistilError
from teacherzoo.processes import rank, wait_for_all


def work_folder(
    out: Path, stated: Mapping[str, Any], *, error: type[BistilError] = AdaptError
) -> Path:
    """The folder for what makes `out`; one that is left from other arguments is refused.

    Args:
        out: which must not exist.
        stated: everything that decides the outcome, as plain values.
        error: the kind of refusal.

    Raises:
        BistilError: of that kind, where `out` exists, or another run was interrupted there.
    """
    if out.exists():
        raise error(f"{out} exists already; remove it, or choose another name.")
    work = out.with_name(f".{out.name}.making")
    note, text = work / "plan.json", json.dumps(stated, indent=1, sort_keys=True, default=str)
    other = note.exists() and note.read_text(encoding="utf-8") != text
    # A run that was refused before it made anything stands in nobody's way.
    if other and len(list(work.iterdir())) > 1:
        raise error(
            f"{work} is left from a run with other arguments; remove it, or call it with those again."
        )
    wait_for_all()
    if rank() == 0 and (other or not note.exists()):
        work.mkdir(parents=True, exist_ok=True)
        part = work / "plan.json.part"
        part.write_text(text, encoding="utf-8")
        part.replace(note)
    wait_for_all()
    return work


def remove_work(work: Path) -> None:
    """Remove such a folder. On a network file system a file that is still open stays, hidden, until its process ends."""
    shutil.rmtree(work, ignore_errors=True)
