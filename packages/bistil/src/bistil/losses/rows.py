"""Phase 1's loss on padded rows: sentences, and translation pairs, beside what the teacher made of the same rows."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from bistil.encoders.capture import Activations, capture_activations, layers_of
from bistil.encoders.pooling import SentenceEncoder
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
from teacherzoo.training.loss_module import LossModule

_SOURCE = "source_"
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class SentenceExtractionModel(LossModule):
    """A sentence encoder in training for phase 1: L = Σ w_t · L_t over the terms in use, on rows of one language.

    On batches of text these are the terms that see no pairs, on batches of translation pairs those that do. The teacher is no
    part of the module, so that it is neither saved, trained nor wrapped.

    Args:
        student: to be trained.
        teacher: run on each batch.
        weights: of the terms.
        layers: for each of the student's layers the teacher's.
        projection: [H_t, H_s] that teacher states are multiplied by, where the student is narrower.
        heads: for each of the student's layers the teacher's heads that it keeps; None for all.
    """

    # Every batch has as many rows as any other, so the mean over batches is the mean over all rows.
    accepts_loss_kwargs = False

    def __init__(
        self,
        student: SentenceEncoder,
        teacher: SentenceTeacher,
        *,
        weights: LossWeights,
        layers: Sequence[int],
        projection: Tensor | None = None,
        heads: Sequence[Sequence[int]] | None = None,
    ) -> None:
        super().__init__(student)
        self._teacher, self._layers, self._heads = teacher, tuple(layers), heads
        self._text, self._pairs = weights.on_text(), weights.on_pairs()
        self.projection: Tensor | None
        self.register_buffer("projection", projection, persistent=False)

    def forward(self, language: str, **batch: Tensor) -> LossOutput:
        """The loss on a batch.

        Args:
            language: of the batch.
            batch: as `bistil.text.row_batches.RowBatches` makes it; with `teacher_vectors` [B, D] where these were recorded.
        """
        taught = self._teacher(language, batch)
        pairs = is_pairs(batch)
        weights = self._pairs if pairs else self._text
        assert weights is not None
        last = len(self._layers) - 1
        recorded = recorded_layers(weights.sees, range(last + 1), last=last)
        sides = (source_side(batch), target_side(batch)) if pairs else (target_side(batch),)
        vectors = []
        with recomputing(self.student):
            for side in sides:
                with captured(self.student, recorded, weights.sees) as activations:
                    vectors.append(self.student(**side))
        student = ModelOutputs(activations=activations, layers=last + 1, vectors=torch.cat(vectors))
        context = LossContext(
            layers=self._layers,
            projection=self.projection,
            heads=self._heads,
            real=real_tokens(batch["attention_mask"]),
            settings=weights.settings,
        )
        return weighted_loss(weights, student, taught, context)


class SentenceTeacher:
    """The teacher in training: run on a batch under its language's sparse fine-tuning, and recorded for what terms see.

    Args:
        teacher: in evaluation mode.
        weights: of the terms.
        layers: for each of the student's layers the teacher's.
        with_sft: gives for a language the context in which the teacher is run on its batches.
    """

    def __init__(
        self,
        teacher: SentenceEncoder,
        weights: LossWeights,
        layers: Sequence[int],
        *,
        with_sft: Callable[[str], AbstractContextManager[None]] = lambda _language: contextlib.nullcontext(),
    ) -> None:  # fmt: skip
        # Autocast would keep half copies of weights that take gradients until the student's pass is over.
        self._teacher = teacher.requires_grad_(False).eval()
        self._layers, self._with_sft = tuple(layers), with_sft
        self._text, self._pairs = weights.on_text(), weights.on_pairs()

    @torch.no_grad()
    def __call__(self, language: str, batch: dict[str, Tensor]) -> ModelOutputs | None:
        """What the teacher does with a batch, of pairs with the sources; None where no term sees it."""
        pairs = is_pairs(batch)
        weights = self._pairs if pairs else self._text
        sees = Sees(0) if weights is None else weights.sees_of_teacher
        vectors = batch.get("teacher_vectors")
        if vectors is not None and not sees & ~(Sees.VECTORS | Sees.PAIRS):
            return ModelOutputs(activations=Activations(), vectors=vectors)
        if not sees:
            return None
        depth = len(layers_of(self._teacher))
        recorded = recorded_layers(sees, self._layers, last=depth - 1)
        side = source_side(batch) if pairs else target_side(batch)
        with self._with_sft(language), captured(self._teacher, recorded, sees) as activations:
            made = self._teacher(**side)
        return ModelOutputs(
            activations=activations, layers=depth, vectors=made if vectors is None else vectors
        )

    def move_to(self, device: torch.device) -> None:
        """Put the teacher where the student is."""
        self._teacher.to(device)


def is_pairs(batch: dict[str, Tensor]) -> bool:
    """Whether a batch is of translation pairs."""
    return f"{_SOURCE}input_ids" in batch


def target_side(batch: dict[str, Tensor]) -> dict[str, Any]:
    """A batch's rows as a `SentenceEncoder` takes them; of pairs, the targets."""
    return _side(batch, "")


def source_side(batch: dict[str, Tensor]) -> dict[str, Any]:
    """Of pairs, the sources."""
    return _side(batch, _SOURCE)


def _side(batch: dict[str, Tensor], prefix: str) -> dict[str, Any]:
    inputs = {name: batch[prefix + name] for name in _INPUTS if prefix + name in batch}
    return {**inputs, "prompt_length": int(batch["prompt_length"])}


def captured(
    model: SentenceEncoder, layers: Sequence[int], sees: Sees
) -> AbstractContextManager[Activations]:
    """The model's activations where terms see any; a student's backward pass on a processor is quicker with it, see there."""
    inner = Sees.MAPPED_LAYERS | Sees.LAST_LAYER | Sees.LAST_STATES
    if not sees & inner:
        return capture_activations(model, layers=())
    return capture_activations(model, layers=layers, values=Sees.LAST_LAYER in sees)
