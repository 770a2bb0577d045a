"""Unigram's segmentation of many pieces at once: Viterbi's algorithm, a step of it for all of them together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

_CODE_BITS = 21  # of a Unicode code point
_AT_ONCE = 2**16  # pieces, so that what a step works on stays in the processor's caches


def segment_likeliest(
    pieces: Sequence[str], ids: Mapping[str, int], scores: ArrayLike
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Unigram's segmentation with the greatest sum of scores, without the unknown; none where there is no such.

    Every place of every piece is gone on from by all pieces that may be used, one character at a time in their tree of
    beginnings. For 200,000 pieces that is many times faster than asking the library for each.

    Args:
        pieces: what to segment [N].
        ids: the id of every piece that may be used.
        scores: by id; a piece without a score (NaN) is not used.

    Returns:
        The ids of all segmentations one after the other [T], and how many each has [N].

    Example:
        >>> segmented, lengths = segment_likeliest(["abc"], {"ab": 0, "a": 1, "bc": 2, "c": 3}, [-1.0, -1.0, -3.0, -1.0])
        >>> segmented.tolist(), lengths.tolist()
        ([0, 3], [2])
    """
    tree = _Tree(ids)
    numbers = np.asarray(scores, dtype=np.float64)
    parts = [
        _segment(pieces[start : start + _AT_ONCE], tree, numbers)
        for start in range(0, len(pieces), _AT_ONCE)
    ]
    if not parts:
        return np.empty(0, dtype=np.int32), np.empty(0, dtype=np.int64)
    segmented, lengths = zip(*parts, strict=True)
    return np.concatenate(segmented), np.concatenate(lengths)


@dataclass(frozen=True, kw_only=True)
class _Texts:
    """Texts in one array of characters, each followed by one place for its end.

    Args:
        codes: code points, -1 at an end.
        first: where each text begins.
        lengths: how many characters each has.
    """

    codes: NDArray[np.int64] = field(repr=False)
    first: NDArray[np.int64] = field(repr=False)
    lengths: NDArray[np.int64] = field(repr=False)


def _texts(texts: Sequence[str]) -> _Texts:
    lengths = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
    last = np.cumsum(lengths + 1) - 1
    codes = np.full(int(lengths.sum()) + len(texts), -1, dtype=np.int64)
    inside = np.ones(len(codes), dtype=bool)
    inside[last] = False
    codes[inside] = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), dtype="<u4")
    return _Texts(codes=codes, first=last - lengths, lengths=lengths)


class _Tree:
    """The beginnings of pieces as states: 0 is none of them, and state n + 1 is reached by edge n.

    Args:
        ids: the id of every piece.

    Attributes:
        numbers: the id of the piece that a state is, -1 where it is none.
    """

    def __init__(self, ids: Mapping[str, int]) -> None:
        texts = _texts(list(ids))
        state = np.zeros(len(ids), dtype=np.int64)
        edges, reached = [np.empty(0, dtype=np.int64)], 1
        for depth in range(int(texts.lengths.max(initial=0))):
            longer = np.flatnonzero(texts.lengths > depth)
            names = state[longer] << _CODE_BITS | texts.codes[texts.first[longer] + depth]
            level, place = np.unique(names, return_inverse=True)
            state[longer] = reached + place
            edges.append(level)
            reached += len(level)
        self._edges = np.concatenate(
            edges
        )  # ascending, as the states of a level come after those above
        self.numbers = np.full(reached, -1, dtype=np.int64)
        self.numbers[state] = np.fromiter(ids.values(), dtype=np.int64, count=len(ids))
        self.numbers[0] = -1

    def next(self, states: NDArray[np.int64], codes: NDArray[np.int64]) -> NDArray[np.int64]:
        """The state after one more character, 0 where no piece begins so."""
        names = states << _CODE_BITS | codes
        place = np.searchsorted(self._edges, names)
        place[place == len(self._edges)] = 0
        return np.where(self._edges[place] == names, place + 1, 0)


def _segment(
    pieces: Sequence[str], tree: _Tree, scores: NDArray[np.float64]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    texts = _texts(pieces)
    # Of the beginning before each place: its greatest sum, where its last piece begins, and which that is.
    best = np.full(len(texts.codes), -np.inf)
    best[texts.first] = 0.0
    start_of = np.zeros(len(texts.codes), dtype=np.int64)
    number_of = np.full(len(texts.codes), -1, dtype=np.int64)
    for start in range(int(texts.lengths.max(initial=0))):
        begin = (texts.first + start)[texts.lengths > start]
        begin = begin[best[begin] > -np.inf]
        end, states = begin, np.zeros(len(begin), dtype=np.int64)
        while len(begin):
            going = np.flatnonzero(texts.codes[end] >= 0)
            states = tree.next(states[going], texts.codes[end[going]])
            going, states = going[states > 0], states[states > 0]
            begin, end = begin[going], end[going] + 1
            numbers = tree.numbers[states]
            piece = np.flatnonzero(numbers >= 0)
            at, until = begin[piece], end[piece]
            total = best[at] + scores[numbers[piece]]
            # Longer last pieces came before, so that of equal sums the one with the longest wins.
            better = np.flatnonzero(total > best[until])
            until = until[better]
            best[until] = total[better]
            start_of[until] = at[better]
            number_of[until] = numbers[piece[better]]
    return _traced(texts, best, start_of, number_of)


def _traced(
    texts: _Texts,
    best: NDArray[np.float64],
    start_of: NDArray[np.int64],
    number_of: NDArray[np.int64],
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """The pieces that the best way to each end took, in order."""
    last = texts.first + texts.lengths
    rows = np.flatnonzero((best[last] > -np.inf) & (texts.lengths > 0))
    lengths = np.zeros(len(last), dtype=np.int64)
    steps = []
    place = last[rows]
    while len(rows):
        steps.append((rows, number_of[place]))
        lengths[rows] += 1
        place = start_of[place]
        going = place > texts.first[rows]
        rows, place = rows[going], place[going]
    ends = np.cumsum(lengths)
    segmented = np.empty(int(lengths.sum()), dtype=np.int32)
    for back, (taken, numbers) in enumerate(steps, 1):
        segmented[ends[taken] - back] = numbers
    return segmented, lengths
