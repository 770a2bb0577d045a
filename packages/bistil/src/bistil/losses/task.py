"""Phase 2's loss in the student's forward pass: every term in use, beside what a teacher of the task did with the same batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bistil.encoders.capture import capture_activations, layers_of
from bistil.losses.outputs import (
    LossContext,
    LossOutput,
    ModelOutputs,
    real_tokens,
    recorded_layers,
    weighted_loss,
)
from bistil.losses.table import Sees
from bistil.losses.weights import TaskLossWeights
from teacherzoo.training.loss_module import LossModule
from xeval.finetune.checkpoint import TaskModel
from xeval.task_templates.batches import IGNORED

TASKS = ("pos", "dp", "ner", "nli", "paraphrase", "topic", "qa", "choice")
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class DistillationModel(LossModule):
    """A student in training for phase 2: L = Σ w_t · L_t over the terms in use, on a task's batch.

    soft and gold are sums over labelled rows divided by their number in the step; attention and hidden are means over a
    forward pass, averaged over the passes of a step. The teacher is no part of the module, so that it is neither saved,
    trained nor wrapped.

    Args:
        student: to be trained.
        teacher: with a head of the same labels.
        layers: for each student layer the teacher's.
        teacher_ids: [V_s] the teacher's id of each of the student's pieces.
        weights: of the terms.
        passes: forward passes in a step, over all processes.
        projection: [H_t, H_s] that teacher states are multiplied by, where the student is narrower.
        heads: for each of the student's layers the teacher's heads that it keeps; None for all.
    """

    accepts_loss_kwargs = True  # sums are divided by `num_items_in_batch`

    def __init__(
        self,
        student: TaskModel,
        teacher: TaskModel,
        *,
        layers: Sequence[int],
        teacher_ids: Tensor,
        weights: TaskLossWeights,
        passes: int = 1,
        projection: Tensor | None = None,
        heads: Sequence[Sequence[int]] | None = None,
    ) -> None:
        super().__init__(student)
        self._teacher = (teacher.eval().requires_grad_(False),)
        self._layers, self._weights, self._passes = tuple(layers), weights, passes
        self._heads = heads
        self.teacher_ids: Tensor
        self.register_buffer("teacher_ids", teacher_ids, persistent=False)
        self.projection: Tensor | None
        self.register_buffer("projection", projection, persistent=False)

    def forward(self, num_items_in_batch: Tensor | int | None = None, **batch: Any) -> LossOutput:
        """The loss on a batch of the task's collation.

        Args:
            num_items_in_batch: labelled rows of the whole step; those of this batch unless given.
            batch: what the task collated.
        """
        labels = batch["labels"]
        rows = labels.ne(IGNORED).sum() if num_items_in_batch is None else num_items_in_batch
        inputs = {name: batch[name] for name in _INPUTS if name in batch}
        student = self._run(self.student, inputs, batch, range(len(self._layers)))
        context = LossContext(
            layers=self._layers,
            projection=self.projection,
            heads=self._heads,
            real=real_tokens(batch["attention_mask"]),
            labels=labels,
            divisor=torch.as_tensor(rows).clamp(min=1),
            settings=self._weights.settings,
            batch=batch,
        )
        passes = 1 if num_items_in_batch is None else self._passes
        teacher = self._run_teacher(inputs, batch) if self._weights.sees_of_teacher else None
        return weighted_loss(self._weights, student, teacher, context, passes=passes)

    @torch.no_grad()
    def _run_teacher(self, inputs: dict[str, Tensor], batch: dict[str, Any]) -> ModelOutputs:
        """What the teacher does with the student's very tokens, under its own ids."""
        teacher = self._teacher[0].to(self.teacher_ids.device)
        inputs = {**inputs, "input_ids": self.teacher_ids[inputs["input_ids"]]}
        return self._run(teacher, inputs, batch, self._layers)

    def _run(
        self, model: Any, inputs: dict[str, Tensor], batch: dict[str, Any], layers: Sequence[int]
    ) -> ModelOutputs:
        sees, depth = self._weights.sees, len(layers_of(model))
        recorded = recorded_layers(sees, layers, last=depth - 1)
        with capture_activations(model, layers=recorded, values=Sees.LAST_LAYER in sees) as activations:  # fmt: skip
            answers = model.head(model.encoder(**inputs).last_hidden_state, batch)
        return ModelOutputs(
            activations=activations, layers=depth, task_head=model.head, answers=answers
        )
