"""Ascending numbers as the gaps between them, in bytes of variable length: about one byte a number where one in twelve is named."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bistil.errors import SparseError

_LONGEST = 9  # bytes of seven bits for a gap below 2^63


def encode_gaps(indices: NDArray[np.int64], *, previous: int = -1) -> NDArray[np.uint8]:
    """Ascending indices [K] as bytes: each gap in groups of seven bits, low first, the high bit set on all but the last (LEB128).

    Args:
        indices: ascending.
        previous: the index before the first, where these go on.

    Example:
        >>> encode_gaps(np.array([0, 1, 130, 131])).tolist()
        [0, 0, 128, 1, 0]
    """
    gaps = np.diff(indices, prepend=previous) - 1
    assert not len(gaps) or int(gaps.min()) >= 0, "indices must ascend"
    lengths = np.ones(len(gaps), dtype=np.int64)
    for group in range(1, _LONGEST):
        lengths += gaps >= 1 << (7 * group)
    ends = np.cumsum(lengths)
    coded = np.empty(int(ends[-1]) if len(ends) else 0, dtype=np.uint8)
    starts, rest = ends - lengths, gaps
    while len(starts):
        more = rest >= 128
        coded[starts] = (rest & 127) | (more.astype(np.int64) << 7)
        starts, rest = starts[more] + 1, rest[more] >> 7
    return coded


def decode_gaps(coded: NDArray[np.uint8], *, size: int, where: str) -> NDArray[np.int64]:
    """The inverse of `encode_gaps`.

    Args:
        coded: its outcome.
        size: the indices must lie below this.
        where: named in messages.

    Raises:
        SparseError: for bytes that are no such code, or name an index of `size` or more.
    """
    last = coded < 128
    if len(coded) and not last[-1]:
        raise SparseError(f"{where}: the coded indices end in the middle of one; fetch the file again.")  # fmt: skip
    ends = np.flatnonzero(last)
    starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
    lengths = ends - starts + 1
    if len(ends) and int(lengths.max()) > _LONGEST:
        raise SparseError(f"{where}: a coded index is longer than {_LONGEST} bytes; fetch the file again.")  # fmt: skip
    gaps = np.zeros(len(ends), dtype=np.int64)
    for group in range(int(lengths.max()) if len(ends) else 0):
        here = np.flatnonzero(lengths > group)
        gaps[here] |= (coded[starts[here] + group].astype(np.int64) & 127) << (7 * group)
    indices = np.cumsum(gaps + 1) - 1
    if len(indices) and not 0 <= int(indices[-1]) < size:
        raise SparseError(
            f"{where}: expected indices below {size}, got {int(indices[-1])!r}; the file is damaged or of another tensor."
        )
    return indices
