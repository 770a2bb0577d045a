"""Makes union tokenizers from rows: the trials of one merge share teachers, languages and corpora."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray

from vocabmerge.count import Watch
from vocabmerge.tokenizer_file.rewrite import placeholder, rewrite_tokenizer
from vocabmerge.tokenizer_file.vocabulary import Vocabulary, merge_pairs, open_tokenizer
from vocabmerge.union.assemble import (
    CUTS,
    Cut,
    family_tokenizer,
    mixed_tokenizer,
    normalizer_parts,
)
from vocabmerge.union.calibrate import correct_scores, first_scores
from vocabmerge.union.conflicts import normalizing
from vocabmerge.union.fidelity import compare_segmentation
from vocabmerge.union.merge_order import order_merges
from vocabmerge.union.specials import CONVENTIONS, Convention, unified_specials
from vocabmerge.union.teacher_segmentations import Targets, gather_targets
from vocabmerge.union.union_rows import Slots, union_slots
from vocabmerge.union.wordpiece_hiding import pieces_to_hide

_TRIAL_LINES = 1000  # held out, to compare ways of cutting text
_TRIAL_TRAINING = 5000


Segmenter = tuple[tokenizers.Tokenizer, NDArray[np.int64]]


class UnionMaker:
    """What stays the same while slots, cuts and scores are tried."""

    def __init__(
        self,
        teachers: Sequence[Vocabulary],
        position: Mapping[str, int],
        convention: Convention,
        steps: Sequence[Mapping[str, Any]],
        train: Mapping[str, Sequence[str]],
        watch: Watch,
    ) -> None:
        self._teachers = teachers
        self._position = position
        self._convention: Convention = convention
        self._steps = steps
        self._corpora = train
        self._watch = watch
        self._opened: dict[int, tokenizers.Tokenizer] = {}

    def slots(self, mixed: bool, cut: Cut) -> Slots:
        """All rows of the union, under a way to cut text."""
        return union_slots(
            self._teachers,
            mixed=mixed,
            convention=self._convention,
            punctuation="initial" if cut == "punctuation spaced" else "internal",
            normalize=normalizing(normalizer_parts(self._teachers, self._steps, mixed=mixed)),
        )

    def renumbered(self, slots: Slots, number: int) -> dict[str, Any]:
        """A teacher's own tokenizer with its pieces in union ids."""
        ids = CONVENTIONS[self._convention].ids
        renamed = unified_specials(self._teachers[number], self._convention)
        return rewrite_tokenizer(
            self._teachers[number],
            slots.of[number],
            size=len(slots),
            rename=renamed,
            extra={token: ids[token] for token in ids if token not in renamed.values()},
        )

    def segmenters(self, slots: Slots) -> dict[str, Segmenter]:
        """Each corpus language's teacher, with the row of each of its ids.

        A teacher all of whose pieces have a row is opened once, as it is; one that was cut, as what is left of it.
        """
        found: dict[int, Segmenter] = {}
        for number in {self._position[code] for code in self._corpora}:
            teacher, column = self._teachers[number], slots.of[number]
            live = np.array([role not in ("hole", "placeholder") for role in teacher.roles])
            if (column[live] >= 0).all():
                if number not in self._opened:
                    self._opened[number] = teacher.segmenter()
                found[number] = self._opened[number], column
            else:
                cut = open_tokenizer(self.renumbered(slots, number), name=teacher.name)
                found[number] = cut, np.arange(len(slots))
        return {code: found[self._position[code]] for code in self._corpora}

    def targets(self, slots: Slots, corpora: Mapping[str, Sequence[str]]) -> dict[str, Targets]:
        """The words of each language as its teacher segments them, in union ids."""
        found = {}
        for number, (code, segmenter) in enumerate(self.segmenters(slots).items(), start=1):
            found[code] = gather_targets(*segmenter, corpora[code])
            self._watch(number, len(corpora), "languages segmented by their teachers")
        return found

    def union(
        self, slots: Slots, scores: NDArray[np.float64] | None, mixed: bool, cut: Cut
    ) -> dict[str, Any]:
        """The union tokenizer before calibration, or with given scores."""
        if mixed:
            assert scores is not None
            return mixed_tokenizer(
                self._teachers,
                slots,
                self._steps,
                convention=self._convention,
                scores=scores,
                cut=cut,
            )
        return family_tokenizer(
            self._teachers, slots, self._steps, convention=self._convention, scores=scores
        )

    def calibrated(self, slots: Slots, mixed: bool, cut: Cut) -> dict[str, Any]:
        """The union tokenizer, fitted to the words of the corpora as its family allows.

        A Unigram's scores, the order of a BPE's merges, and which pieces a WordPiece's greedy search may see.
        """
        family = self._teachers[0].family
        targets = self.targets(slots, self._corpora)
        if mixed or family == "unigram":
            scores = first_scores(self._teachers, slots, targets, self._position)
            if targets:
                scores = correct_scores(
                    scores,
                    self.opener(slots, scores, mixed, cut),
                    targets,
                    watch=self._watch,
                )
            return self.union(slots, scores, mixed, cut)
        plain = self.union(slots, None, mixed, cut)
        if not targets or len(self._teachers) == 1:
            return plain
        if family == "wordpiece":
            return self._unblocked(plain, slots, targets)
        return self._reordered(plain, targets)

    def _unblocked(
        self, plain: dict[str, Any], slots: Slots, targets: Mapping[str, Targets]
    ) -> dict[str, Any]:
        def without(hidden: NDArray[np.bool_]) -> dict[str, Any]:
            vocab = {
                placeholder(row) if unseen else text: row
                for row, (text, unseen) in enumerate(zip(slots.texts, hidden.tolist(), strict=True))
            }
            return {**plain, "model": {**plain["model"], "vocab": vocab}}

        hidden = pieces_to_hide(
            len(slots),
            lambda rows: open_tokenizer(without(rows), name="union"),
            targets,
            watch=self._watch,
        )
        # Specials and characters stay in sight: without them text would be unknown.
        hidden &= np.array([role == "normal" for role in slots.roles])
        return without(hidden)

    def _reordered(self, plain: dict[str, Any], targets: Mapping[str, Targets]) -> dict[str, Any]:
        model = plain["model"]
        prefix, vocab = model.get("continuing_subword_prefix") or "", model["vocab"]
        merges: list[list[str]] = model["merges"]
        number = {(left, right): n for n, (left, right) in enumerate(merges)}
        rows = [
            [vocab[left], vocab[right], vocab[left + right.removeprefix(prefix)]]
            for left, right in merges
        ]
        ranks = np.full(len(merges), np.iinfo(np.int32).max, dtype=np.int64)
        own: list[NDArray[np.int64]] = []
        for teacher in self._teachers:
            pairs = [(left, right) for left, right in merge_pairs(teacher.tokenizer["model"])]
            found = [(number[pair], rank) for rank, pair in enumerate(pairs) if pair in number]
            own.append(np.array([n for n, _ in found], dtype=np.int64))
            np.minimum.at(ranks, own[-1], np.array([rank for _, rank in found], dtype=np.int64))

        def ordered(order: NDArray[np.int64]) -> dict[str, Any]:
            return {**plain, "model": {**model, "merges": [merges[n] for n in order.tolist()]}}

        order = order_merges(
            np.array(rows, dtype=np.int64).reshape(-1, 3),
            ranks,
            {code: own[self._position[code]] for code in targets},
            lambda one: open_tokenizer(ordered(one), name="union"),
            targets,
            watch=self._watch,
        )
        return ordered(order)

    def opener(
        self, slots: Slots, scores: NDArray[np.float64], mixed: bool, cut: Cut
    ) -> Callable[[NDArray[np.float64]], tokenizers.Tokenizer]:
        """Opens the union tokenizer with given scores; all but the model is opened once."""
        union = self.union(slots, scores, mixed, cut)
        model = union["model"]
        empty = {**model, "vocab": [["?", 0.0]], "unk_id": 0}
        frame = open_tokenizer(
            {**union, "added_tokens": [], "post_processor": None, "model": empty}, name="union"
        )

        def opened(one: NDArray[np.float64]) -> tokenizers.Tokenizer:
            frame.model = tokenizers.models.Unigram(
                list(zip(slots.texts, one.tolist(), strict=True)),
                model["unk_id"],
                bool(model.get("byte_fallback")),
            )
            return frame

        return opened

    def try_cuts(self, held: Mapping[str, Sequence[str]]) -> tuple[Cut, dict[str, float]]:
        """Before calibration, the mean share of words segmented alike under each way to cut text."""
        shares: dict[str, float] = {}
        some = {code: lines[:_TRIAL_TRAINING] for code, lines in self._corpora.items()}
        slots: dict[bool, Slots] = {}
        for number, cut in enumerate(CUTS, start=1):
            spaced = cut == "punctuation spaced"
            if spaced not in slots:
                slots[spaced] = self.slots(True, cut)
                targets = self.targets(slots[spaced], some)
                scores = first_scores(self._teachers, slots[spaced], targets, self._position)
            union = self.opener(slots[spaced], scores, True, cut)(scores)
            found = [
                compare_segmentation(union, own, held[code][:_TRIAL_LINES], rows=rows).words_alike
                for code, (own, rows) in self.segmenters(slots[spaced]).items()
            ]
            shares[cut] = float(np.mean(found))
            self._watch(number, len(CUTS), "ways to cut text tried")
        return max(CUTS, key=lambda cut: shares[cut]), shares
