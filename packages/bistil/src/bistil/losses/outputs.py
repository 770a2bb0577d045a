"""What terms of a loss are computed from, and their weighted sum."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bistil.encoders.capture import Activations, Attention
from bistil.losses.table import Sees
from bistil.losses.weights import LossWeights, TaskLossWeights
from teacherzoo import SplitHead


@dataclass(kw_only=True)
class ModelOutputs:
    """What a student or a teacher did with a batch, as far as a term must see it (see `Sees`).

    Attributes:
        activations: hidden states and attention of the layers that were recorded.
        layers: how many the model has.
        head: in phase 1, the masked LM taken apart.
        masked: [B, S] where its decoder is asked.
        task_head: in phase 2, the head for the task.
        answers: the task head's logits by name.
        vectors: [B, D] of the batch's sentences.
    """

    activations: Activations
    layers: int = 0
    head: SplitHead | None = None
    masked: Tensor | None = None
    task_head: Any = None
    answers: Mapping[str, Tensor] = field(default_factory=dict)
    vectors: Tensor | None = None

    @functools.cached_property
    def decoder(self) -> SplitHead:
        """The decoder's weight [V, H'] and bias [V] are in here."""
        assert self.head is not None
        return self.head

    @functools.cached_property
    def masked_rows(self) -> Tensor:
        """[N, H'] what the decoder reads at masked positions; computed when it is first asked for."""
        assert self.activations.last is not None
        return self.decoder.transform(self.activations.last[self.masked])


@dataclass(frozen=True, kw_only=True)
class LossContext:
    """What terms must know besides both models' outputs.

    Attributes:
        layers: for each of the student's layers the teacher's.
        projection: [H_t, H_s] that teacher states are multiplied by; None where both are as wide.
        heads: for each of the student's layers the teacher's heads that it keeps; None for all.
        real: [B, S] true at real tokens; None where all are.
        labels: [N] of masked positions, or as the task's head takes them.
        divisor: of sums over positions or rows.
        settings: of the terms, by name.
        batch: all that the task's head is given.
    """

    layers: Sequence[int] = ()
    projection: Tensor | None = None
    heads: Sequence[Sequence[int]] | None = None
    real: Tensor | None = None
    labels: Tensor | None = None
    divisor: Tensor | int = 1
    settings: Mapping[str, Any] = field(default_factory=dict)
    batch: Mapping[str, Tensor] = field(default_factory=dict)

    def mean_over_layers(
        self,
        loss: Callable[[Attention, Attention, Tensor | None], Tensor],
        student: ModelOutputs,
        teacher: ModelOutputs,
    ) -> Tensor:
        """[] the mean over the student's layers of a loss of its attention, the teacher's of the heads that it keeps, and the real tokens [B, S]."""
        kept = [teacher.activations.attention[number] for number in self.layers]
        if self.heads is not None:
            kept = [layer.of_heads(heads) for layer, heads in zip(kept, self.heads, strict=True)]
        layers = enumerate(kept)
        return torch.stack([loss(student.activations.attention[number], layer, self.real) for number, layer in layers]).mean()  # fmt: skip

    @functools.cached_property
    def real_rows(self) -> Tensor | None:
        """[N] numbers of the real tokens among all B · S; None where all are. A GPU is waited for once, not state by state."""
        return None if self.real is None else self.real.flatten().nonzero().squeeze(1)

    def of_real_tokens(self, states: Tensor) -> Tensor:
        """States [B, S, H] of the real tokens, [N, H]; as they are where all are real."""
        rows = self.real_rows
        return states if rows is None else states.flatten(0, 1).index_select(0, rows)


class LossOutput(NamedTuple):
    """What a forward pass in training returns.

    Attributes:
        loss: [] to differentiate: the weighted sum of the terms.
        terms: each term without its weight, detached.
    """

    loss: Tensor
    terms: dict[str, Tensor]


def weighted_loss(
    weights: LossWeights | TaskLossWeights,
    student: ModelOutputs,
    teacher: ModelOutputs | None,
    context: LossContext,
    *,
    passes: int = 1,
) -> LossOutput:
    """L = Σ w_t · L_t over the terms in use.

    Args:
        weights: which terms, and how much each weighs.
        student: with what `weights.sees` of it.
        teacher: with what `weights.sees_of_teacher` of it; None where nothing.
        context: what else terms read.
        passes: forward passes that a step takes, by which means over a pass are divided; sums over a task's rows are
            divided by the number of rows of the whole step.
    """
    values, weighted = {}, []
    for term in weights.terms:
        value = term.loss(student, teacher, context)
        if passes > 1 and Sees.ANSWERS not in term.sees:
            value = value / passes
        values[term.name] = value.detach()
        weighted.append(weights[term.name] * value)
    return LossOutput(torch.stack(weighted).sum(), values)


def recorded_layers(sees: Sees, mapped: Collection[int], *, last: int) -> list[int]:
    """Which layers must be recorded so that terms see what they must."""
    layers = set(mapped) if Sees.MAPPED_LAYERS in sees else set()
    return sorted(layers | ({last} if Sees.LAST_LAYER in sees else set()))


def real_tokens(attention_mask: Tensor | None) -> Tensor | None:
    """The mask [B, S] as bool; None where nothing is padding."""
    if attention_mask is None or bool((mask := attention_mask.bool()).all()):
        return None
    return mask


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor, or in place of half precision, which would round differences away, float32."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
