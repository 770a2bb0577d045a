"""How long work tells its progress: it calls a watcher, which by default says nothing."""

from collections.abc import Callable

Watch = Callable[[int, int | None, str], None]
"""Told how many are done, of how many (None: not known), and of what, in words."""


def no_progress(done: int, total: int | None, what: str) -> None:
    """The watcher that says nothing."""
