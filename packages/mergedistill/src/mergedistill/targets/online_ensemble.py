"""Teachers that predict in each step, opened for a run: one for a language, or several whose predictions are combined."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mergedistill.recipe.language_teachers import TeacherEnsemble, teachers_in_use
from mergedistill.recipe.recipe import Distil, Recipe
from mergedistill.recipe.stages import recording_folder
from mergedistill.targets.align import align_positions
from mergedistill.targets.combine import AlignedTeacher, TeacherTargets, mince, mixture
from mergedistill.targets.combined import refuse_differing_masks, shard_number
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

_SHARDS_IN_MEMORY = 8  # whose aligned positions are kept, as a reader of signals keeps shards


class JointSignals(OnlineSignals):
    """A text in its primary teacher's segmentation, with the other teachers' inputs for the same blocks.

    Args:
        folder: of the primary teacher.
        others: the text as each of the other teachers reads it; in the student's ids one shard at a time is enough.
        number, named: as `OnlineSignals`; the number is the ensemble's.

    Raises:
        StageError: where the texts or masks are not the same.
    """

    def __init__(
        self, folder: Path, others: Sequence[OnlineSignals], *, number: int, **named: Any
    ) -> None:
        super().__init__(folder, number=number, **named)
        self._others = others
        for other in others:
            refuse_differing_masks(self, other)
        self.same_text = all(
            other.settings.tokenizer == self.settings.tokenizer for other in others
        )
        self._alignments: OrderedDict[tuple[int, int], NDArray[np.int64]] = OrderedDict()

    def query(self, rows: list[int]) -> dict[str, Any]:
        """For each teacher its own blocks that hold the masked positions of these, and which of its predictions belong to them.

        Returns:
            `starts` [B + 1]: where each block's masked positions begin; `teachers`: for
            each teacher what `OnlineSignals.query` returns, and `positions` [N], -1 where it has no prediction.
        """
        starts = np.cumsum([0, *(len(self._positions(row)) for row in rows)])
        primary = {**super().query(rows), "positions": torch.arange(int(starts[-1]))}
        others = [self._query_of(number, rows) for number in range(len(self._others))]
        return {"starts": torch.from_numpy(starts), "teachers": [primary, *others]}

    def _positions(self, row: int) -> NDArray[np.int64]:
        shard, inside = self._place(row)
        return np.arange(*self.shard(shard).position_starts[inside : inside + 2])

    def _query_of(self, number: int, rows: list[int]) -> dict[str, Any]:
        """Of one of the others; with the primary's tokenizer its blocks are the primary's, and all of them are inputs."""
        reader = self._others[number]
        aligned = [self._aligned(number, row) for row in rows]
        if reader.settings.tokenizer == self.settings.tokenizer:
            inputs = rows
        else:
            blocks = {int(block) for blocks, _ in aligned for block in blocks if block >= 0}
            inputs = sorted(blocks) or [0]  # some block of its own, of which nothing is used
        begins, begin = {}, 0
        for row in inputs:
            begins[row] = begin
            shard, inside = reader._place(row)
            starts = reader.position_starts(shard)
            begin += int(starts[inside + 1] - starts[inside])
        positions = [
            -1 if block < 0 else begins[int(block)] + int(offset)
            for blocks, offsets in aligned
            for block, offset in zip(blocks, offsets, strict=True)
        ]
        return {**reader.query(inputs), "positions": torch.tensor(positions, dtype=torch.int64)}

    def _aligned(self, number: int, row: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """For each masked position of a block the other teacher's block, -1 where it has no prediction, and the position in that."""
        shard, _ = self._place(row)
        reader = self._others[number]
        other_shard = shard_number(reader, self.manifest.shards[shard].file)
        positions = self._aligned_shard(number, shard, other_shard)[self._positions(row)]
        starts = reader.position_starts(other_shard)
        block = np.searchsorted(starts, positions, side="right") - 1
        offset = positions - starts[np.maximum(block, 0)]
        return np.where(positions < 0, -1, reader.first_row(other_shard) + block), offset

    def _aligned_shard(self, number: int, shard: int, other_shard: int) -> NDArray[np.int64]:
        key = (number, shard)
        if key not in self._alignments:
            other = self._others[number].shard(other_shard)
            self._alignments[key] = align_positions(self.shard(shard), other)
            if len(self._alignments) > _SHARDS_IN_MEMORY * len(self._others):
                self._alignments.popitem(last=False)
        return self._alignments[key]


