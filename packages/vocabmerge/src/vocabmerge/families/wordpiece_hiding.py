"""Finds the pieces of a WordPiece union that take more words away from their teachers than they serve."""

from collections.abc import Callable, Mapping

import numpy as np
import tokenizers
from numpy.typing import NDArray

from vocabmerge.families.union_words import (
    SegmentedWords,
    count_uses,
    rows_differ,
    segment_words,
)
from vocabmerge.progress import ProgressCallback, no_progress

_ROUNDS = 4

Opener = Callable[[NDArray[np.bool_]], tokenizers.Tokenizer]


def pieces_to_hide(
    may_hide: NDArray[np.bool_],
    open_without: Opener,
    language_words: Mapping[str, SegmentedWords],
    *,
    watch: ProgressCallback = no_progress,
) -> NDArray[np.bool_]:
    """Pieces that longest-match-first should not see, though the language tokenizers keep them.

    In a misread word the first piece on which union and teacher differ is to blame. A piece is hidden if the weight
    of the words it is to blame for exceeds the weight of the words whose teacher uses it.

    Args:
        may_hide: the rows that the model can do without [S]; no other is ever hidden, in a trial neither.
        open_without: opens the union tokenizer with some rows hidden.
        language_words: the words of each language.
        watch: told the rounds done.

    Returns:
        The rows to hide [S].
    """
    size = len(may_hide)
    hidden = np.zeros(size, dtype=bool)
    served = np.zeros(size)
    for teacher in language_words.values():
        served += count_uses(teacher.offsets, teacher.ids, teacher.weight, size)
    for turn in range(_ROUNDS):
        union, blamed = open_without(hidden), np.zeros(size)
        for teacher in language_words.values():
            offsets, ids = segment_words(union, teacher.words)
            misread = np.flatnonzero(rows_differ(offsets, ids, teacher.offsets, teacher.ids))
            # A word that the union drops has no piece to blame.
            misread = misread[np.diff(offsets)[misread] > 0]
            first_wrong = _first_differences(offsets, ids, teacher, misread)
            blamed += np.bincount(first_wrong, teacher.weight[misread], minlength=size)
        newly_hidden = (blamed > served) & may_hide & ~hidden
        hidden |= newly_hidden
        watch(turn + 1, _ROUNDS, "rounds of calibration")
        if not newly_hidden.any():
            break
    return hidden


def _first_differences(
    offsets: NDArray[np.int64],
    ids: NDArray[np.int64],
    teacher: SegmentedWords,
    rows: NDArray[np.int64],
) -> NDArray[np.int64]:
    """For each of some rows that differ, the union's id in the first place that differs.

    The union has an id in each of the rows; the teacher may have none, and then the first is to blame.
    """
    place = np.zeros(len(rows), dtype=np.int64)
    union_lengths, teacher_lengths = np.diff(offsets)[rows], np.diff(teacher.offsets)[rows]
    while True:
        equal = (place < union_lengths - 1) & (place < teacher_lengths - 1)
        union_ids = ids[offsets[rows[equal]] + place[equal]]
        equal[equal] = union_ids == teacher.ids[teacher.offsets[rows[equal]] + place[equal]]
        if not equal.any():
            return ids[offsets[rows] + place]
        place += equal
