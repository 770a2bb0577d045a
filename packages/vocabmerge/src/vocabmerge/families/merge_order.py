"""Orders the merges of a BPE union so that each language's words come out as its teacher has them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

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
_HEAD = 20.0  # ranks below this are alike: the first merges of all teachers are each other's

Opener = Callable[[NDArray[np.int64]], tokenizers.Tokenizer]


def order_merges(
    merges: NDArray[np.int64],
    ranks: NDArray[np.int64],
    teacher_merges: Mapping[str, NDArray[np.int64]],
    open_with: Opener,
    language_words: Mapping[str, SegmentedWords],
    *,
    watch: ProgressCallback = no_progress,
) -> NDArray[np.int64]:
    """An averaged perceptron (Freund, Schapire 1999) on the logarithm of a merge's rank.

    In the words that come out wrong, merges that the teacher applies and the union does not move forward, the others
    back, by step · (T - U) / (T + U), where T and U are the weights of their applications by teacher and union.

    Args:
        merges: rows (left, right, result) of each merge of the union [M, 3].
        ranks: the lowest rank that any teacher gives each [M].
        teacher_merges: language → the merges of its teacher, in the teacher's order.
        open_with: opens the union tokenizer with the merges in a given order.
        language_words: the words of each language.
        watch: told the rounds done.

    Returns:
        The order: numbers of merges, first to last [M].
    """
    largest = (int(teacher.ids.max(initial=0)) for teacher in language_words.values())
    size = max(max(largest, default=0), int(merges.max(initial=0))) + 1
    log_rank = np.log(ranks + _HEAD)
    order = np.argsort(log_rank, kind="stable")
    mean, step = np.zeros_like(log_rank), _STEP
    for turn in range(_ROUNDS):
        union = open_with(order)
        by_teacher, by_union = np.zeros(len(merges)), np.zeros(len(merges))
        union_merges = _one_merge_per_piece(merges, order)
        for code, teacher in language_words.items():
            offsets, ids = segment_words(union, teacher.words)
            misread = rows_differ(offsets, ids, teacher.offsets, teacher.ids)
            weight = np.where(misread, teacher.weight, 0.0)
            teacher_uses = count_uses(teacher.offsets, teacher.ids, weight, size)
            by_teacher += _applications(merges, teacher_merges[code], teacher_uses)
            union_uses = count_uses(offsets, ids, weight, size)
            by_union += _applications(merges, union_merges, union_uses)
        total = by_teacher + by_union
        if not by_teacher.any() and turn == 0:
            return order
        move = np.divide(by_teacher - by_union, total, out=np.zeros_like(total), where=total > 0)
        log_rank = log_rank - step * move
        mean += log_rank
        step *= _DECAY
        order = np.argsort(log_rank, kind="stable")
        watch(turn + 1, _ROUNDS, "rounds of calibration")
    return np.argsort(mean, kind="stable")


def _one_merge_per_piece(merges: NDArray[np.int64], order: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of the merges that make one piece, the first in order; the whole in order."""
    _, first = np.unique(merges[order, 2], return_index=True)
    return order[np.sort(first)]


def _applications(
    merges: NDArray[np.int64], chosen: NDArray[np.int64], uses: NDArray[Any]
) -> NDArray[np.float64]:
    """How often each merge is applied on the way to pieces used so often; longer pieces first."""
    need: list[float] = uses.astype(np.float64).tolist()
    applied = np.zeros(len(merges))
    table: Sequence[Sequence[int]] = merges[chosen].tolist()
    for number, (left, right, result) in zip(chosen[::-1].tolist(), reversed(table), strict=True):
        amount = need[result]
        if amount:
            applied[number] += amount
            need[left] += amount
            need[right] += amount
    return applied
