"""Finds the pieces of a WordPiece union that take more words away from their teachers than they serve."""

from collections.abc import Callable, Mapping

import numpy as np
import tokenizers
from numpy.typing import NDArray

from vocabmerge.count import Watch, silent
from vocabmerge.union.teacher_segmentations import Targets, rows_differ, segment_words

_ROUNDS = 4

Opener = Callable[[NDArray[np.bool_]], tokenizers.Tokenizer]


def pieces_to_hide(
    size: int, open_without: Opener, targets: Mapping[str, Targets], *, watch: Watch = silent
) -> NDArray[np.bool_]:
    """Pieces that longest-match-first should not see, though the language tokenizers keep them.

    In a misread word the first piece on which union and teacher differ is to blame. A piece is hidden if the weight
    of the words it is to blame for exceeds the weight of the words whose teacher uses it.

    Args:
        size: S, the number of rows.
        open_without: opens the union tokenizer with some rows hidden.
        targets: the words of each language.
        watch: told the rounds done.

    Returns:
        The rows to hide [S].
    """
    hidden = np.zeros(size, dtype=bool)
    served = np.zeros(size)
    for target in targets.values():
        served += np.bincount(
            target.ids, np.repeat(target.weight, np.diff(target.offsets)), minlength=size
        )
    for turn in range(_ROUNDS):
        union, blame = open_without(hidden), np.zeros(size)
        for target in targets.values():
            offsets, ids = segment_words(union, target.words)
            wrong = np.flatnonzero(rows_differ(offsets, ids, target.offsets, target.ids))
            wrong = wrong[
                np.diff(offsets)[wrong] > 0
            ]  # a word that the union drops has no piece to blame
            culprit = _first_differences(offsets, ids, target, wrong)
            blame += np.bincount(culprit, target.weight[wrong], minlength=size)
        more = (blame > served) & ~hidden
        hidden |= more
        watch(turn + 1, _ROUNDS, "rounds of calibration")
        if not more.any():
            break
    return hidden


def _first_differences(
    offsets: NDArray[np.int64],
    ids: NDArray[np.int64],
    target: Targets,
    rows: NDArray[np.int64],
) -> NDArray[np.int64]:
    """For each of some rows that differ, the union's id in the first place that differs.

    The union has an id in each of the rows; the target may have none, and then the first is to blame.
    """
    place = np.zeros(len(rows), dtype=np.int64)
    ours, theirs = np.diff(offsets)[rows], np.diff(target.offsets)[rows]
    while True:
        going = (place < ours - 1) & (place < theirs - 1)
        left = ids[offsets[rows[going]] + place[going]]
        right = target.ids[target.offsets[rows[going]] + place[going]]
        going[going] = left == right
        if not going.any():
            return ids[offsets[rows] + place]
        place += going
