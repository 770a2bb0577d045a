"""Builds union tokenizers from rows: the trials of one merge share teachers, languages and corpora."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray

from vocabmerge.families.components import open_tokenizer
from vocabmerge.families.model import CalibrationData
from vocabmerge.families.registry import model_of
from vocabmerge.families.unigram import open_with_scores
from vocabmerge.families.union_words import SegmentedWords
from vocabmerge.progress import ProgressCallback
from vocabmerge.tokenizer_file.rewrite import rewrite_tokenizer
from vocabmerge.tokenizer_file.vocabulary import Vocabulary
from vocabmerge.union.assemble import (
    PRE_TOKENIZATIONS,
    PreTokenization,
    family_tokenizer,
    mixed_tokenizer,
    normalizer_parts,
)
from vocabmerge.union.conflicts import normalizing
from vocabmerge.union.fidelity import compare_segmentation
from vocabmerge.union.first_scores import first_scores
from vocabmerge.union.specials import CONVENTIONS, Convention, unified_specials
from vocabmerge.union.teacher_segmentations import segment_corpus_words
from vocabmerge.union.union_rows import PunctuationPlace, UnionRows, unite_pieces

_TRIAL_LINES = 1000  # held out, to compare ways of cutting text
_TRIAL_TRAINING = 5000


Segmenter = tuple[tokenizers.Tokenizer, NDArray[np.int64]]


class UnionBuilder:
    """What stays the same while rows, pre-tokenizations and scores are tried.

    Args:
        teachers: of the union.
        teacher_of: language → position of its teacher.
        convention: the special tokens.
        normalizer: the textual steps of the union's normalizer.
        corpora: language → lines to calibrate on.
        mixed: whether the teachers are of several families.
        watch: told the progress.
    """

    def __init__(
        self,
        teachers: Sequence[Vocabulary],
        *,
        teacher_of: Mapping[str, int],
        convention: Convention,
        normalizer: Sequence[Mapping[str, Any]],
        corpora: Mapping[str, Sequence[str]],
        mixed: bool,
        watch: ProgressCallback,
    ) -> None:
        self._teachers = teachers
        self._teacher_of = teacher_of
        self._convention: Convention = convention
        self._normalizer = normalizer
        self._corpora = corpora
        self._mixed = mixed
        self._watch = watch
        self._opened: dict[int, tokenizers.Tokenizer] = {}

    def all_rows(self, pre_tokenization: PreTokenization) -> UnionRows:
        """All rows of the union, under a way to cut text."""
        steps = normalizer_parts(self._teachers, self._normalizer, mixed=self._mixed)
        return unite_pieces(
            self._teachers,
            mixed=self._mixed,
            convention=self._convention,
            punctuation=_punctuation_place(pre_tokenization),
            normalize=normalizing(steps),
        )

    def renumbered(self, rows: UnionRows, number: int) -> dict[str, Any]:
        """A teacher's own tokenizer with its pieces in union ids."""
        ids = CONVENTIONS[self._convention].ids
        renamed = unified_specials(self._teachers[number], self._convention)
        return rewrite_tokenizer(
            self._teachers[number],
            rows.teacher_rows[number],
            size=len(rows),
            rename=renamed,
            extra={token: ids[token] for token in ids if token not in renamed.values()},
        )

    def segmenters(self, rows: UnionRows) -> dict[str, Segmenter]:
        """Each corpus language's teacher, with the row of each of its ids.

        A teacher all of whose pieces have a row is opened once, as it is; one that was cut, as what is left of it.
        """
        segmenters: dict[int, Segmenter] = {}
        for number in {self._teacher_of[code] for code in self._corpora}:
            teacher, column = self._teachers[number], rows.teacher_rows[number]
            live = np.array([role not in ("hole", "placeholder") for role in teacher.roles])
            if (column[live] >= 0).all():
                if number not in self._opened:
                    self._opened[number] = teacher.segmenter()
                segmenters[number] = self._opened[number], column
            else:
                cut = open_tokenizer(self.renumbered(rows, number), name=teacher.name)
                segmenters[number] = cut, np.arange(len(rows))
        return {code: segmenters[self._teacher_of[code]] for code in self._corpora}

    def language_words(
        self, rows: UnionRows, corpora: Mapping[str, Sequence[str]]
    ) -> dict[str, SegmentedWords]:
        """The words of each language as its teacher segments them, in union ids."""
        words = {}
        for number, (code, segmenter) in enumerate(self.segmenters(rows).items(), start=1):
            words[code] = segment_corpus_words(*segmenter, corpora[code])
            self._watch(number, len(corpora), "languages segmented by their teachers")
        return words

    def calibrated(self, rows: UnionRows, pre_tokenization: PreTokenization) -> dict[str, Any]:
        """The union tokenizer, fitted to the words of the corpora as its family allows."""
        words = self.language_words(rows, self._corpora)
        scores = None
        if self._mixed or self._teachers[0].model.has_scores:
            scores = first_scores(self._teachers, rows, words, self._teacher_of)
        union = self._union(rows, scores, pre_tokenization)
        return model_of(union, name="union").calibrated(
            CalibrationData(
                union=union,
                roles=rows.roles,
                teachers=[teacher.model for teacher in self._teachers],
                teacher_of=self._teacher_of,
                words=words,
                watch=self._watch,
            )
        )

    def choose_pre_tokenization(
        self, held_out: Mapping[str, Sequence[str]]
    ) -> tuple[PreTokenization, dict[str, float]]:
        """Of a mixed union, the way to cut text under which most words are segmented alike, and the shares of all.

        Shares are means over the languages on held-out lines, before calibration.
        """
        shares: dict[str, float] = {}
        training = {code: lines[:_TRIAL_TRAINING] for code, lines in self._corpora.items()}
        tried: dict[str, tuple[UnionRows, dict[str, SegmentedWords]]] = {}
        for number, pre_tokenization in enumerate(PRE_TOKENIZATIONS, start=1):
            place = _punctuation_place(pre_tokenization)
            if place not in tried:
                rows = self.all_rows(pre_tokenization)
                tried[place] = rows, self.language_words(rows, training)
            rows, words = tried[place]
            scores = first_scores(self._teachers, rows, words, self._teacher_of)
            union = open_with_scores(self._union(rows, scores, pre_tokenization))(scores)
            alike = [
                compare_segmentation(
                    union, teacher, held_out[code][:_TRIAL_LINES], rows=ids
                ).words_alike
                for code, (teacher, ids) in self.segmenters(rows).items()
            ]
            shares[pre_tokenization] = float(np.mean(alike))
            self._watch(number, len(PRE_TOKENIZATIONS), "ways to cut text tried")
        return max(PRE_TOKENIZATIONS, key=lambda tokenization: shares[tokenization]), shares

    def _union(
        self,
        rows: UnionRows,
        scores: NDArray[np.float64] | None,
        pre_tokenization: PreTokenization,
    ) -> dict[str, Any]:
        if self._mixed:
            assert scores is not None
            return mixed_tokenizer(
                self._teachers,
                rows,
                self._normalizer,
                convention=self._convention,
                scores=scores,
                pre_tokenization=pre_tokenization,
            )
        return family_tokenizer(
            self._teachers, rows, self._normalizer, convention=self._convention, scores=scores
        )


def _punctuation_place(pre_tokenization: PreTokenization) -> PunctuationPlace:
    """Where in a word a piece of punctuation stands, under a way to cut text."""
    return "initial" if pre_tokenization == "punctuation spaced" else "internal"
