"""Phase 1's loss in the student's forward pass: every term in use, beside what the teacher did with the same batch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bistil.encoders.capture import capture_activations, layers_of
from bistil.encoders.recompute import recomputing
from bistil.losses.outputs import (
    LossContext,
    LossOutput,
    ModelOutputs,
    recorded_layers,
    weighted_loss,
)
from bistil.losses.table import Sees
from bistil.losses.weights import LossWeights
from teacherzoo import split_head
from teacherzoo.training.loss_module import LossModule

if TYPE_CHECKING:
    from teacherzoo.encoders.zero3 import ShardedEngine


class ExtractionModel(LossModule):
    """A student in training for phase 1: L = Σ w_t · L_t over the terms in use, on masked text of one language.

    The teacher is no part of the module, so that it is neither saved, trained nor wrapped.

    Args:
        student: a stock `…ForMaskedLM`.
        teacher: run on each batch.
        weights: of the terms.
        layers: for each of the student's layers the teacher's.
        positions: masked positions of each block, which means are taken over.
        projection: [H_t, H_s] that teacher states are multiplied by, where the student is narrower.
    """

    # Every batch has as many positions as any other, so the mean over batches is the mean over positions.
    accepts_loss_kwargs = False

    def __init__(
        self,
        student: Any,
        teacher: TeacherRunner,
        *,
        weights: LossWeights,
        layers: Sequence[int],
        positions: int,
        projection: Tensor | None = None,
    ) -> None:
        super().__init__(student)
        self._teacher, self._weights = teacher, weights
        self._layers, self._positions = tuple(layers), positions
        self.projection: Tensor | None
        self.register_buffer("projection", projection, persistent=False)

    def forward(self, input_ids: Tensor, labels: Tensor, language: str) -> LossOutput:
        """The loss on a batch without padding.

        Args:
            input_ids: [B, S].
            labels: [B, S], -100 where nothing is asked.
            language: of the batch.
        """
        teacher = self._teacher(language, input_ids, labels)
        sees, last = self._weights.sees, len(self._layers) - 1
        head, masked = split_head(self.student), labels >= 0
        recorded = recorded_layers(sees, range(last + 1), last=last)
        with (
            recomputing(self.student),
            capture_activations(self.student, layers=recorded, values=Sees.LAST_LAYER in sees) as activations,
        ):  # fmt: skip
            head.encoder(input_ids=input_ids)
        student = ModelOutputs(activations=activations, layers=last + 1, head=head, masked=masked)
        context = LossContext(
            layers=self._layers,
            projection=self.projection,
            labels=labels[masked],
            divisor=self._positions * len(labels),
            settings=self._weights.settings,
        )
        return weighted_loss(self._weights, student, teacher, context)


class TeacherRunner:
    """The teacher in training: run on a batch under its language's sparse fine-tuning, and recorded for what terms see.

    Args:
        teacher: a masked LM in evaluation mode.
        weights: of the terms.
        layers: for each of the student's layers the teacher's.
        with_sft: gives for a language the context in which the teacher is run on its batches.
        engine: runs the teacher, where its weights are shared among processes; then no masked rows can be seen.
    """

    def __init__(
        self,
        teacher: Any,
        weights: LossWeights,
        layers: Sequence[int],
        *,
        with_sft: Callable[[str], AbstractContextManager[None]] = lambda _language: contextlib.nullcontext(),
        engine: ShardedEngine | None = None,
    ) -> None:  # fmt: skip
        # Autocast would keep half copies of weights that take gradients until the student's pass is over.
        self._teacher, self._engine = teacher.requires_grad_(False), engine
        self._sees, self._layers, self._with_sft = weights.sees_of_teacher, tuple(layers), with_sft

    @torch.no_grad()
    def __call__(self, language: str, input_ids: Tensor, labels: Tensor) -> ModelOutputs | None:
        """What the teacher does with a batch [B, S] without padding; None where no term sees it."""
        if not self._sees:
            return None
        depth, head = len(layers_of(self._teacher)), split_head(self._teacher)
        recorded = recorded_layers(self._sees, self._layers, last=depth - 1)
        with self._with_sft(language):
            with capture_activations(self._teacher, layers=recorded, values=Sees.LAST_LAYER in self._sees) as activations:  # fmt: skip
                if self._engine is not None:
                    self._engine.hidden_rows(input_ids, torch.ones_like(input_ids), torch.zeros(1, dtype=torch.int64))  # fmt: skip
                else:
                    head.encoder(input_ids=input_ids)
            outputs = ModelOutputs(activations=activations, layers=depth, head=head, masked=labels >= 0)  # fmt: skip
            if Sees.MASKED_ROWS in self._sees:
                outputs.masked_rows  # noqa: B018  # now, under the fine-tuning and without a gradient
        return outputs

    def move_to(self, device: torch.device) -> None:
        """Put the teacher where the student is, unless its engine sees to that."""
        if self._engine is None:
            self._teacher.to(device)


def freeze_unreached(model: ExtractionModel, batch: dict[str, Any]) -> int:
    """Switch off training of parameters that no term reaches; they stay what they are.

    What no loss depends on would stop DDP, and drift under weight decay.

    Args:
        model: in training.
        batch: as its forward pass takes it.

    Returns:
        How many parameters stay as they are.
    """
    model(**batch).loss.backward()
    frozen = 0
    for parameter in model.parameters():
        if parameter.grad is None:
            parameter.requires_grad_(False)
            frozen += parameter.numel()
        parameter.grad = None
    return frozen
