"""Pauses Python's search for cycles while many small objects are made that hold none."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collection_paused() -> Iterator[None]:
    """Without the collector, which goes through all objects of a process the more often the more lists are made.

    With the 250,000 pieces of a vocabulary, and torch's objects beside them, it takes most of the time otherwise.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
