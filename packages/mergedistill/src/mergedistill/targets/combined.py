"""Recorded signals of several teachers of a language, combined into one distribution per position as they are read."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mergedistill.errors import StageError
from mergedistill.recipe.language_teachers import TeacherEnsemble
from mergedistill.targets.align import WordGroups, align_positions, masked_words
from mergedistill.targets.combine import AlignedTeacher, mince, mixture
from teacherzoo import Signals
from teacherzoo.signals.shard import ShardArrays
from vocabmerge import VocabularyMap

_SHARDS_IN_MEMORY = 8  # shards kept in memory, as one reader of signals does


@dataclass(frozen=True, kw_only=True)
class TeacherUsage:
    """How much of a teacher is used, in a shard or in all of them.

    Attributes:
        asked: masked positions that count.
        heard: of these, those where its prediction was used.
        lost: probability, summed over the positions used, on ids that the student lacks.
        blocks: in how many blocks it was chosen; under a mixture, all.
        words: masked words with a position that counts.
        words_heard: of these, those where it was used at each such position.
    """

    asked: int
    heard: int
    lost: float
    blocks: int
    words: int
    words_heard: int

    def __add__(self, other: TeacherUsage) -> TeacherUsage:
        return TeacherUsage(
            **{name: value + getattr(other, name) for name, value in vars(self).items()}
        )


class CombinedSignals(Signals):
    """Signals in the student's ids: blocks, masks and labels of the primary teacher, distributions of all.

    Args:
        recordings: name to its recording of this one language, the primary's first.
        maps: name to the map from the teacher's ids.
        ensemble: how they are combined.
        temperature: of the loss that will be taken.
        max_lost: of any teacher's probability, see `Signals`.

    Raises:
        StageError: where the recordings are of different texts or masks, or one drew ids and one kept the likeliest; for
            MinCE over drawn ids of different tokenizers.
    """

    def __init__(
        self,
        recordings: Mapping[str, Any],
        maps: Mapping[str, VocabularyMap],
        ensemble: TeacherEnsemble,
        *,
        temperature: float,
        max_lost: float,
    ) -> None:
        primary, *others = recordings
        super().__init__(recordings[primary], vocabulary=maps[primary], max_lost=max_lost, held=1)
        self._ensemble = ensemble
        self._temperature = temperature
        self._others = {
            name: Signals(recordings[name], vocabulary=maps[name], max_lost=max_lost, held=1)
            for name in others
        }
        self._lead = primary
        for other in self._others.values():
            refuse_differing_masks(self, other)
        self._same_text = all(
            other.settings.tokenizer == self.settings.tokenizer for other in self._others.values()
        )
        if (
            self.settings.sampler == "random"
            and ensemble.combine == "mince"
            and not self._same_text
        ):
            raise StageError(
                f"{self.languages[0]}: mince compares teachers with different tokenizers by what was recorded of the true pieces, and "
                "drawn ids do not tell that; set combine: mixture, or distil.sampler: topk."
            )
        self._shards: OrderedDict[int, tuple[ShardArrays, dict[str, TeacherUsage]]] = OrderedDict()

    def shard(self, number: int) -> ShardArrays:
        """All of a shard with the combined distributions; the latest are kept."""
        return self._combined(number)[0]

    def usage(self) -> dict[str, TeacherUsage]:
        """How much of each teacher is used, over all shards."""
        total: dict[str, TeacherUsage] = {}
        for number in range(len(self.manifest.shards)):
            for name, usage in self._combined(number)[1].items():
                total[name] = total[name] + usage if name in total else usage
        return total

    def _combined(self, number: int) -> tuple[ShardArrays, dict[str, TeacherUsage]]:
        if number not in self._shards:
            self._shards[number] = self._combine(number)
            if len(self._shards) > _SHARDS_IN_MEMORY:
                self._shards.popitem(last=False)
        self._shards.move_to_end(number)
        return self._shards[number]

    def _combine(self, number: int) -> tuple[ShardArrays, dict[str, TeacherUsage]]:
        primary = super().shard(number)
        teachers = {
            self._lead: self._aligned(self, primary, np.arange(len(primary.labels)), self._lead)
        }
        file = self.manifest.shards[number].file
        for name, other in self._others.items():
            arrays = other.shard(shard_number(other, file))
            teachers[name] = self._aligned(other, arrays, align_positions(primary, arrays), name)
        counting = primary.labels >= 0
        groups = masked_words(primary)
        if self._ensemble.combine == "mixture":
            targets = mixture(list(teachers.values()), temperature=self._temperature)
            return replace(primary, **vars(targets)), {
                name: _usage_of(
                    teacher,
                    teacher.has_prediction & counting,
                    counting,
                    groups,
                    blocks=len(primary.loss),
                )
                for name, teacher in teachers.items()
            }
        targets, chosen, used = mince(list(teachers.values()), same_text=self._same_text)
        return replace(primary, **vars(targets)), {
            name: _usage_of(
                teacher,
                (used == order) & counting,
                counting,
                groups,
                blocks=int((chosen == order).sum()),
            )
            for order, (name, teacher) in enumerate(teachers.items())
        }

    def _aligned(
        self, signals: Signals, arrays: ShardArrays, positions: NDArray[np.int64], name: str
    ) -> AlignedTeacher:
        return AlignedTeacher(
            arrays=arrays,
            positions=positions,
            weight=self._ensemble.weights[name],
            unlisted=signals.settings.vocabulary_size - signals.settings.width,
        )

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_shards": OrderedDict()}


def _usage_of(
    teacher: AlignedTeacher,
    used: NDArray[np.bool_],
    counting: NDArray[np.bool_],
    groups: WordGroups,
    *,
    blocks: int,
) -> TeacherUsage:
    counted = groups.any_of(counting)
    return TeacherUsage(
        asked=int(counting.sum()),
        heard=int(used.sum()),
        lost=float(teacher.arrays.lost[teacher.positions[used]].sum()),
        blocks=blocks,
        words=int(counted.sum()),
        words_heard=int((counted & groups.all_of(used | ~counting)).sum()),
    )


def shard_number(signals: Signals, file: str) -> int:
    """Which shard of another recording is of the same documents."""
    return next(
        number for number, shard in enumerate(signals.manifest.shards) if shard.file == file
    )


def refuse_differing_masks(primary: Signals, other: Signals) -> None:
    """Recordings whose masked positions cannot be aligned.

    Raises:
        StageError: naming both, and what differs.
    """
    (language,) = primary.languages
    settings, other_settings = primary.settings, other.settings
    if primary.manifest.corpora != other.manifest.corpora:
        raise StageError(
            f"{language}: {other.folder} is of another text than {primary.folder}; record both again."
        )
    for setting in (
        "word_rule",
        "masking",
        "mask_draws",
        "sampler",
        "draws",
        "temperatures",
        "shard_bytes",
    ):
        if getattr(settings, setting) != getattr(other_settings, setting):
            raise StageError(
                f"{language}: {other.folder} was recorded with {setting} {getattr(other_settings, setting)}, {primary.folder} with "
                f"{getattr(settings, setting)}; record both again."
            )
    if settings.tokenizer != other_settings.tokenizer and settings.masking.policy != "whole_word":
        raise StageError(
            f"{language}: {settings.teacher} and {other_settings.teacher} cut text differently, and masks drawn piece by piece do not "
            "meet; set distil.policy: whole_word."
        )
    if (
        settings.tokenizer == other_settings.tokenizer
        and settings.block_length != other_settings.block_length
    ):
        raise StageError(
            f"{language}: {other.folder} has blocks of {other_settings.block_length} tokens, {primary.folder} of "
            f"{settings.block_length}; record both again."
        )
