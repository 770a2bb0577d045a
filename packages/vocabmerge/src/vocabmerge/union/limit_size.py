"""Limits a union to a number of rows, so that the worst-served language is served best."""

from collections.abc import Mapping, Sequence

import numpy as np
import tokenizers
from numpy.typing import NDArray

from vocabmerge.count import count_pieces
from vocabmerge.tokenizer_file.vocabulary import Vocabulary
from vocabmerge.trim.choose_pieces import choose_within, close_over_merges
from vocabmerge.union.union_rows import UnionRows, keep_rows

_ALWAYS = ("special", "added", "byte", "character")


def limit_size(
    teachers: Sequence[Vocabulary],
    rows: UnionRows,
    segmenters: Mapping[str, tuple[tokenizers.Tokenizer, NDArray[np.int64]]],
    corpora: Mapping[str, Sequence[str]],
    size: int,
) -> UnionRows:
    """Keep at most `size` rows: specials, bytes, single characters, and the fairest choice of the rest.

    Pieces that BPE needs on its way to a kept one stay with it.

    Args:
        teachers: of the union.
        rows: all rows.
        segmenters: language → its teacher and the row of each of its ids.
        corpora: language → lines.
        size: number of rows at most.

    Returns:
        The rows that stay.

    Raises:
        VocabularyError: what always stays does not fit.
    """
    counts = np.stack(
        [_row_counts(*segmenters[code], lines, len(rows)) for code, lines in corpora.items()]
    )
    merges = _merge_rows(teachers, rows)
    always = close_over_merges([role in _ALWAYS for role in rows.roles], merges)
    _, kept, _ = choose_within(counts, size, always=always, merges=merges, fair=True)
    return keep_rows(rows, kept)


def _row_counts(
    teacher: tokenizers.Tokenizer, ids: NDArray[np.int64], lines: Sequence[str], size: int
) -> NDArray[np.int64]:
    counts = count_pieces(teacher, lines, size=len(ids))
    summed = np.zeros(size, dtype=np.int64)
    np.add.at(summed, ids[ids >= 0], counts[ids >= 0])
    return summed


def _merge_rows(teachers: Sequence[Vocabulary], rows: UnionRows) -> NDArray[np.int64]:
    """Rows (left, right, result) of every merge of every teacher [M, 3]."""
    merges = [
        column[teacher.model.merge_ids()]
        for teacher, column in zip(teachers, rows.teacher_rows, strict=True)
    ]
    table = np.concatenate(merges)
    return table[(table >= 0).all(axis=1)]
