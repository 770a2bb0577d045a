"""What the columns of a batch are called that hold a teacher's top-k, and what is read from them."""

from collections.abc import Mapping, MutableMapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kdkernels.checks import KernelArgumentError

OPERATION = "TopKDistillationLoss"


class TeacherColumns(NamedTuple):
    """Names of the columns that hold a teacher's top-k.

    A place of the K is unused where its id is -1, its log-probability minus infinity, or its mask 0.
    """

    ids: str = "teacher_topk_ids"
    """[B, S, K] whole numbers, the columns of the vocabulary."""
    logprobs: str = "teacher_topk_logprobs"
    """[B, S, K] natural log-probabilities at temperature 1, over the teacher's whole vocabulary."""
    log_partition: str = "teacher_log_partition"
    """[B, S] log Σ p^(1/T) over it; read for a temperature T other than 1."""
    mask: str = "teacher_topk_mask"
    """[B, S, K], 0 at unused places; needed by nobody who marks them in one of the other ways."""


PLAIN = TeacherColumns()
AXOLOTL = TeacherColumns(ids="target_token_ids", logprobs="target_logprobs", mask="target_mask")
"""The names in axolotl's knowledge distillation plugin. Its row t is about token t: `teacher_rows="labels"`."""
VERL = TeacherColumns(ids="teacher_ids", logprobs="teacher_logprobs")
"""The names in verl's on-policy distillation."""


class Teacher(NamedTuple):
    """A teacher's top-k at every position of a batch."""

    ids: Tensor
    logprobs: Tensor
    log_partition: Tensor | None

    def next_rows(self) -> "Teacher":
        """At position t what stood at t + 1."""
        return Teacher(*(None if part is None else part.roll(-1, dims=1) for part in self))  # type: ignore[arg-type]  # the last alone may be None

    def flatten(self) -> "Teacher":
        """Of [B, S, ...] the rows [B · S, ...]."""
        return Teacher(*(None if part is None else part.flatten(0, 1) for part in self))  # type: ignore[arg-type]  # likewise


def take_teacher(inputs: MutableMapping[str, Any], columns: TeacherColumns) -> Teacher | None:
    """Take the teacher's columns out of what a model is called with; None where there are none.

    Raises:
        KernelArgumentError: one of ids and log-probabilities is there without the other, or their shapes differ.
    """
    taken = {name: inputs.pop(name) for name in columns if name in inputs}
    if not taken:
        return None
    missing = [name for name in (columns.ids, columns.logprobs) if name not in taken]
    if missing:
        raise KernelArgumentError(
            f"{OPERATION}: the batch has {', '.join(taken)} without {missing[0]}; give it both, or name its columns "
            "with columns=TeacherColumns(...)"
        )
    ids, logprobs = taken[columns.ids], taken[columns.logprobs]
    if ids.dim() != 3 or ids.shape != logprobs.shape:
        raise KernelArgumentError(
            f"{OPERATION}: {columns.ids} and {columns.logprobs} must both be [B, S, K]; got {list(ids.shape)} and "
            f"{list(logprobs.shape)}"
        )
    unused = logprobs.isneginf()
    if columns.mask in taken:
        unused = unused | (taken[columns.mask] == 0)
    return Teacher(
        ids.masked_fill(unused, -1),
        logprobs.to(torch.float32) if logprobs.dtype.itemsize < 4 else logprobs,
        taken.get(columns.log_partition),
    )


def without_teacher(features: Mapping[str, Any], columns: TeacherColumns) -> dict[str, Any]:
    """An example's other columns."""
    return {name: value for name, value in features.items() if name not in columns}
