"""A teacher that runs beside the student in each step, instead of having been recorded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from kdkernels import linear_cross_entropy, linear_distil_loss, linear_kl
from mergedistill.recipe.recipe import Distil, Recipe
from teacherzoo import Signals, SplitHead, Teacher
from teacherzoo.encoders.inference import PlainEngine
from teacherzoo.encoders.predictions import Predictions, predict
from vocabmerge import VocabularyMap

Compared = tuple[torch.Tensor, torch.Tensor, torch.Tensor, int | torch.Tensor]
"""The loss, its detached hard and soft part, the counted rows."""


class OnlineSignals(Signals):
    """Blocks without recorded predictions: in the student's ids for the student, in the teacher's for the teacher.

    Args:
        folder: see `teacherzoo.signals.record_text`.
        vocabulary: the map from the teacher's ids.
        number: of the teacher among those that run.
        named: further arguments of `Signals`.
    """

    def __init__(
        self, folder: Path, *, vocabulary: VocabularyMap, number: int, **named: Any
    ) -> None:
        super().__init__(folder, vocabulary=vocabulary, **named)
        self._in_teacher_ids = Signals(folder)
        self.number = number

    def position_starts(self, shard: int) -> NDArray[np.int64]:
        """[rows + 1], where each block's masked positions begin in a shard, whoever's ids they are in."""
        return self._in_teacher_ids.shard(shard).position_starts

    def query(self, rows: list[int]) -> dict[str, Any]:
        """The same blocks as `batch`, with the same masks, in the teacher's ids.

        Returns:
            `input_ids` [B, S] and `attention_mask` [B, S]; `cells` [N]: the masked positions as
            numbers of cells of [B, S]; `gold` [N]: the true pieces there, in the teacher's ids.
        """
        batch = self._in_teacher_ids.batch(rows)
        return {
            "input_ids": batch.input_ids,
            "attention_mask": batch.attention_mask,
            "cells": batch.rows * batch.input_ids.shape[1] + batch.positions,
            "gold": batch.labels,
        }


class OnlineTeacher:
    """A teacher in evaluation mode and without gradients, and the student's loss against its predictions.

    Where each of its pieces has one of the student's, and no two the same, the student learns from its whole distribution
    (`kdkernels.linear_kl`). Else, and for `reverse_kl`, which has no value against a teacher that lacks some of the
    student's pieces, it learns from the top k through the map, exactly as from a recording.

    It is no module: it is not saved, trained or sharded with the student. At its first batch it moves to the batch's device.
    """

    def __init__(self, teacher: Teacher, vocabulary: VocabularyMap, recipe: Recipe) -> None:
        self._teacher = teacher
        self._precision = recipe.record.precision
        self._distil = recipe.distil
        self._student_ids = torch.from_numpy(vocabulary.one_to_one())
        self._columns = (
            None
            if recipe.distil.divergence == "reverse_kl"
            else matching_columns(vocabulary, teacher.space.size)
        )
        self._engine: PlainEngine | None = None

    def loss(
        self,
        states: torch.Tensor,
        head: SplitHead,
        labels: torch.Tensor,
        query: Mapping[str, Any],
        *,
        divisor: torch.Tensor | int | None,
    ) -> Compared:
        """Run the teacher, and compare the student with it.

        Args:
            states: [N, H] of the student, before its decoder.
            head: of the student.
            labels: [N] gold pieces in the student's ids, -100 where nothing is predicted.
            query: see `OnlineSignals.query`.
            divisor: see `linear_distil_loss`.

        Returns:
            The loss, its detached hard and soft part, the counted rows.
        """
        if self._columns is None:
            predictions = self.top(query)
            return compare_top(
                states, head, labels, predictions.ids, predictions.logprobs, at_temperature(predictions.log_partition, self._distil),
                self._distil, divisor,
            )  # fmt: skip
        with self._run(query) as (hidden, weight, bias):
            return self._full_distribution(states, head, labels, hidden, weight, bias, divisor)

    def top(self, query: Mapping[str, Any]) -> Predictions:
        """Its top k in the student's ids, -1 where the student has none, and the log-probabilities of the true pieces.

        Args:
            query: see `OnlineSignals.query`.
        """
        with self._run(query) as (hidden, weight, bias):
            with torch.autocast(hidden.device.type, enabled=False):
                predictions = predict(
                    hidden,
                    weight,
                    bias,
                    query["gold"].to(hidden.device)[:, None],
                    k=self._distil.k,
                    temperatures=temperatures(self._distil),
                )
            ids = self._student_ids[predictions.ids]
            return replace(
                predictions, ids=ids, logprobs=predictions.logprobs.masked_fill(ids < 0, -torch.inf)
            )

    @property
    def unlisted(self) -> int:
        """How many ids of its vocabulary are not among the k."""
        return self._teacher.vocabulary_size - self._distil.k

    @contextmanager
    def _run(
        self, query: Mapping[str, Any]
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]]:
        """Hidden rows, and the decoder for them; without gradients."""
        if self._engine is None:
            device = query["input_ids"].device
            self._engine = PlainEngine(self._teacher, precision=self._precision, device=device)
            self._student_ids = self._student_ids.to(device)
            if self._columns is not None:
                self._columns = self._columns.to(device)
        with torch.no_grad():
            hidden = self._engine.hidden_rows(
                query["input_ids"], query["attention_mask"], query["cells"]
            )
            with self._engine.decoder() as (weight, bias):
                yield hidden, weight, bias

    def _full_distribution(
        self,
        states: torch.Tensor,
        head: SplitHead,
        labels: torch.Tensor,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        divisor: torch.Tensor | int | None,
    ) -> Compared:
        distil, columns = self._distil, self._columns
        assert columns is not None
        # The student's decoder may have been padded to more rows than its vocabulary has pieces.
        padded_columns = F.pad(columns, (0, len(head.weight) - len(columns)), value=-1)
        with torch.enable_grad():
            hard = linear_cross_entropy(states, head.weight, head.bias, labels, divisor=divisor)
            soft = linear_kl(
                states,
                head.weight,
                head.bias,
                hidden,
                weight,
                bias,
                temperature=distil.temperature,
                divergence=distil.divergence,
                column_map=padded_columns,
                teacher_vocab_size=self._teacher.space.size,
                mask=labels != -100,
                divisor=divisor,
            )
            loss = (1 - distil.alpha) * hard.loss + distil.alpha * soft.loss
        return loss, hard.loss.detach(), soft.loss.detach(), hard.rows


def temperatures(distil: Distil) -> tuple[float, ...]:
    """At which partitions are wanted."""
    return () if distil.temperature == 1.0 else (distil.temperature,)


def at_temperature(log_partition: torch.Tensor, distil: Distil) -> torch.Tensor | None:
    """[N] of the columns that were asked for by `temperatures`, None at T = 1."""
    return log_partition[:, 0] if temperatures(distil) else None


def compare_top(
    states: torch.Tensor,
    head: SplitHead,
    labels: torch.Tensor,
    ids: torch.Tensor,
    logprobs: torch.Tensor,
    log_partition: torch.Tensor | None,
    distil: Distil,
    divisor: torch.Tensor | int | None,
) -> Compared:
    """The loss against a top k, recorded or computed in this step; see `linear_distil_loss`."""
    result = linear_distil_loss(
        states,
        head.weight,
        head.bias,
        labels,
        ids,
        logprobs,
        alpha=distil.alpha,
        temperature=distil.temperature,
        tail=distil.loss_tail,
        divergence=distil.divergence,
        log_partition=log_partition,
        divisor=divisor,
    )
    return result.loss, result.hard, result.soft, result.rows


def matching_columns(vocabulary: VocabularyMap, size: int) -> torch.Tensor | None:
    """[V_s] the teacher's piece of each student piece, -1 where it has none; None unless every teacher piece has its own.

    Args:
        vocabulary: the map from the teacher's ids.
        size: ids in use by the teacher.
    """
    student_ids = vocabulary.one_to_one()
    if (
        len(student_ids) < size
        or (student_ids[:size] < 0).any()
        or len(np.unique(student_ids[:size])) < size
    ):
        return None
    columns = np.full(vocabulary.student_size, -1, dtype=np.int64)
    columns[student_ids[:size]] = np.arange(size)
    return torch.from_numpy(columns)
