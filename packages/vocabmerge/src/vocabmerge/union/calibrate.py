"""Puts the pieces of several teachers on one scale of log-probabilities, then corrects it word by word."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tokenizers
from numpy.typing import NDArray

from vocabmerge.count import Watch, silent
from vocabmerge.tokenizer_file.vocabulary import Vocabulary
from vocabmerge.union.teacher_segmentations import Targets, rows_differ, segment_words
from vocabmerge.union.union_rows import Slots

_ROUNDS = 8
_STEP = 1.0
_DECAY = 0.85
_UNSEEN = 0.1  # times a teacher's piece that its corpus never uses is taken to have been seen

Opener = Callable[[NDArray[np.float64]], tokenizers.Tokenizer]


def first_scores(
    teachers: Sequence[Vocabulary],
    slots: Slots,
    targets: Mapping[str, Targets],
    assignment: Mapping[str, int],
) -> NDArray[np.float64]:
    """Log of each piece's greatest probability in any language.

    A Unigram teacher states its pieces' probabilities; those of the others are counted in their own segmentation of
    the language's corpus. The greatest, not the mean: so a piece that one language alone uses costs there what it
    cost before, whatever the number of languages.

    Args:
        teachers: of the union.
        slots: the rows of the union, S of them.
        targets: the words of each language that has a corpus.
        assignment: language → position of its teacher.

    Returns:
        Scores [S].
    """
    common = np.array([role in ("special", "added") for role in slots.roles])
    total = np.zeros(len(slots))
    for number, (teacher, column) in enumerate(zip(teachers, slots.of, strict=True)):
        own = column[column >= 0]
        if teacher.family == "unigram":
            stated = np.zeros(len(slots))
            stated[own] = np.exp(np.nan_to_num(teacher.scores[column >= 0], nan=-np.inf))
            total = np.maximum(total, stated)
            continue
        for language in (one for one in targets if assignment[one] == number):
            one = targets[language]
            used = _uses(one.offsets, one.ids, one.weight, len(slots))
            used[own] += _UNSEEN * float(one.weight.min(initial=1.0))
            total = np.maximum(total, used / used.sum())
    total[common] = 0
    return np.log(np.maximum(total, total[total > 0].min(initial=1.0)))


def correct_scores(
    scores: NDArray[np.float64],
    open_with: Opener,
    targets: Mapping[str, Targets],
    *,
    watch: Watch = silent,
) -> NDArray[np.float64]:
    """An averaged perceptron: pieces of words that come out wrong lose, those that the teacher uses there gain.

    Each round segments every word of every language with the current scores. Of a piece, let T be the weight of
    misread words in which the teacher uses it and U of those in which the union does; its score moves by
    step · (T - U) / (T + U), and the step shrinks from round to round. Languages count alike. Words that all come out
    right move nothing.

    Args:
        scores: to start from [S].
        open_with: opens the union tokenizer with given scores.
        targets: the words of each language.
        watch: told the rounds done.

    Returns:
        The mean of the scores over the rounds [S].
    """
    mean, step = np.zeros_like(scores), _STEP
    for turn in range(_ROUNDS):
        union = open_with(scores)
        wanted, got = np.zeros_like(scores), np.zeros_like(scores)
        for target in targets.values():
            offsets, ids = segment_words(union, target.words)
            wrong = rows_differ(offsets, ids, target.offsets, target.ids)
            weight = np.where(wrong, target.weight, 0.0)
            wanted += _uses(target.offsets, target.ids, weight, len(scores))
            got += _uses(offsets, ids, weight, len(scores))
        if not wanted.any():
            return scores if turn == 0 else (mean + scores * (_ROUNDS - turn)) / _ROUNDS
        total = wanted + got
        scores = scores + step * np.divide(
            wanted - got, total, out=np.zeros_like(total), where=total > 0
        )
        mean += scores
        step *= _DECAY
        watch(turn + 1, _ROUNDS, "rounds of calibration")
    return mean / _ROUNDS


def _uses(
    offsets: NDArray[np.int64],
    ids: NDArray[np.int64],
    weight: NDArray[np.float64],
    size: int,
) -> NDArray[np.float64]:
    uses = np.bincount(ids, weights=np.repeat(weight, np.diff(offsets)), minlength=size)
    return uses.astype(np.float64)
