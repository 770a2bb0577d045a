"""Corrects the scores of a Unigram union, word by word, until its teachers' segmentations come out."""

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

_ROUNDS = 8
_STEP = 1.0
_DECAY = 0.85

Opener = Callable[[NDArray[np.float64]], tokenizers.Tokenizer]


def correct_scores(
    scores: NDArray[np.float64],
    open_with: Opener,
    language_words: Mapping[str, SegmentedWords],
    *,
    watch: ProgressCallback = no_progress,
) -> NDArray[np.float64]:
    """An averaged perceptron (Freund, Schapire 1999): pieces of words that come out wrong lose, those that the teacher uses there gain.

    Each round segments every word of every language with the current scores. Of a piece, let T be the weight of
    misread words in which the teacher uses it and U of those in which the union does; its score moves by
    step · (T - U) / (T + U), and the step shrinks from round to round. Languages count alike. Words that all come out
    right move nothing.

    Args:
        scores: to start from [S].
        open_with: opens the union tokenizer with given scores.
        language_words: the words of each language.
        watch: told the rounds done.

    Returns:
        The mean of the scores over the rounds [S].
    """
    mean, step, size = np.zeros_like(scores), _STEP, len(scores)
    for turn in range(_ROUNDS):
        union = open_with(scores)
        by_teacher, by_union = np.zeros_like(scores), np.zeros_like(scores)
        for teacher in language_words.values():
            offsets, ids = segment_words(union, teacher.words)
            misread = rows_differ(offsets, ids, teacher.offsets, teacher.ids)
            weight = np.where(misread, teacher.weight, 0.0)
            by_teacher += count_uses(teacher.offsets, teacher.ids, weight, size)
            by_union += count_uses(offsets, ids, weight, size)
        if not by_teacher.any():
            return scores if turn == 0 else (mean + scores * (_ROUNDS - turn)) / _ROUNDS
        total = by_teacher + by_union
        scores = scores + step * np.divide(
            by_teacher - by_union, total, out=np.zeros_like(total), where=total > 0
        )
        mean += scores
        step *= _DECAY
        watch(turn + 1, _ROUNDS, "rounds of calibration")
    return mean / _ROUNDS
