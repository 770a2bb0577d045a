"""Which of a teacher's layers become a student's, and a model with those alone."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, Literal

from teacherzoo.encoders.families import known_family

Strategy = Literal["last", "bottom", "even", "outer", "alternate", "last-k"]


def spread_layers(depth: int, count: int, strategy: Strategy) -> tuple[int, ...]:
    """For each of the student's layers the teacher layer that it copies.

    Args:
        depth: the teacher's number of layers.
        count: the student's, from 1 to `depth`.
        strategy: "last" of each of as many blocks (BiStil), the first of each ("alternate": of blocks of two every second
            layer), "even"ly spread from the first to the last, the "bottom" ones, the topmost ones ("last-k"), or "outer":
            the last layers, half of the student's (the larger half), and every second of the first, so that the middle is
            left out.

    Returns:
        Ascending numbers from 0.

    Example:
        >>> spread_layers(12, 6, "last"), spread_layers(12, 4, "even"), spread_layers(12, 3, "bottom")
        ((1, 3, 5, 7, 9, 11), (0, 4, 7, 11), (0, 1, 2))
        >>> spread_layers(12, 6, "outer"), spread_layers(12, 3, "outer")
        ((0, 2, 4, 9, 10, 11), (0, 10, 11))
        >>> spread_layers(12, 6, "alternate"), spread_layers(12, 3, "last-k")
        ((0, 2, 4, 6, 8, 10), (9, 10, 11))
    """
    if strategy == "bottom":
        return tuple(range(count))
    if strategy == "last":
        return tuple((number + 1) * depth // count - 1 for number in range(count))
    if strategy == "alternate":
        return tuple(number * depth // count for number in range(count))
    if strategy == "last-k":
        return tuple(range(depth - count, depth))
    if strategy == "outer":
        below, rest = count // 2, depth - (count + 1) // 2
        first = spread_layers(min(rest, 2 * below - 1), below, "even")
        return (*first, *range(rest, depth))
    # Halves are rounded up: Python's own rounding to even would space unevenly.
    return tuple(
        math.floor(number * (depth - 1) / max(1, count - 1) + 0.5) for number in range(count)
    )


def config_of_layers(config: Any, layers: Sequence[int]) -> Any:
    """A copy of a model's configuration for those of its layers alone, each with the kind of attention that it has."""
    fewer = copy.deepcopy(config)
    setattr(fewer, known_family(config).depth, len(layers))
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        fewer.layer_types = [kinds[number] for number in layers]
    return fewer


def list_of_layers(encoder: Any) -> Any:
    """The `ModuleList` of an encoder's layers, first to last, of a family that has one."""
    path = known_family(encoder.config).layers
    assert path is not None
    return encoder.get_submodule(path)


def replace_layers(encoder: Any, layers: Any) -> None:
    """Put another `ModuleList` in the place of `list_of_layers`."""
    path = known_family(encoder.config).layers
    assert path is not None
    parent, _, name = path.rpartition(".")
    setattr(encoder.get_submodule(parent), name, layers)


def lowest_layers(encoder: Any, count: int) -> Any:
    """The encoder with so many of its layers alone, in place; whole where its layers are one."""
    if known_family(encoder.config).layers is not None:
        replace_layers(encoder, list_of_layers(encoder)[:count])
    return encoder
