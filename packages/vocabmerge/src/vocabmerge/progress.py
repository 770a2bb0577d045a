"""How long work tells its progress: it calls a function, which by default does nothing."""

from collections.abc import Callable

ProgressCallback = Callable[[int, int | None, str], None]
"""Told how many are done, of how many (None: not known), and of what, in words."""


def no_progress(done: int, total: int | None, what: str) -> None:
    """Do nothing."""
