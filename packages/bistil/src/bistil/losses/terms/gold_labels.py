"""The task's own labels: cross-entropy, as the judge tunes with it.

L_gold = - 1/N Σ_n log softmax(z_S)_n[y_n]

Rows of text without labels are among the N and add nothing.
"""

from __future__ import annotations

from torch import Tensor

from bistil.losses.outputs import LossContext, ModelOutputs
from xeval.task_templates.batches import IGNORED


def gold_label_loss(
    student: ModelOutputs, _teacher: ModelOutputs | None, context: LossContext
) -> Tensor:
    """Sum over labelled rows, divided by their number in the step; each task's head knows its own."""
    batch = context.batch
    if "unlabelled" in batch:
        labels = batch["labels"]
        rows = batch["unlabelled"].view(-1, *[1] * (labels.dim() - 1))
        batch = {**batch, "labels": labels.masked_fill(rows, IGNORED)}
    loss: Tensor = student.task_head.loss(student.answers, batch, context.divisor)
    return loss
