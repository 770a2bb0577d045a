"""Recorded signals of several teachers of a language, read as one recording."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mergedistill.errors import StageError
from mergedistill.recipe.language_teachers import Faculty
from mergedistill.targets.align import meeting_places
from mergedistill.targets.combine import Voice, mince, mixture
from teacherzoo import Signals
from teacherzoo.signals.shard import ShardArrays
from vocabmerge import VocabularyMap

_HELD = 8  # shards kept in memory, as one reader of signals does


@dataclass(frozen=True, kw_only=True)
class Hearing:
    """How much of a teacher was heard, in a shard or in all of them.

    Attributes:
        asked: masked positions that count.
        heard: of these, where it did not abstain.
        lost: probability, summed over the positions heard, on ids that the student lacks.
        blocks: in how many blocks it was chosen; under a mixture, all.
    """

    asked: int
    heard: int
    lost: float
    blocks: int

    def __add__(self, other: Hearing) -> Hearing:
        return Hearing(
            asked=self.asked + other.asked,
            heard=self.heard + other.heard,
            lost=self.lost + other.lost,
            blocks=self.blocks + other.blocks,
        )


class MetSignals(Signals):
    """Signals in the student's ids: blocks, masks and labels of the lead teacher, distributions of all.

    Args:
        recordings: name to its recording of this one language, the lead's first.
        maps: name to the map from the teacher's ids.
        faculty: how they are heard.
        temperature: of the loss that will be taken.
        max_lost: of any teacher's probability, see `Signals`.

    Raises:
        StageError: where the recordings are of different texts or masks.
    """

    def __init__(
        self,
        recordings: Mapping[str, Any],
        maps: Mapping[str, VocabularyMap],
        faculty: Faculty,
        *,
        temperature: float,
        max_lost: float,
    ) -> None:
        lead, *others = recordings
        super().__init__(recordings[lead], vocabulary=maps[lead], max_lost=max_lost, held=1)
        self._faculty = faculty
        self._temperature = temperature
        self._others = {
            name: Signals(recordings[name], vocabulary=maps[name], max_lost=max_lost)
            for name in others
        }
        self._lead = lead
        for other in self._others.values():
            refuse_other_masks(self, other)
        self._same_text = all(
            other.terms.tokenizer == self.terms.tokenizer for other in self._others.values()
        )
        self._heard: OrderedDict[int, tuple[ShardArrays, dict[str, Hearing]]] = OrderedDict()

    def shard(self, number: int) -> ShardArrays:
        """All of a shard as the teachers together say it; the latest are kept."""
        return self._combined(number)[0]

    def hearings(self) -> dict[str, Hearing]:
        """How much of each teacher is heard, over all shards."""
        found: dict[str, Hearing] = {}
        for number in range(len(self.manifest.shards)):
            for name, its in self._combined(number)[1].items():
                found[name] = found[name] + its if name in found else its
        return found

    def _combined(self, number: int) -> tuple[ShardArrays, dict[str, Hearing]]:
        if number not in self._heard:
            self._heard[number] = self._combine(number)
            if len(self._heard) > _HELD:
                self._heard.popitem(last=False)
        self._heard.move_to_end(number)
        return self._heard[number]

    def _combine(self, number: int) -> tuple[ShardArrays, dict[str, Hearing]]:
        lead = super().shard(number)
        voices = {self._lead: self._voice(self, lead, np.arange(len(lead.labels)), self._lead)}
        file = self.manifest.shards[number].file
        for name, other in self._others.items():
            arrays = other.shard(shard_number(other, file))
            voices[name] = self._voice(other, arrays, meeting_places(lead, arrays), name)
        counting = lead.labels >= 0
        if self._faculty.combine == "mixture":
            met = mixture(list(voices.values()), temperature=self._temperature)
            return replace(lead, **vars(met)), {
                name: _hearing(voice, voice.speaks & counting, counting, len(lead.loss))
                for name, voice in voices.items()
            }
        met, chosen, heard = mince(list(voices.values()), same_text=self._same_text)
        return replace(lead, **vars(met)), {
            name: _hearing(
                voice, (heard == order) & counting, counting, int((chosen == order).sum())
            )
            for order, (name, voice) in enumerate(voices.items())
        }

    def _voice(
        self, signals: Signals, arrays: ShardArrays, places: NDArray[np.int64], name: str
    ) -> Voice:
        return Voice(
            arrays=arrays,
            places=places,
            weight=self._faculty.weights[name],
            unlisted=signals.terms.vocabulary_size - signals.terms.k,
        )

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_heard": OrderedDict()}


def _hearing(
    voice: Voice, heard: NDArray[np.bool_], counting: NDArray[np.bool_], blocks: int
) -> Hearing:
    return Hearing(
        asked=int(counting.sum()),
        heard=int(heard.sum()),
        lost=float(voice.arrays.lost[voice.places[heard]].sum()),
        blocks=blocks,
    )


def shard_number(signals: Signals, file: str) -> int:
    """Which shard of another recording is of the same documents."""
    return next(
        number for number, shard in enumerate(signals.manifest.shards) if shard.file == file
    )


def refuse_other_masks(lead: Signals, other: Signals) -> None:
    """Recordings whose positions do not meet.

    Raises:
        StageError: naming both, and what differs.
    """
    (language,) = lead.languages
    mine, theirs = lead.terms, other.terms
    if lead.manifest.corpora != other.manifest.corpora:
        raise StageError(
            f"{language}: {other.folder} is of another text than {lead.folder}; record both again."
        )
    for what in ("masking", "draws", "temperatures", "shard_bytes"):
        if getattr(mine, what) != getattr(theirs, what):
            raise StageError(
                f"{language}: {other.folder} was recorded with {what} {getattr(theirs, what)}, {lead.folder} with "
                f"{getattr(mine, what)}; record both again."
            )
    if mine.tokenizer != theirs.tokenizer and mine.masking.policy != "whole_word":
        raise StageError(
            f"{language}: {mine.teacher} and {theirs.teacher} cut text differently, and masks drawn piece by piece do not "
            "meet; set distil.policy: whole_word."
        )
    if mine.tokenizer == theirs.tokenizer and mine.block_length != theirs.block_length:
        raise StageError(
            f"{language}: {other.folder} has blocks of {theirs.block_length} tokens, {lead.folder} of "
            f"{mine.block_length}; record both again."
        )
