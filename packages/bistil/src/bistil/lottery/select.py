"""The K entries that moved most: exact, over all tensors at once, in memory that the model does not notice."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import Tensor

from bistil.errors import SparseError
from bistil.sparse.gap_coding import decode_gaps, encode_gaps
from teacherzoo.atomic_write import written_whole
from teacherzoo.progress import ProgressCallback, no_progress

_CHUNK = 1 << 17  # entries looked at together: they stay in the cache
_INFINITE = 0x7F800000  # the bits of infinity; those of NaN lie above


@dataclass(frozen=True, kw_only=True, eq=False)
class Selection:
    """Some entries of some tensors.

    Args:
        coded: name to the chosen places of the flattened tensor, as `encode_gaps` codes them.
        sizes: name to the number of entries.
        threshold: the smallest movement among the chosen.
    """

    coded: Mapping[str, NDArray[np.uint8]] = field(repr=False)
    sizes: Mapping[str, int] = field(repr=False)
    threshold: float = 0.0

    def places(self, name: str) -> NDArray[np.int64]:
        """The chosen places of a tensor, ascending."""
        return decode_gaps(self.coded[name], size=self.sizes[name], where=name)

    @property
    def count(self) -> int:
        """Chosen entries."""
        return sum(int((coded < 128).sum()) for coded in self.coded.values())


def select(
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    *,
    count: int,
    watch: ProgressCallback = no_progress,
) -> Selection:
    """The `count` entries with the greatest |after - before|, pooled over all tensors.

    Exact, differences being those of float32. Among equals those of earlier tensors come first, and in a tensor those of
    lower places. A floating number's bits, read as an integer, are in the order of its size: two passes count the upper
    and the lower half of the bits, which gives the smallest chosen movement exactly; a third takes what lies above it.

    Args:
        before: name to tensor; the order of names is the order among equals.
        after: the same names and shapes.
        count: how many to choose.
        watch: told the entries done.

    Raises:
        SparseError: for more entries than there are, or one that moved to what is no number.

    Example:
        >>> start = {"a": torch.zeros(3), "b": torch.zeros(2)}
        >>> moved = {"a": torch.tensor([0.1, -3.0, 2.0]), "b": torch.tensor([-2.0, 0.0])}
        >>> chosen = select(start, moved, count=2)
        >>> chosen.places("a").tolist(), chosen.places("b").tolist()
        ([1, 2], [])
    """
    total = sum(tensor.numel() for tensor in before.values())
    if not 0 < count <= total:
        raise SparseError(f"Expected to choose from 1 to {total} entries, got {count!r}; change the density or the count.")  # fmt: skip
    looked = _Progress(watch, 3 * total)
    upper = _histogram(_movements(before, after, looked), shift=16, of=None)
    if upper[_INFINITE >> 16 :].any():
        raise SparseError(f"The tensor {_broken(before, after)!r} moved to what is no finite number; lower the learning rate.")  # fmt: skip
    high, above = _bin_of(upper, count)
    lower = _histogram(_movements(before, after, looked), shift=0, of=high)
    low, within = _bin_of(lower, count - above)
    threshold, ties = (high << 16) | low, count - above - within
    coded = {}
    for name in before:
        parts, previous = [np.empty(0, dtype=np.uint8)], -1
        for start, bits in _chunks(before[name], after[name], looked):
            chosen = bits > threshold
            if ties:
                equal = np.flatnonzero(bits == threshold)[:ties]
                chosen[equal] = True
                ties -= len(equal)
            if len(places := np.flatnonzero(chosen) + start):
                parts.append(encode_gaps(places, previous=previous))
                previous = int(places[-1])
        coded[name] = np.concatenate(parts)
    return Selection(
        coded=coded,
        sizes={name: tensor.numel() for name, tensor in before.items()},
        threshold=float(np.array(threshold, dtype=np.int32).view(np.float32)),
    )


class _Progress:
    def __init__(self, watch: ProgressCallback, total: int) -> None:
        self._watch, self._total, self._done = watch, total, 0

    def add(self, entries: int) -> None:
        self._done += entries
        self._watch(self._done, self._total, "choosing entries")


def _movements(
    before: Mapping[str, Tensor], after: Mapping[str, Tensor], looked: _Progress
) -> Iterator[NDArray[np.int32]]:
    for name in before:
        for _, bits in _chunks(before[name], after[name], looked):
            yield bits


def _chunks(
    before: Tensor, after: Tensor, looked: _Progress
) -> Iterator[tuple[int, NDArray[np.int32]]]:
    """Place of the first entry, and the bits of |after - before| of up to `_CHUNK` entries."""
    old, new = before.detach().reshape(-1), after.detach().reshape(-1)
    assert old.shape == new.shape
    for start in range(0, len(old), _CHUNK):
        moved = _moved(old[start : start + _CHUNK], new[start : start + _CHUNK]).abs_()
        yield start, moved.cpu().numpy().view(np.int32)
        looked.add(len(moved))


def _moved(before: Tensor, after: Tensor) -> Tensor:
    """The difference, after less before, in float32, where `after` is: a copy of the start was made before a Trainer moved the model."""
    return after.float() - before.to(after.device).float()


def _histogram(
    movements: Iterator[NDArray[np.int32]], *, shift: int, of: int | None
) -> NDArray[np.int64]:
    """How often each half of the bits occurs: the upper halves, or the lower ones below one upper half."""
    counts = np.zeros(1 << 16, dtype=np.int64)
    for bits in movements:
        halves = bits if of is None else bits[(bits >> 16) == of] & 0xFFFF
        counts += np.bincount(halves >> shift, minlength=1 << 16)
    return counts


def _bin_of(counts: NDArray[np.int64], wanted: int) -> tuple[int, int]:
    """The bin in which the `wanted`-th greatest lies, and how many lie in the bins above it."""
    from_top = np.cumsum(counts[::-1])
    place = int(np.searchsorted(from_top, wanted))
    return len(counts) - 1 - place, int(from_top[place] - counts[::-1][place])


def _broken(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> str:
    return next(
        name for name in before if not torch.isfinite(_moved(before[name], after[name])).all()
    )


def write_selection(selection: Selection, path: Path) -> None:
    """Write a selection, under a temporary name first."""
    header = {"sizes": dict(selection.sizes), "threshold": selection.threshold}
    with written_whole(path) as part:
        save_file(dict(selection.coded), part, metadata={"selection": json.dumps(header)})


def read_selection(path: Path) -> Selection:
    """Read what `write_selection` wrote."""
    with safe_open(path, framework="numpy") as file:
        header = json.loads(file.metadata()["selection"])
        coded = {name: file.get_tensor(name) for name in header["sizes"]}
    return Selection(coded=coded, **header)
