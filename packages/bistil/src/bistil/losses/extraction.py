"""Phase 1's loss in the student's forward pass: every term in use, beside what the teacher did with the same batch."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bistil.encoders.answers import answers_of
from bistil.encoders.capture import capture_activations, encoder_of, layers_of
from bistil.encoders.recompute import recomputing
from bistil.losses.outputs import (
    LossContext,
    LossOutput,
    ModelOutputs,
    real_tokens,
    recorded_layers,
    weighted_loss,
)
from bistil.losses.table import Sees
from bistil.losses.weights import LossWeights
from teacherzoo import split_head
from teacherzoo.training.loss_module import LossModule

if TYPE_CHECKING:
    from teacherzoo.encoders.zero3 import ShardedEngine

_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class ExtractionModel(LossModule):
    """A student in training for phase 1: L = Σ w_t · L_t over the terms in use, on text of one language.

    The teacher is no part of the module, so that it is neither saved, trained nor wrapped.

    Args:
        student: a stock model, with or without a head.
        teacher: run on each batch.
        weights: of the terms.
        layers: for each of the student's layers the teacher's.
        positions: masked positions of each block, which means are taken over; 0 where none are.
        projection: [H_t, H_s] that teacher states are multiplied by, where the student is narrower.
        heads: for each of the student's layers the teacher's heads that it keeps; None for all.
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
        heads: Sequence[Sequence[int]] | None = None,
    ) -> None:
        super().__init__(student)
        self._teacher, self._weights = teacher, weights
        self._layers, self._positions, self._heads = tuple(layers), positions, heads
        self.projection: Tensor | None
        self.register_buffer("projection", projection, persistent=False)

    def forward(
        self, labels: Tensor | None = None, language: str = "", **batch: Tensor
    ) -> LossOutput:
        """The loss on a batch: blocks of running text without padding, or padded rows.

        Args:
            labels: [B, S] of masked running text, -100 where nothing is asked.
            language: of the batch.
            batch: input_ids [B, S]; of padded rows attention_mask, too, and token_type_ids where they have segments.
        """
        inputs = inputs_of(batch)
        sees, last = self._weights.sees, len(self._layers) - 1
        if Sees.MASKED_ROWS not in sees:
            labels = None  # to pick what is asked for, a GPU would have to be waited for
        teacher = self._teacher(language, inputs, labels)
        recorded = recorded_layers(sees, range(last + 1), last=last)
        with recomputing(self.student):
            student = _run(self.student, inputs, labels, sees, recorded)
        context = LossContext(
            layers=self._layers,
            projection=self.projection,
            heads=self._heads,
            real=real_tokens(inputs.get("attention_mask")),
            labels=None if labels is None else labels[labels >= 0],
            divisor=1 if labels is None else self._positions * len(labels),
            settings=self._weights.settings,
        )
        return weighted_loss(self._weights, student, teacher, context)


def inputs_of(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What of a batch an encoder reads."""
    return {name: batch[name] for name in _INPUTS if name in batch}


def _run(
    model: Any,
    inputs: Mapping[str, Tensor],
    labels: Tensor | None,
    sees: Sees,
    recorded: Collection[int],
    *,
    forward: Callable[[], Any] | None = None,
) -> ModelOutputs:
    """A forward pass of a model, or `forward`, recorded for what terms see."""
    answers: Mapping[str, Tensor] = {}
    with capture_activations(model, layers=recorded, values=Sees.LAST_LAYER in sees) as activations:
        if forward is not None:
            forward()
        elif Sees.ANSWERS in sees:
            answers = answers_of(model(**inputs), model.config, inputs["attention_mask"])
        else:
            encoder_of(model)(**inputs)
    return ModelOutputs(
        activations=activations,
        layers=len(layers_of(model)),
        head=split_head(model) if Sees.MASKED_ROWS in sees else None,
        masked=None if labels is None else labels >= 0,
        answers=answers,
    )


class TeacherRunner:
    """The teacher in training: run on a batch under its language's sparse fine-tuning, and recorded for what terms see.

    Args:
        teacher: in evaluation mode, with or without a head.
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
    def __call__(
        self, language: str, inputs: Mapping[str, Tensor], labels: Tensor | None
    ) -> ModelOutputs | None:
        """What the teacher does with a batch [B, S]; None where no term sees it."""
        if not self._sees:
            return None
        last = len(layers_of(self._teacher)) - 1
        recorded = recorded_layers(self._sees, self._layers, last=last)
        forward = None if self._engine is None else functools.partial(self._in_shares, inputs)
        with self._with_sft(language):
            outputs = _run(self._teacher, inputs, labels, self._sees, recorded, forward=forward)
            if Sees.MASKED_ROWS in self._sees:
                outputs.masked_rows  # noqa: B018  # now, under the fine-tuning and without a gradient
        return outputs

    def _in_shares(self, inputs: Mapping[str, Tensor]) -> None:
        assert self._engine is not None
        input_ids = inputs["input_ids"]
        mask = inputs.get("attention_mask", torch.ones_like(input_ids))
        self._engine.hidden_rows(input_ids, mask, torch.zeros(1, dtype=torch.int64))

    def move_to(self, device: torch.device) -> None:
        """Put the teacher where the student is, unless its engine sees to that."""
        if self._engine is None:
            self._teacher.to(device)


def freeze_unreached(model: LossModule, *batches: Mapping[str, Any]) -> int:
    """Switch off training of parameters that no term reaches; they stay what they are.

    What no loss depends on would stop DDP, and drift under weight decay.

    Args:
        model: in training.
        batches: as its forward pass takes them, one of each kind.

    Returns:
        How many parameters stay as they are.
    """
    for batch in batches:
        model(**batch).loss.backward()
    frozen = 0
    for parameter in model.parameters():
        if parameter.grad is None:
            parameter.requires_grad_(False)
            frozen += parameter.numel()
        parameter.grad = None
    return frozen
