"""Numbers with a noun, as plans, cards and pages say them."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """A number and a noun whose plural ends in s.

    Args:
        number: how many.
        noun: in the singular.

    Example:
        >>> counted(1, "layer"), counted(2000, "feed-forward unit")
        ('1 layer', '2,000 feed-forward units')
    """
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
