"""Fits a union into a number of rows, so that the worst-served language is served best."""

from collections.abc import Mapping, Sequence

import numpy as np
import tokenizers
from numpy.typing import NDArray

from vocabmerge.count import count_pieces
from vocabmerge.errors import VocabularyError
from vocabmerge.tokenizer_file.vocabulary import Vocabulary, merge_pairs
from vocabmerge.trim.choose import choose_fair, close_over_merges
from vocabmerge.union.union_rows import Slots, keep_rows

_ALWAYS = ("special", "added", "byte", "character")
_TRIES = 20


def fit_rows(
    teachers: Sequence[Vocabulary],
    slots: Slots,
    segmenters: Mapping[str, tuple[tokenizers.Tokenizer, NDArray[np.int64]]],
    corpora: Mapping[str, Sequence[str]],
    size: int,
) -> Slots:
    """Keep at most `size` rows: specials, bytes, single characters, and the fairest choice of the rest.

    Pieces that BPE needs on its way to a kept one stay with it.

    Args:
        teachers: of the union.
        slots: all rows.
        segmenters: language → its teacher and the row of each of its ids.
        corpora: language → lines.
        size: number of rows at most.

    Returns:
        The rows that stay.

    Raises:
        VocabularyError: what always stays does not fit.
    """
    counts = np.stack(
        [_row_counts(*segmenters[code], lines, len(slots)) for code, lines in corpora.items()]
    )
    always = np.array([role in _ALWAYS for role in slots.roles])
    merges = _merge_rows(teachers, slots)
    always = close_over_merges(always, merges)
    budget = size
    for _ in range(_TRIES):
        kept = close_over_merges(choose_fair(counts, budget, always=always).keep, merges)
        excess = int(kept.sum()) - size
        if excess <= 0:
            return keep_rows(slots, kept)
        budget -= excess
    raise VocabularyError(
        f"no choice of {size} rows holds every piece that its merges need; ask for more rows"
    )


def _row_counts(
    teacher: tokenizers.Tokenizer, rows: NDArray[np.int64], lines: Sequence[str], size: int
) -> NDArray[np.int64]:
    counts = count_pieces(teacher, lines, size=len(rows))
    summed = np.zeros(size, dtype=np.int64)
    np.add.at(summed, rows[rows >= 0], counts[rows >= 0])
    return summed


def _merge_rows(teachers: Sequence[Vocabulary], slots: Slots) -> NDArray[np.int64]:
    """Rows (left, right, result) of every merge of every teacher."""
    table: list[tuple[int, int, int]] = []
    for teacher, column in zip(teachers, slots.of, strict=True):
        model = teacher.tokenizer["model"]
        if "merges" not in model:
            continue
        prefix = model.get("continuing_subword_prefix") or ""
        row = {piece: int(column[old]) for piece, old in teacher.ids.items()}
        found = (
            (row.get(left, -1), row.get(right, -1), row.get(left + right.removeprefix(prefix), -1))
            for left, right in merge_pairs(model)
        )
        table += [merge for merge in found if min(merge) >= 0]
    return np.array(table, dtype=np.int64).reshape(-1, 3)
