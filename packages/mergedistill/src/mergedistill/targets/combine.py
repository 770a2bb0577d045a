"""Several teachers' distributions at the positions of one text become one: a mixture, or in each block the best of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from teacherzoo.signals.shard import ShardArrays


@dataclass(frozen=True, kw_only=True)
class CombinedTargets:
    """The distribution that the student learns at P masked positions, in its own ids; the columns are those of `ShardArrays`."""

    topk_ids: NDArray[np.int64]
    topk_logprobs: NDArray[np.float32]
    tail: NDArray[np.float32]
    lost: NDArray[np.float32]
    log_partition: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class TeacherTargets(CombinedTargets):
    """One teacher's predictions for R blocks, computed in this step; the further columns, too, are those of `ShardArrays`."""

    loss: NDArray[np.float32]
    position_starts: NDArray[np.int64]
    labels: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class AlignedTeacher:
    """A teacher at the P masked positions of the primary.

    Attributes:
        arrays: its predictions for its own blocks, recorded or computed in this step.
        positions: [P], the row of `arrays` for each position; -1 where its prediction is missing, which for the primary is nowhere.
        weight: in the mixture.
        unlisted: how many ids of its vocabulary are not among the k of a position.
    """

    arrays: ShardArrays | TeacherTargets
    positions: NDArray[np.int64]
    weight: float
    unlisted: int

    @property
    def has_prediction(self) -> NDArray[np.bool_]:
        """[P]."""
        return self.positions >= 0


def mixture(teachers: Sequence[AlignedTeacher], *, temperature: float) -> CombinedTargets:
    """At each position p = Σ_t w_t p_t / Σ_t w_t, over the teachers t that have a prediction there.

    Each p_t is taken at the temperature, p_t^(1/T) / Σ p_t^(1/T). An id that one teacher lists and another does not
    gets nothing from the latter, whose share of it stays in the tail. An id that several list stands several times, and
    counts as the sum. The log-probabilities are T · log p and the log partitions 0, since a loss divides by T again.

    Args:
        teachers: the primary first.
        temperature: T.
    """
    primary = teachers[0].arrays
    share = np.stack([teacher.weight * teacher.has_prediction for teacher in teachers]).astype(
        np.float64
    )
    share /= share.sum(axis=0)
    ids, logprobs = [], []
    tail = np.zeros(len(primary.tail))
    lost = np.zeros(len(primary.tail))
    for teacher, weight in zip(teachers, share, strict=True):
        arrays, row = teacher.arrays, np.maximum(teacher.positions, 0)
        with np.errstate(divide="ignore"):
            log_weight = np.log(weight)
        scaled = arrays.topk_logprobs[row] / temperature + log_weight[:, None]
        if temperature != 1.0:
            scaled -= arrays.log_partition[row, :1]
        ids.append(np.where(teacher.has_prediction[:, None], arrays.topk_ids[row], -1))
        logprobs.append(temperature * scaled)
        tail += weight * arrays.tail[row]
        lost += weight * arrays.lost[row]
    return CombinedTargets(
        topk_ids=np.concatenate(ids, axis=1),
        topk_logprobs=np.concatenate(logprobs, axis=1).astype(np.float32),
        tail=tail.astype(np.float32),
        lost=lost.astype(np.float32),
        log_partition=np.zeros_like(primary.log_partition),
    )


def mince(
    teachers: Sequence[AlignedTeacher], *, same_text: bool
) -> tuple[CombinedTargets, NDArray[np.int64], NDArray[np.int64]]:
    """MinCE (FuseLLM, Wan et al. 2024): each block from the teacher whose cross-entropy with its text is lowest.

    Teachers with one tokenizer compare by the recorded mean of -log p(gold) over the block. Others compare
    over the positions at which all have a prediction; a gold id that a teacher does not list costs what its tail, spread evenly over
    the ids that it did not list, gives it. Equals go to the one named first, and so do blocks without such a position.
    Where the chosen one has no prediction, the primary's is taken.

    Args:
        teachers: the primary first.
        same_text: whether all have one tokenizer.

    Returns:
        The targets, the number of the teacher chosen for each block [R], and of the one used at each position [P].
    """
    primary = teachers[0].arrays
    chosen = block_costs(teachers, same_text=same_text).argmin(axis=0)
    chosen_at = np.repeat(chosen, np.diff(primary.position_starts))
    has_prediction = np.stack([teacher.has_prediction for teacher in teachers])
    used = np.where(has_prediction[chosen_at, np.arange(len(chosen_at))], chosen_at, 0)
    columns = {name: getattr(primary, name).copy() for name in _COLUMNS}
    for number, teacher in enumerate(teachers[1:], start=1):
        positions = np.flatnonzero(used == number)
        for name in _COLUMNS:
            columns[name][positions] = getattr(teacher.arrays, name)[teacher.positions[positions]]
    return CombinedTargets(**columns), chosen, used


_COLUMNS = ("topk_ids", "topk_logprobs", "tail", "lost", "log_partition")


def block_costs(teachers: Sequence[AlignedTeacher], *, same_text: bool) -> NDArray[np.float64]:
    """[teachers, R], what `mince` compares: the recorded mean over the block, or the sum where all have a prediction."""
    if same_text:
        return np.stack([teacher.arrays.loss for teacher in teachers]).astype(np.float64)
    primary = teachers[0].arrays
    counts = np.diff(primary.position_starts)
    row = np.repeat(np.arange(len(counts)), counts)
    common = np.flatnonzero(np.logical_and.reduce([teacher.has_prediction for teacher in teachers]))
    return np.stack(
        [
            np.bincount(
                row[common],
                weights=_cross_entropy(teacher, common, primary.labels[common]),
                minlength=len(counts),
            )
            for teacher in teachers
        ]
    )


def _cross_entropy(
    teacher: AlignedTeacher, positions: NDArray[np.int64], gold: NDArray[np.int64]
) -> NDArray[np.float64]:
    row = teacher.positions[positions]
    arrays = teacher.arrays
    listed = arrays.topk_ids[row] == gold[:, None]
    probability = (np.exp(arrays.topk_logprobs[row].astype(np.float64)) * listed).sum(axis=1)
    unlisted = arrays.tail[row].astype(np.float64) / max(1, teacher.unlisted)
    cost: NDArray[np.float64] = -np.log(
        np.maximum(np.where(listed.any(axis=1), probability, unlisted), 1e-30)
    )
    return cost
