"""Teachers asked in each step, opened for a run: one for a language, or several who are heard together."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mergedistill.recipe.language_teachers import Faculty, teachers_in_use
from mergedistill.recipe.recipe import Distil, Recipe
from mergedistill.recipe.stages import recording_folder
from mergedistill.targets.align import meeting_places
from mergedistill.targets.combine import Said, Voice, mince, mixture
from mergedistill.targets.combined import refuse_other_masks, shard_number
from mergedistill.targets.online import (
    Compared,
    OnlineSignals,
    OnlineTeacher,
    at_temperature,
    compare_top,
)
from teacherzoo import Signals, SplitHead, load_teacher
from teacherzoo.catalogue.catalogue import find_teacher
from vocabmerge import load_map

_HELD = 8  # shards whose meeting places are kept, as a reader of signals keeps shards


class JointSignals(OnlineSignals):
    """A text as its lead teacher cuts it, with what the other teachers are asked about the same blocks.

    Args:
        readers: name to the text as that teacher reads it, the lead's first.
        folder, number, named: as `OnlineSignals`; the number is the faculty's.

    Raises:
        StageError: where the texts or masks are not the same.
    """

    def __init__(
        self, readers: Mapping[str, OnlineSignals], folder: Path, *, number: int, **named: Any
    ) -> None:
        super().__init__(folder, number=number, **named)
        self._readers = list(readers.values())
        for other in self._readers[1:]:
            refuse_other_masks(self, other)
        self.same_text = all(
            other.terms.tokenizer == self.terms.tokenizer for other in self._readers
        )
        self._places: OrderedDict[tuple[int, int], NDArray[np.int64]] = OrderedDict()

    def question(self, rows: list[int]) -> dict[str, Any]:
        """For each teacher its blocks that hold what is masked in these, and where in its answer that is.

        Returns:
            `teacher`: the number of the faculty; `starts` [B + 1]: where each block's masked positions begin; `voices`: for
            each teacher what `OnlineSignals.question` says, and `places` [N], -1 where it abstains.
        """
        counts = [len(self._positions(row)) for row in rows]
        return {
            "teacher": self._number,
            "starts": torch.from_numpy(np.cumsum([0, *counts])),
            "voices": [self._voice(number, rows) for number in range(len(self._readers))],
        }

    def _positions(self, row: int) -> NDArray[np.int64]:
        shard, inside = self._place(row)
        return np.arange(*self.shard(shard).position_starts[inside : inside + 2])

    def _voice(self, number: int, rows: list[int]) -> dict[str, Any]:
        """Of one teacher; with the lead's tokenizer its blocks are the lead's, and all of them are asked."""
        reader = self._readers[number]
        met = [self._met(number, row) for row in rows]
        if reader.terms.tokenizer == self.terms.tokenizer:
            asked = rows
        else:
            asked = (
                sorted({int(its) for blocks, _ in met for its in blocks if its >= 0}) or rows[:1]
            )
        begins, begin = {}, 0
        for row in asked:
            begins[row] = begin
            shard, inside = reader._place(row)
            begin += int(np.diff(reader.shard(shard).position_starts[inside : inside + 2])[0])
        places = [
            -1 if block < 0 else begins[int(block)] + int(offset)
            for blocks, offsets in met
            for block, offset in zip(blocks, offsets, strict=True)
        ]
        return {**reader.question(asked), "places": torch.tensor(places, dtype=torch.int64)}

    def _met(self, number: int, row: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """For each masked position of a block the other teacher's block, -1 where it abstains, and the place in that."""
        shard, _ = self._place(row)
        reader = self._readers[number]
        theirs = shard_number(reader, self.manifest.shards[shard].file)
        places = self._meeting(number, shard, theirs)[self._positions(row)]
        starts = reader.shard(theirs).position_starts
        block = np.searchsorted(starts, places, side="right") - 1
        offset = places - starts[np.maximum(block, 0)]
        return np.where(places < 0, -1, reader.first_row(theirs) + block), offset

    def _meeting(self, number: int, shard: int, theirs: int) -> NDArray[np.int64]:
        key = (number, shard)
        if key not in self._places:
            lead = self.shard(shard)
            self._places[key] = (
                np.arange(len(lead.labels))
                if number == 0
                else meeting_places(lead, self._readers[number].shard(theirs))
            )
            if len(self._places) > _HELD * len(self._readers):
                self._places.popitem(last=False)
        return self._places[key]


