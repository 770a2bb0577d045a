"""Ascending numbers as the gaps between them, in bytes of variable length: about one byte a number where one in twelve is named."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bistil.errors import SparseError

_LONGEST = 9  # bytes of seven bits for a gap below 2^63
_TOGETHER = 2**18  # so many at a time: each takes some numbers of eight bytes on the way


def encode_gaps(indices: NDArray[np.int64], *, previous: int = -1) -> NDArray[np.uint8]:
    """Ascending indices [K] as bytes: each gap in groups of seven bits, low first, the high bit set on all but the last (LEB128).

    Args:
        indices: ascending.
        previous: the index before the first, where these go on.

    Example:
        >>> encode_gaps(np.array([0, 1, 130, 131])).tolist()
        [0, 0, 128, 1, 0]
    """
    parts = []
    for start in range(0, len(indices), _TOGETHER):
        part = indices[start : start + _TOGETHER]
        parts.append(_encode(part, previous))
        previous = int(part[-1])
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.uint8)


def _encode(indices: NDArray[np.int64], previous: int) -> NDArray[np.uint8]:
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
    if len(coded) and coded[-1] >= 128:
        raise SparseError(f"{where}: the coded indices end in the middle of one; fetch the file again.")  # fmt: skip
    indices = np.empty(int(np.count_nonzero(coded < 128)), dtype=np.int64)
    start = done = 0
    while start < len(coded):
        part = coded[start : start + _TOGETHER]
        ends = np.flatnonzero(part < 128)
        stop = int(ends[-1]) + 1 if len(ends) else 0
        if not stop or np.diff(ends, prepend=-1).max() > _LONGEST:
            raise SparseError(f"{where}: a coded index is longer than {_LONGEST} bytes; fetch the file again.")  # fmt: skip
        gaps = _decode(part[:stop], ends)
        places = np.cumsum(gaps + 1) + (int(indices[done - 1]) if done else -1)
        last = int(places[-1])
        if int(gaps.max()) >= size:  # then the sum may have turned over
            last = sum(map(int, gaps), len(gaps)) + (int(indices[done - 1]) if done else -1)
        if last >= size:
            raise SparseError(
                f"{where}: expected indices below {size}, got {last!r}; the file is damaged or of another tensor."
            )
        indices[done : done + len(ends)] = places
        start, done = start + stop, done + len(ends)
    return indices


def _decode(coded: NDArray[np.uint8], ends: NDArray[np.int64]) -> NDArray[np.int64]:
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    gaps = np.zeros(len(ends), dtype=np.int64)
    for group in range(int(lengths.max())):
        here = np.flatnonzero(lengths > group)
        gaps[here] |= (coded[starts[here] + group].astype(np.int64) & 127) << (7 * group)
    return gaps
