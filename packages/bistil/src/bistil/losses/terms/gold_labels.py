"""The task's own labels: cross-entropy, as the judge tunes with it.

L_gold = - 1/N Σ_n log softmax(z_S)_n[y_n]
"""

from __future__ import annotations

from torch import Tensor

from bistil.losses.outputs import LossContext, ModelOutputs


def gold_label_loss(
    student: ModelOutputs, _teacher: ModelOutputs | None, context: LossContext
) -> Tensor:
    """Sum over labelled rows, divided by their number in the step; each task's head knows its own."""
    loss: Tensor = student.task_head.loss(student.answers, context.batch, context.divisor)
    return loss
