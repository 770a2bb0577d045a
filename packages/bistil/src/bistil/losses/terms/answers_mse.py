"""The logits of a classifier or reranker: the mean squared difference between student and teacher.

L_answers_mse = 1/(N · C) Σ_n Σ_c (z_S - z_T)²_n,c

over rows n (texts, the tokens of token classifiers, both ends of an answer) and labels c. Gurgurov et al. (2025) find it ahead
of the divergence for small multilingual encoders.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bistil.losses.outputs import LossContext, ModelOutputs


def answers_mse_loss(student: ModelOutputs, teacher: ModelOutputs, _context: LossContext) -> Tensor:
    """Mean over rows and labels, and over the two ends of an answer, where padding is left out."""
    return torch.stack([_squares(logits, teacher.answers[name]) for name, logits in student.answers.items()]).mean()  # fmt: skip


def _squares(student: Tensor, teacher: Tensor) -> Tensor:
    real = ~torch.isneginf(teacher)
    return (student[real].float() - teacher[real].float()).square().mean()
