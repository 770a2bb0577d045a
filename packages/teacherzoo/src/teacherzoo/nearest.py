"""The name that was probably meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: str, known: Iterable[str]) -> str:
    """`" (did you mean 'x'?)"` for the known name nearest to `name`, or nothing where none is near.

    Example:
        >>> nearest("xlmr-base", ["xlm-r-base", "rembert"])
        " (did you mean 'xlm-r-base'?)"
    """
    matches = get_close_matches(name, list(known), n=1)
    return f" (did you mean {matches[0]!r}?)" if matches else ""
