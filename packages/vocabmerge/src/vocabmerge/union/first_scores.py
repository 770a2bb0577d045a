"""Puts the pieces of several teachers on one scale of log-probabilities."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from vocabmerge.families.union_words import SegmentedWords, count_uses
from vocabmerge.tokenizer_file.vocabulary import Vocabulary
from vocabmerge.union.union_rows import UnionRows

_UNSEEN = 0.1  # times a teacher's piece that its corpus never uses is taken to have been seen


def first_scores(
    teachers: Sequence[Vocabulary],
    rows: UnionRows,
    language_words: Mapping[str, SegmentedWords],
    teacher_of: Mapping[str, int],
) -> NDArray[np.float64]:
    """Log of each piece's greatest probability in any language: `log max over l of p[l, i]`.

    A Unigram teacher states its pieces' probabilities; those of the others are counted in their own segmentation of
    the language's corpus. The greatest, not the mean: so a piece that one language alone uses costs there what it
    cost before, whatever the number of languages.

    Args:
        teachers: of the union.
        rows: the rows of the union, S of them.
        language_words: the words of each language that has a corpus.
        teacher_of: language → position of its teacher.

    Returns:
        Scores [S].
    """
    greatest = np.zeros(len(rows))
    for number, (teacher, column) in enumerate(zip(teachers, rows.teacher_rows, strict=True)):
        kept = column >= 0
        if teacher.model.has_scores:
            stated = np.zeros(len(rows))
            stated[column[kept]] = np.exp(np.nan_to_num(teacher.scores[kept], nan=-np.inf))
            greatest = np.maximum(greatest, stated)
            continue
        for code, words in language_words.items():
            if teacher_of[code] == number:
                used = count_uses(words.offsets, words.ids, words.weight, len(rows))
                used[column[kept]] += _UNSEEN * float(words.weight.min(initial=1.0))
                greatest = np.maximum(greatest, used / used.sum())
    greatest[[role in ("special", "added") for role in rows.roles]] = 0
    return np.log(np.maximum(greatest, greatest[greatest > 0].min(initial=1.0)))
