"""What a batch brings of its teachers: recorded predictions, or what a teacher that runs beside the student reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import torch


@dataclass(frozen=True, kw_only=True)
class _Moved:
    """Tensors that a loader pins and moves to a device together."""

    def to(self, device: Any, *, non_blocking: bool = False) -> Self:
        """The same on a device."""
        return self._with(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """The same in page-locked memory."""
        return self._with(torch.Tensor.pin_memory)

    def _with(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Self:
        return type(self)(
            **{field.name: _changed(getattr(self, field.name), change) for field in fields(self)}
        )


def _changed(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, _Moved):
        return value._with(change)
    if isinstance(value, Mapping):
        return {name: _changed(part, change) for name, part in value.items()}
    if isinstance(value, list):
        return [_changed(part, change) for part in value]
    return value


@dataclass(frozen=True, kw_only=True)
class WordTargets(_Moved):
    """What teachers give to whole words that they cut into other pieces than the student: M words, E events of at most L pieces.

    The first event of a word is the word that stands in the text, the others are words that the teacher thinks likely; all
    other fillings of the masks are the rest.

    Attributes:
        cells: [M, L] numbers of the N masked positions of the batch that the word fills, -1 behind its last.
        ids: [M, E, L] the student's pieces of each event, -1 behind the last.
        logprobs: [M, E] the teacher's, at the temperature of the loss; minus infinity where there are fewer events.
        weights: [M] the teacher's share in what is heard of the word.
        piece_weights: [N] the share of those that are heard piece by piece.
    """

    cells: torch.Tensor
    ids: torch.Tensor
    logprobs: torch.Tensor
    weights: torch.Tensor
    piece_weights: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class RecordedTargets(_Moved):
    """Predictions of a teacher at N masked positions, recorded before the training.

    Attributes:
        topk_ids: [N, K] the teacher's likeliest pieces in the student's ids, -1 where the student has none.
        topk_logprobs: [N, K].
        tail: [N] probability of all other pieces.
        log_partition: [N] log Σ p^(1/T), or None at T = 1.
        words: of teachers that are heard word by word, or None where there is none in the batch.
    """

    topk_ids: torch.Tensor
    topk_logprobs: torch.Tensor
    tail: torch.Tensor
    log_partition: torch.Tensor | None = None
    words: WordTargets | None = None


@dataclass(frozen=True, kw_only=True)
class OnlineTargets(_Moved):
    """The inputs of a teacher, or of an ensemble, that predicts in this step.

    Attributes:
        teacher: its number among those that run.
        query: see `OnlineSignals.query` and `JointSignals.query`.
    """

    teacher: int
    query: Mapping[str, Any]


Targets = RecordedTargets | OnlineTargets


@dataclass(frozen=True, kw_only=True)
class StatesTargets(_Moved):
    """M words of B blocks [B, S] as an encoder that runs in this step reads them: in R rows of its own pieces, nothing masked.

    Attributes:
        input_ids: [R, U].
        attention_mask: [R, U].
        encoder_cells: [Q] the pieces of the words, as numbers of cells of [R, U].
        encoder_words: [Q] the word of each, from 0 to M - 1.
        cells: [P] the student's pieces of the words, as numbers of cells of [B, S].
        words: [P] the word of each.
        count: M.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    encoder_cells: torch.Tensor
    encoder_words: torch.Tensor
    cells: torch.Tensor
    words: torch.Tensor
    count: int
