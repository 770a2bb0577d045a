"""How long work tells its progress: it calls a function, which by default does nothing."""

from __future__ import annotations

from collections.abc import Callable

ProgressCallback = Callable[[int, int, str], None]
"""Told (done, total, what): a total of 0 is a note, one of 1 a thing that is not counted."""


def no_progress(done: int, total: int, what: str) -> None:
    """Do nothing."""