class OnlineFaculty:
    """Several teachers of a language: each one's top k becomes one distribution, exactly as from recordings.

    Args:
        teachers: the lead first.
        faculty: how they are heard.
        same_text: whether all have one tokenizer.
        distil: k, temperature and the rest.
    """

    def __init__(
        self,
        teachers: Sequence[OnlineTeacher],
        faculty: Faculty,
        *,
        same_text: bool,
        distil: Distil,
    ) -> None:
        self._teachers = teachers
        self._faculty = faculty
        self._same_text = same_text
        self._distil = distil

    def loss(
        self,
        states: torch.Tensor,
        head: SplitHead,
        labels: torch.Tensor,
        question: Mapping[str, Any],
        *,
        divisor: torch.Tensor | int | None,
    ) -> Compared:
        """Ask all, and compare; see `OnlineTeacher.loss` and `JointSignals.question`."""
        starts, gold = question["starts"].cpu().numpy(), labels.cpu().numpy()
        voices = [
            Voice(
                arrays=_answer(teacher, its, starts, gold, same_text=self._same_text),
                places=its["places"].cpu().numpy(),
                weight=weight,
                unlisted=teacher.unlisted,
            )
            for teacher, weight, its in zip(
                self._teachers, self._faculty.weights.values(), question["voices"], strict=True
            )
        ]
        if self._faculty.combine == "mixture":
            met = mixture(voices, temperature=self._distil.temperature)
        else:
            met, _, _ = mince(voices, same_text=self._same_text)
        columns = (met.topk_ids, met.topk_logprobs, met.log_partition)
        ids, logprobs, partition = (torch.from_numpy(its).to(states.device) for its in columns)
        return compare_top(
            states, head, labels, ids, logprobs, at_temperature(partition, self._distil), self._distil, divisor
        )  # fmt: skip


def _answer(
    teacher: OnlineTeacher,
    question: Mapping[str, Any],
    starts: NDArray[np.int64],
    gold: NDArray[np.int64],
    *,
    same_text: bool,
) -> Said:
    said = teacher.top(question)
    logprobs, surprise = said.logprobs.cpu().numpy(), -said.wanted_logprobs[:, 0].cpu().numpy()
    kept = np.exp(logprobs.astype(np.float64)).sum(axis=1)
    # Only among teachers with one tokenizer are a teacher's blocks the lead's.
    sums = np.add.reduceat(surprise, starts[:-1]) if same_text else np.zeros(len(starts) - 1)
    return Said(
        loss=(sums / np.diff(starts)).astype(np.float32),
        position_starts=starts,
        labels=gold,
        topk_ids=said.ids.cpu().numpy(),
        topk_logprobs=logprobs,
        tail=np.clip(1 - kept, 0, 1).astype(np.float32),
        lost=np.zeros(len(kept), dtype=np.float32),
        log_partition=said.log_partition.cpu().numpy(),
    )


def open_online(
    recipe: Recipe, found: Mapping[str, Faculty], vocabulary: Path
) -> tuple[dict[str, Signals], list[OnlineTeacher | OnlineFaculty]]:
    """What is put to the teachers, by language, and who will answer.

    Args:
        recipe: of the run.
        found: who teaches what.
        vocabulary: the folder of the merged vocabulary.
    """
    used = teachers_in_use(recipe, found)
    maps = {name: load_map(vocabulary / "maps" / f"{name}.safetensors") for name in used}
    teachers = {
        name: OnlineTeacher(_frozen(load_teacher(find_teacher(each.teacher))), maps[name], recipe)
        for name, (each, _) in used.items()
    }
    numbers = {name: number for number, name in enumerate(used)}
    answering: list[OnlineTeacher | OnlineFaculty] = list(teachers.values())
    signals: dict[str, Signals] = {}
    for language, faculty in sorted(found.items()):
        readers = {
            name: OnlineSignals(
                recording_folder(recipe, used[name][0], language),
                vocabulary=maps[name],
                number=numbers[name],
                max_lost=recipe.distil.max_lost,
            )
            for name in faculty.weights
        }
        lead = readers[faculty.lead]
        if len(readers) == 1:
            signals[language] = lead
            continue
        joint = JointSignals(
            readers,
            lead.folder,
            vocabulary=maps[faculty.lead],
            number=len(answering),
            max_lost=recipe.distil.max_lost,
        )
        asked = [teachers[name] for name in faculty.weights]
        answering.append(
            OnlineFaculty(asked, faculty, same_text=joint.same_text, distil=recipe.distil)
        )
        signals[language] = joint
    return signals, answering


def _frozen(teacher: Any) -> Any:
    teacher.model.requires_grad_(False)
    return teacher
