"""Signals in a student's ids: what a vocabulary map does to text, labels and distributions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from teacherzoo.errors import SignalsError
from teacherzoo.signals.layout import RecordingSettings
from teacherzoo.signals.shard import ShardArrays
from vocabmerge import VocabularyMap

IGNORED = -100


class StudentIds:
    """Turns decoded shards into a student's ids.

    A token of the text that the student spells with several ids becomes those; one it cannot say becomes its unknown token. A masked
    position stays one position. Of its ids, one that the student does not have as a single id becomes -1, and its
    probability goes to the tail; where two become the same id, their probabilities are added, and the partitions become
    those of the added ones, so that a softened distribution still sums to one. Ids that were drawn are added by their weights.

    Args:
        vocabulary: the map from the teacher's ids.
        settings: of the recording.
        max_lost: fail where more than this share of a shard's probability is lost.
        spell_masked: make a masked piece that the student spells with several ids as many masked positions, each with its label
            and without ids of the teacher, whose likelihood of the word is then all that is known there.

    Raises:
        SignalsError: where the map is of another tokenizer, or lacks the mask token.
    """

    def __init__(
        self,
        vocabulary: VocabularyMap,
        settings: RecordingSettings,
        *,
        max_lost: float,
        spell_masked: bool = False,
    ) -> None:
        if vocabulary.teacher_digest and vocabulary.teacher_digest != settings.tokenizer:
            raise SignalsError(
                f"The vocabulary map is of a tokenizer with digest {vocabulary.teacher_digest[:12]}, the signals were recorded "
                f"with {settings.tokenizer[:12]}; make the map from the teacher {settings.teacher}."
            )
        if len(vocabulary) < settings.space.size:
            raise SignalsError(
                f"The vocabulary map covers {len(vocabulary):,} teacher ids, but the signals use {settings.space.size:,}; "
                f"make the map from the teacher {settings.teacher}."
            )
        self._offsets = vocabulary.offsets
        self._ids = vocabulary.ids.astype(np.int64)
        self._single = vocabulary.one_to_one()
        self._max_lost = max_lost
        self._spell_masked = spell_masked
        self._temperatures = np.array(settings.temperatures)
        self._sampled = settings.sampler == "random"
        self._drawn_at = settings.drawn_at
        self._mask = self._special(settings.space.mask, "mask")
        self.pad = max(0, int(self._single[settings.space.pad]))
        unknown = settings.space.unknown
        self._unknown = -1 if unknown is None else int(self._single[unknown])
        single = self._single[self._single >= 0]
        self._meet = len(np.unique(single)) < len(single)

    def translate(self, arrays: ShardArrays) -> ShardArrays:
        """The same signals in the student's ids.

        Raises:
            SignalsError: where too much is lost, or the text needs an unknown token the student does not have.
        """
        translated = self._translate(arrays)
        return self._spell_labels(arrays, translated) if self._spell_masked else translated

    def _translate(self, arrays: ShardArrays) -> ShardArrays:
        counts = np.diff(arrays.position_starts)
        cells = arrays.positions + np.repeat(arrays.token_starts[:-1], counts)
        lengths = np.diff(self._offsets)[arrays.token_ids]
        lengths[cells] = 1
        lengths[lengths == 0] = 1
        ends = np.cumsum(lengths)
        begins = np.concatenate([[0], ends])
        token_starts = begins[arrays.token_starts]
        new_cells = (ends - lengths)[cells]
        token_ids = self._spell(arrays.token_ids, lengths, ends, arrays.language)
        labels = self._single[arrays.labels]
        input_ids = token_ids.copy()
        shown = self._single[arrays.input_ids[cells]]
        input_ids[new_cells] = np.where(shown >= 0, shown, self._mask)
        topk_ids, topk_logprobs, log_partition, lost = self._distribution(arrays)
        self._refuse_loss(arrays.language, lost)
        return replace(
            arrays,
            token_starts=token_starts,
            token_ids=token_ids,
            input_ids=input_ids,
            positions=new_cells - np.repeat(token_starts[:-1], counts),
            labels=np.where(labels >= 0, labels, IGNORED),
            topk_ids=topk_ids,
            topk_logprobs=topk_logprobs,
            tail=np.minimum(arrays.tail + lost, 1),
            lost=lost,
            log_partition=log_partition,
        )

    def _spell_labels(self, arrays: ShardArrays, translated: ShardArrays) -> ShardArrays:
        """Of signals in the teacher's ids and in the student's: the latter, with each spelled label as several positions."""
        sizes = np.maximum(np.diff(self._offsets)[arrays.labels], 1)
        several = sizes > 1
        if not several.any():
            return translated
        counts = np.diff(arrays.position_starts)
        row = np.repeat(np.arange(len(counts)), counts)
        cells = translated.positions + translated.token_starts[row]
        repeats = np.ones(len(translated.token_ids), dtype=np.int64)
        repeats[cells] = sizes
        ends = np.cumsum(repeats)
        token_starts = np.concatenate([[0], ends])[translated.token_starts]
        source = np.repeat(np.arange(len(sizes)), sizes)
        inside = np.arange(len(source)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        spelled = several[source]
        new_cells = (ends - repeats)[cells][source] + inside
        labels = translated.labels[source]
        labels[spelled] = self._ids[self._offsets[arrays.labels[source[spelled]]] + inside[spelled]]
        token_ids = np.repeat(translated.token_ids, repeats)
        token_ids[new_cells[spelled]] = labels[spelled]
        input_ids = np.repeat(translated.input_ids, repeats)
        input_ids[new_cells[spelled]] = self._mask
        columns = {
            name: getattr(translated, name)[source]
            for name in ("words", "topk_ids", "topk_logprobs", "tail", "lost", "log_partition")
        }
        columns["topk_ids"][spelled] = -1
        columns["topk_logprobs"][spelled] = -np.inf
        columns["tail"][spelled] = 1
        words = translated.word_logprobs
        return replace(
            translated,
            token_starts=token_starts,
            token_ids=token_ids,
            input_ids=input_ids,
            position_starts=np.concatenate([[0], np.cumsum(sizes)])[arrays.position_starts],
            positions=new_cells - token_starts[row][source],
            labels=labels,
            word_logprobs=None if words is None else words[source],
            **columns,
        )

    def _special(self, index: int, role: str) -> int:
        student_id = int(self._single[index])
        if student_id < 0:
            raise SignalsError(
                f"The vocabulary map has no single student id for the teacher's {role} token (id {index}); "
                "merge the vocabularies with their special tokens."
            )
        return student_id

    def _spell(
        self,
        ids: NDArray[np.int64],
        lengths: NDArray[np.int64],
        ends: NDArray[np.int64],
        language: str,
    ) -> NDArray[np.int64]:
        single = self._single[ids]
        none = np.diff(self._offsets)[ids] == 0
        if none.any() and self._unknown < 0:
            raise SignalsError(
                f"{language}: the student has no piece for teacher id {int(ids[none][0])} and no unknown token either; "
                "give its vocabulary one."
            )
        spelled = np.repeat(np.where(single >= 0, single, self._unknown), lengths)
        several = np.flatnonzero(lengths > 1)
        if len(several):
            counts = lengths[several]
            inside = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            target = np.repeat((ends - lengths)[several], counts) + inside
            spelled[target] = self._ids[np.repeat(self._offsets[ids[several]], counts) + inside]
        # A masked token that the student spells with several ids is one position: it shows as unknown, or as the mask.
        hidden = (single < 0) & (lengths == 1) & ~none
        spelled[(ends - lengths)[hidden]] = self._mask
        return spelled

    def _distribution(
        self, arrays: ShardArrays
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        known = (arrays.topk_ids >= 0) & (arrays.topk_ids < len(self._single))
        ids = np.where(known, self._single[np.where(known, arrays.topk_ids, 0)], -1)
        # Those that were drawn weigh at the temperature they were drawn at, and so they are added.
        logprobs = arrays.topk_logprobs / np.float32(self._drawn_at)
        missing = ids < 0
        lost = np.where(missing, np.exp(logprobs), 0).sum(axis=1, dtype=np.float32)
        logprobs[missing] = -np.inf
        partition = arrays.log_partition
        if self._sampled:
            if self._meet:
                _add_up_equal(ids, logprobs, partition[:, :0], self._temperatures[:0])
            logprobs *= np.float32(self._drawn_at)
        elif self._meet:
            partition = partition.copy()
            _add_up_equal(ids, logprobs, partition, self._temperatures)
        return ids, logprobs, partition, lost

    def _refuse_loss(self, language: str, lost: NDArray[np.float32]) -> None:
        share = float(lost.mean()) if len(lost) else 0.0
        if share > self._max_lost:
            raise SignalsError(
                f"{language}: {share:.1%} of the teacher's probability is on ids that the student does not have, more than the "
                f"{self._max_lost:.1%} allowed; enlarge the student's vocabulary or raise max_lost."
            )


def _add_up_equal(
    ids: NDArray[np.int64],
    logprobs: NDArray[np.float32],
    log_partition: NDArray[np.float32],
    temperatures: NDArray[np.float64],
) -> None:
    """In place, leave an id that stands twice in a row once, with the sum of its probabilities.

    At a temperature T other than 1, (Σp)^(1/T) is not Σ p^(1/T): the partition exchanges the one for the other.
    """
    ordered = np.sort(ids, axis=1)
    rows = np.flatnonzero(((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any(axis=1))
    for row in rows:
        for index in np.unique(ids[row][ids[row] >= 0]):
            places = np.flatnonzero(ids[row] == index)
            if len(places) > 1:
                apart = logprobs[row, places].astype(np.float64)
                together = np.logaddexp.reduce(apart)
                gained = np.exp(together / temperatures) - np.exp(
                    apart[:, None] / temperatures
                ).sum(0)
                log_partition[row] = np.log(np.exp(log_partition[row]) + gained)
                logprobs[row, places[0]] = together
                logprobs[row, places[1:]] = -np.inf
                ids[row, places[1:]] = -1
