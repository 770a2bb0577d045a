"""From examples or a recording to batches that hold a teacher's top-k beside the inputs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from kdkernels.checks import KernelArgumentError, require_choice
from kdkernels.hf.columns import PLAIN, TeacherColumns, without_teacher


class RecordedBatch(Protocol):
    """B blocks of S tokens with N masked positions and K ids at each, as `teacherzoo.Signals` gives them."""

    @property
    def input_ids(self) -> Tensor:
        """[B, S] the text, masked and padded."""

    @property
    def attention_mask(self) -> Tensor:
        """[B, S], 0 at padding."""

    @property
    def rows(self) -> Tensor:
        """[N] the block of each masked position."""

    @property
    def positions(self) -> Tensor:
        """[N] its place in the block."""

    @property
    def labels(self) -> Tensor:
        """[N] the true ids, -100 where the student has none."""

    @property
    def topk_ids(self) -> Tensor:
        """[N, K] ids that the teacher listed, -1 in unused places."""

    @property
    def topk_logprobs(self) -> Tensor:
        """[N, K] their log-probabilities at temperature 1."""

    @property
    def log_partition(self) -> Mapping[float, Tensor]:
        """For each recorded temperature T, [N] log Σ p^(1/T)."""


@dataclass(frozen=True)
class SignalCollator:
    """Makes a batch of Trainer from a batch of a recording: `Trainer(train_dataset=Signals(...), data_collator=...)`.

    Signals whose ids were drawn at random go with a loss of `tail="drop"`.

    Args:
        temperature: of the loss; other than 1, its recorded partition goes along.
        columns: the names of the teacher's columns.

    Raises:
        KernelArgumentError: when called, where the partition at that temperature was not recorded.
    """

    temperature: float = 1.0
    columns: TeacherColumns = PLAIN

    def __call__(self, batch: RecordedBatch) -> dict[str, Tensor]:
        """`input_ids`, `attention_mask`, `labels` [B, S] and the teacher's columns [B, S, K]."""
        K = batch.topk_ids.shape[1]
        cells = (batch.rows, batch.positions)

        def spread(values: Tensor, filler: float, *width: int) -> Tensor:
            return values.new_full((*batch.input_ids.shape, *width), filler).index_put(
                cells, values
            )

        made = {
            "input_ids": batch.input_ids,
            "attention_mask": batch.attention_mask,
            "labels": spread(batch.labels, -100),
            self.columns.ids: spread(batch.topk_ids, -1, K),
            self.columns.logprobs: spread(batch.topk_logprobs, -torch.inf, K),
        }
        if self.temperature != 1:
            if self.temperature not in batch.log_partition:
                recorded = ", ".join(f"{value:g}" for value in batch.log_partition) or "none"
                raise KernelArgumentError(
                    f"SignalCollator: temperature must be one that the signals were recorded for ({recorded}); got "
                    f"{self.temperature!r}: record it, or use tail='renormalise'"
                )
            made[self.columns.log_partition] = spread(batch.log_partition[self.temperature], 0.0)
        return made


@dataclass(frozen=True)
class TeacherCollator:
    """Pads the teacher's columns of examples of unequal length, and leaves the other columns to another collator.

    Args:
        collator: such as `transformers.DataCollatorForSeq2Seq`, for `input_ids`, `labels` and the rest.
        columns: the names of the teacher's columns; an example has lists or arrays [S, K] there, [S] for the partition.
        padding_side: on which side the other collator pads, "right" or "left".

    Example:
        >>> from transformers import default_data_collator
        >>> collator = TeacherCollator(default_data_collator)
        >>> example = {"input_ids": [5, 6], "labels": [5, 6], "teacher_topk_ids": [[1]], "teacher_topk_logprobs": [[-0.5]]}
        >>> collator([example])["teacher_topk_ids"].tolist()
        [[[1], [-1]]]
    """

    collator: Callable[[list[dict[str, Any]]], Mapping[str, Any]]
    columns: TeacherColumns = PLAIN
    padding_side: str = "right"

    def __post_init__(self) -> None:
        """Refuse a side that is none."""
        require_choice(
            "padding_side", self.padding_side, ("right", "left"), operation="TeacherCollator"
        )

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The other collator's batch, with the teacher's columns [B, S, K] beside it."""
        batch = dict(
            self.collator([without_teacher(example, self.columns) for example in features])
        )
        fillers = dict(zip(self.columns, (-1, -torch.inf, 0.0, 0), strict=True))
        for name in self.columns:
            if name in features[0]:
                parts = [torch.as_tensor(example[name]) for example in features]
                batch[name] = self._padded(name, parts, fillers[name], batch["input_ids"].shape[1])
        return batch

    def _padded(self, name: str, parts: list[Tensor], filler: float, S: int) -> Tensor:
        longest = max(len(part) for part in parts)
        if longest > S:
            raise KernelArgumentError(
                f"TeacherCollator: {name} must have no more rows than the batch has tokens, {S}; got {longest}: cut both "
                "to one length"
            )
        width = [max(sizes) for sizes in zip(*(part.shape[1:] for part in parts), strict=True)]
        padded = parts[0].new_full((len(parts), S, *width), filler)
        for place, part in zip(padded, parts, strict=True):
            rows = slice(0, len(part)) if self.padding_side == "right" else slice(S - len(part), S)
            place[rows][tuple(slice(0, size) for size in part.shape)] = part
        return padded
