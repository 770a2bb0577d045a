"""How long work tells its progress: it calls a watcher, which is silent by default."""

from collections.abc import Callable

Watch = Callable[[int, int | None, str], None]
"""Told how many are done, of how many (None: not known), and of what, in words."""


def silent(done: int, total: int | None, what: str) -> None:
    """The watcher that says nothing."""
