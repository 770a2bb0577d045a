"""How long work says where it stands."""

from collections.abc import Callable

ProgressCallback = Callable[[int, int, str], None]
"""Told (done, total, what): a total of 0 is a note, one of 1 a thing that is not counted."""


def no_progress(done: int, total: int, what: str) -> None:
    """Do nothing."""