class OnlineEnsemble:
    """Several teachers of a language: their top k become one distribution, exactly as from recordings.

    Args:
        teachers: the primary first.
        ensemble: how they are combined.
        same_text: whether all have one tokenizer.
        distil: k, temperature and the rest.
    """

    def __init__(
        self,
        teachers: Sequence[OnlineTeacher],
        ensemble: TeacherEnsemble,
        *,
        same_text: bool,
        distil: Distil,
    ) -> None:
        self._teachers = teachers
        self._ensemble = ensemble
        self._same_text = same_text
        self._distil = distil

    def loss(
        self,
        states: torch.Tensor,
        head: SplitHead,
        labels: torch.Tensor,
        query: Mapping[str, Any],
        *,
        divisor: torch.Tensor | int | None,
    ) -> Compared:
        """Run all teachers, and compare the student with them; see `OnlineTeacher.loss` and `JointSignals.query`."""
        starts, gold = query["starts"].cpu().numpy(), labels.cpu().numpy()
        aligned = [
            AlignedTeacher(
                arrays=_predictions(teacher, inputs, starts, gold, same_text=self._same_text),
                positions=inputs["positions"].cpu().numpy(),
                weight=weight,
                unlisted=teacher.unlisted,
            )
            for teacher, weight, inputs in zip(
                self._teachers, self._ensemble.weights.values(), query["teachers"], strict=True
            )
        ]
        if self._ensemble.combine == "mixture":
            targets = mixture(aligned, temperature=self._distil.temperature)
        else:
            targets, _, _ = mince(aligned, same_text=self._same_text)
        columns = (targets.topk_ids, targets.topk_logprobs, targets.log_partition)
        ids, logprobs, partition = (
            torch.from_numpy(column).to(states.device) for column in columns
        )
        return compare_top(
            states, head, labels, ids, logprobs, at_temperature(partition, self._distil), self._distil, divisor
        )  # fmt: skip


def _predictions(
    teacher: OnlineTeacher,
    query: Mapping[str, Any],
    starts: NDArray[np.int64],
    gold: NDArray[np.int64],
    *,
    same_text: bool,
) -> TeacherTargets:
    predictions = teacher.top(query)
    logprobs, cross_entropy = (
        predictions.logprobs.cpu().numpy(),
        -predictions.wanted_logprobs[:, 0].cpu().numpy(),
    )
    listed = np.exp(logprobs.astype(np.float64)).sum(axis=1)
    # Only among teachers with one tokenizer are a teacher's blocks the primary's.
    sums = np.add.reduceat(cross_entropy, starts[:-1]) if same_text else np.zeros(len(starts) - 1)
    return TeacherTargets(
        loss=(sums / np.diff(starts)).astype(np.float32),
        position_starts=starts,
        labels=gold,
        topk_ids=predictions.ids.cpu().numpy(),
        topk_logprobs=logprobs,
        tail=np.clip(1 - listed, 0, 1).astype(np.float32),
        lost=np.zeros(len(listed), dtype=np.float32),
        log_partition=predictions.log_partition.cpu().numpy(),
    )


def open_online(
    recipe: Recipe, ensembles: Mapping[str, TeacherEnsemble], vocabulary: Path
) -> tuple[dict[str, Signals], list[OnlineTeacher | OnlineEnsemble]]:
    """The teachers' inputs by language, and the teachers.

    Args:
        recipe: of the run.
        ensembles: who teaches what.
        vocabulary: the folder of the merged vocabulary.
    """
    used = teachers_in_use(recipe, ensembles)
    maps = {name: load_map(vocabulary / "maps" / f"{name}.safetensors") for name in used}
    teachers = {
        name: OnlineTeacher(
            _frozen(load_teacher(find_teacher(teaching.teacher))), maps[name], recipe
        )
        for name, (teaching, _) in used.items()
    }
    numbers = {name: number for number, name in enumerate(used)}
    online: list[OnlineTeacher | OnlineEnsemble] = list(teachers.values())
    signals: dict[str, Signals] = {}
    for language, ensemble in sorted(ensembles.items()):
        primary, *others = ensemble.weights
        folders = {
            name: recording_folder(recipe, used[name][0], language) for name in ensemble.weights
        }
        named: dict[str, dict[str, Any]] = {
            name: {"vocabulary": maps[name], "max_lost": recipe.distil.max_lost} for name in folders
        }
        if not others:
            signals[language] = OnlineSignals(
                folders[primary], number=numbers[primary], **named[primary]
            )
            continue
        joint = JointSignals(
            folders[primary],
            [
                OnlineSignals(folders[name], number=numbers[name], held=1, **named[name])
                for name in others
            ],
            number=len(online),
            **named[primary],
        )
        members = [teachers[name] for name in ensemble.weights]
        online.append(
            OnlineEnsemble(members, ensemble, same_text=joint.same_text, distil=recipe.distil)
        )
        signals[language] = joint
    return signals, online


def _frozen(teacher: Any) -> Any:
    teacher.model.requires_grad_(False)
    return teacher
