"""Recorded signals of a language's teachers, of which those that cut a word into other pieces are heard by its likelihood.

A masked word is heard piece by piece from teachers that spell it with the student's pieces, as in a mixture, and word by word
from all others: what they give to the whole word, and to words that they hold likely, each as one event (approximate
likelihood matching, Minixhofer et al. 2025, whose chunk is here the masked word). Only words that no pieces of a teacher cover
alone are left out.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mergedistill.errors import StageError
from mergedistill.recipe.language_teachers import TeacherEnsemble
from mergedistill.targets.align import WordGroups, align_positions, match_words
from mergedistill.targets.batch import WordTargets
from mergedistill.targets.combine import AlignedTeacher, mixture
from mergedistill.targets.combined import TeacherUsage, refuse_differing_masks, shard_number
from mergedistill.targets.spellings import WordSpellings
from mergedistill.targets.word_events import WordEvents, events_of, join_events
from teacherzoo import Signals
from teacherzoo.signals.mapping import StudentIds
from teacherzoo.signals.shard import ShardArrays
from vocabmerge import VocabularyMap

_SHARDS_IN_MEMORY = 8  # shards kept in memory, as one reader of signals does


@dataclass(frozen=True, kw_only=True)
class WordShard:
    """A shard as the student learns it: distributions at positions, events of words, and how much of each teacher that is."""

    arrays: ShardArrays
    events: WordEvents
    piece_weights: NDArray[np.float32]
    usage: dict[str, TeacherUsage]


class WordSignals(Signals):
    """Signals in the student's ids: blocks, masks and labels of the primary teacher, words of all.

    Args:
        recordings: name to its recording of this one language, the primary's first.
        maps: name to the map from the teacher's ids.
        ensemble: the weights.
        spellings: name to the teacher's pieces that are words.
        temperature: of the loss that will be taken.
        max_lost: of any teacher's probability, see `Signals`.

    Raises:
        StageError: where a recording has no likelihoods of words, or they are of different texts or masks.
    """

    def __init__(
        self,
        recordings: Mapping[str, Any],
        maps: Mapping[str, VocabularyMap],
        ensemble: TeacherEnsemble,
        *,
        spellings: Mapping[str, WordSpellings],
        temperature: float,
        max_lost: float,
    ) -> None:
        primary = ensemble.primary
        super().__init__(recordings[primary], vocabulary=maps[primary], max_lost=max_lost, held=1)
        self._ensemble = ensemble
        self._spellings = spellings
        self._temperature = temperature
        self._in_teacher_ids = {
            name: Signals(recording, held=1) for name, recording in recordings.items()
        }
        self._student_ids = {
            name: StudentIds(
                maps[name], reader.settings, max_lost=max_lost, spell_masked=name == primary
            )
            for name, reader in self._in_teacher_ids.items()
        }
        for reader in self._in_teacher_ids.values():
            _refuse_without_words(reader)
            refuse_differing_masks(self, reader)
        self._shards: OrderedDict[int, WordShard] = OrderedDict()

    def shard(self, number: int) -> ShardArrays:
        """All of a shard, with the distributions of those that are heard piece by piece; the latest are kept."""
        return self.words_of_shard(number).arrays

    def words_of_shard(self, number: int) -> WordShard:
        """A shard with its events; the latest are kept."""
        if number not in self._shards:
            self._shards[number] = self._combine(number)
            if len(self._shards) > _SHARDS_IN_MEMORY:
                self._shards.popitem(last=False)
        self._shards.move_to_end(number)
        return self._shards[number]

    def word_targets(self, rows: list[int]) -> WordTargets | None:
        """What is heard word by word in some blocks; positions are those of `batch`. None where nothing is."""
        parts, weights, before = [], [], 0
        for row in rows:
            number, inside = self._place(row)
            shard = self.words_of_shard(number)
            start, stop = shard.arrays.position_starts[inside : inside + 2].tolist()
            weights.append(shard.piece_weights[start:stop])
            part = shard.events.between(start, stop)
            parts.append(replace(part, first=part.first - start + before))
            before += stop - start
        events = join_events(parts)
        if not len(events.first):
            return None
        places = np.arange(events.ids.shape[2])
        cells = np.where(places < events.sizes[:, None], events.first[:, None] + places, -1)
        return WordTargets(
            cells=torch.from_numpy(cells),
            ids=torch.from_numpy(events.ids.astype(np.int64)),
            logprobs=torch.from_numpy(events.logprobs),
            weights=torch.from_numpy(events.weights),
            piece_weights=torch.from_numpy(np.concatenate(weights)),
        )

    def usage(self) -> dict[str, TeacherUsage]:
        """How much of each teacher is used, over all shards."""
        total: dict[str, TeacherUsage] = {}
        for number in range(len(self.manifest.shards)):
            for name, usage in self.words_of_shard(number).usage.items():
                total[name] = total[name] + usage if name in total else usage
        return total

    def _combine(self, number: int) -> WordShard:
        lead = self._ensemble.primary
        primary = self._student_ids[lead].translate(self._in_teacher_ids[lead].shard(number))
        file = self.manifest.shards[number].file
        teachers = {
            name: self._heard(name, primary, shard_number(reader, file))
            for name, reader in self._in_teacher_ids.items()
        }
        shares, piece_shares = _shares(list(teachers.values()), self._ensemble)
        groups = next(iter(teachers.values())).groups
        group = groups.group_of_position
        events = [
            self._events(name, primary, heard, share)
            for (name, heard), share in zip(teachers.items(), shares, strict=True)
        ]
        counting = primary.labels >= 0
        return WordShard(
            arrays=self._by_pieces(primary, teachers),
            events=join_events(events).ordered(),
            piece_weights=piece_shares[group].astype(np.float32),
            usage={name: _usage(primary, heard, counting) for name, heard in teachers.items()},
        )

    def _heard(self, name: str, primary: ShardArrays, number: int) -> _HeardTeacher:
        leads = name == self._ensemble.primary
        raw = self._in_teacher_ids[name].shard(number)
        arrays = primary if leads else self._student_ids[name].translate(raw)
        groups, raw_groups, match = match_words(primary, raw)
        positions = np.arange(len(primary.labels)) if leads else align_positions(primary, arrays)
        lists_ids = np.logical_or.reduce(arrays.topk_ids >= 0, axis=1)
        by_pieces = groups.all_of((positions >= 0) & lists_ids[np.maximum(positions, 0)])
        words_of_primary, words_of_teacher = primary.word_logprobs, raw.word_logprobs
        assert words_of_primary is not None
        assert words_of_teacher is not None
        whole = np.isfinite(words_of_primary[groups.order[groups.starts], 0])
        there = raw_groups.order[raw_groups.starts[np.maximum(match, 0)]]
        whole &= (match >= 0) & np.isfinite(words_of_teacher[there, 0])
        whole &= groups.all_of(primary.labels >= 0)
        return _HeardTeacher(
            arrays=arrays,
            raw=raw,
            positions=positions,
            groups=groups,
            raw_first=there,
            raw_sizes=raw_groups.sizes[np.maximum(match, 0)],
            by_pieces=by_pieces,
            by_word=whole & ~by_pieces,
        )

    def _by_pieces(
        self, primary: ShardArrays, teachers: Mapping[str, _HeardTeacher]
    ) -> ShardArrays:
        """The mixture of those that are heard piece by piece; where there are none, what the primary has."""
        if len(teachers) == 1:
            return primary
        heard = list(teachers.values())
        group = heard[0].groups.group_of_position
        anyone = np.logical_or.reduce([teacher.by_pieces for teacher in heard])[group]
        aligned = []
        for order, (name, teacher) in enumerate(teachers.items()):
            speaks = teacher.by_pieces[group] | (~anyone if order == 0 else False)
            aligned.append(
                AlignedTeacher(
                    arrays=teacher.arrays,
                    positions=np.where(speaks, teacher.positions, -1),
                    weight=self._ensemble.weights[name],
                    unlisted=0,
                )
            )
        return replace(primary, **vars(mixture(aligned, temperature=self._temperature)))

    def _events(
        self, name: str, primary: ShardArrays, heard: _HeardTeacher, share: NDArray[np.float64]
    ) -> WordEvents:
        temperatures = self.settings.temperatures
        column = 0 if self._temperature == 1.0 else temperatures.index(self._temperature)
        words = np.flatnonzero(heard.by_word)
        return events_of(
            heard.raw,
            labels=primary.labels,
            first=heard.groups.order[heard.groups.starts[words]],
            sizes=heard.groups.sizes[words],
            raw_first=heard.raw_first[words],
            raw_sizes=heard.raw_sizes[words],
            weights=share[words],
            spellings=self._spellings[name],
            temperature=self._temperature,
            column=column,
        )

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_shards": OrderedDict()}


@dataclass(frozen=True, kw_only=True)
class _HeardTeacher:
    """A teacher at the G words and P positions of the primary.

    Attributes:
        arrays: its predictions in the student's ids.
        raw: the same in its own.
        positions: [P], the row of `arrays` of each position, -1 where it spells the word otherwise.
        groups: the words.
        raw_first: [G], where the word begins in `raw`, of any value where it is not there.
        raw_sizes: [G], in how many of its pieces.
        by_pieces: [G], whether it is heard piece by piece.
        by_word: [G], whether it is heard by the likelihood of the word.
    """

    arrays: ShardArrays
    raw: ShardArrays
    positions: NDArray[np.int64]
    groups: WordGroups
    raw_first: NDArray[np.int64]
    raw_sizes: NDArray[np.int64]
    by_pieces: NDArray[np.bool_]
    by_word: NDArray[np.bool_]


def _shares(
    teachers: list[_HeardTeacher], ensemble: TeacherEnsemble
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """[teachers, G] the share of each in a word, and [G] that of those together who are heard by pieces.

    With KL(teacher ‖ student), Σ_t w_t KL(p_t ‖ q) is KL(Σ_t w_t p_t ‖ q) up to a constant, so shares may be dealt between
    pieces and words.
    """
    weights = np.array(list(ensemble.weights.values()))[:, None]
    by_pieces = np.stack([teacher.by_pieces for teacher in teachers])
    by_word = np.stack([teacher.by_word for teacher in teachers])
    total = (weights * (by_pieces | by_word)).sum(axis=0)
    shares = weights * (by_pieces | by_word) / np.where(total > 0, total, 1)
    # Where nobody speaks the row counts as it is: without ids it has no soft part.
    return shares, np.where(total > 0, (shares * by_pieces).sum(axis=0), 1.0)


def _usage(primary: ShardArrays, heard: _HeardTeacher, counting: NDArray[np.bool_]) -> TeacherUsage:
    group = heard.groups.group_of_position
    by_pieces = heard.by_pieces[group] & counting
    counted = heard.groups.any_of(counting)
    speaks = heard.by_pieces | heard.by_word
    return TeacherUsage(
        asked=int(counting.sum()),
        heard=int((speaks[group] & counting).sum()),
        lost=float(heard.arrays.lost[heard.positions[by_pieces]].sum()),
        blocks=len(primary.loss),
        words=int(counted.sum()),
        words_heard=int((counted & speaks).sum()),
    )


def _refuse_without_words(reader: Signals) -> None:
    if not reader.settings.word_logprobs:
        raise StageError(
            f"{reader.folder} was recorded without the likelihoods of words; delete it and run the recipe again, which "
            "records them with its own masks."
        )
