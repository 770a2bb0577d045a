"""The teacher's softened answers to the task (Hinton et al. 2015, section 2; BiStil, Ansell et al. 2023, section 3).

L_soft = - 1/N Σ_n Σ_c softmax(z_T / T)_n,c log softmax(z_S / T)_n,c

Multiplied by T² its gradients keep the size that they have for T = 1; BiStil's code does without.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bistil.losses.outputs import LossContext, ModelOutputs
from xeval.task_templates.batches import IGNORED


def soft_label_loss(student: ModelOutputs, teacher: ModelOutputs, context: LossContext) -> Tensor:
    """Sum over labelled rows, divided by their number in the step.

    Parsers are compared by all arcs and by the relations at gold heads, question answering by both ends of an answer.
    """
    temperature = context.settings["temperature"]
    pairs = zip(
        _distributions(student.task_head, student.answers, context.batch),
        _distributions(teacher.task_head, teacher.answers, context.batch),
        strict=True,
    )
    sums = [soft_cross_entropy(logits_s, logits_t, rows, temperature=temperature) for (logits_s, rows), (logits_t, _) in pairs]  # fmt: skip
    factor = temperature**2 if context.settings["times_t_squared"] else 1.0
    return factor * torch.stack(sums).sum() / context.divisor


def soft_cross_entropy(
    student: Tensor, teacher: Tensor, rows: Tensor, *, temperature: float
) -> Tensor:
    """Σ over rows of -Σ_c p_c log q_c, p and q being the teacher's and the student's softmax at a temperature.

    Args:
        student: [..., C] logits; minus infinity where a choice is not allowed.
        teacher: [..., C] logits, minus infinity at the same places.
        rows: [...] bool, the rows that count.
        temperature: divides both.

    Example:
        >>> logits = torch.zeros(3, 4)
        >>> soft_cross_entropy(logits, logits, torch.tensor([True, True, False]), temperature=2.0)
        tensor(2.7726)
    """
    student, teacher = student[rows].float() / temperature, teacher[rows].float() / temperature
    allowed = torch.isfinite(teacher) & torch.isfinite(student)
    # A choice that is not allowed has probability 0 on both sides, and 0 times minus infinity is no number.
    log_q = student.log_softmax(-1).masked_fill(~allowed, 0)
    return -(teacher.softmax(-1) * log_q).sum()


def _distributions(
    head: Any, answers: Mapping[str, Tensor], batch: Mapping[str, Tensor]
) -> list[tuple[Tensor, Tensor]]:
    """The distributions that a head's answers stand for: logits [..., C] and the rows [...] that count."""
    labels = batch["labels"]
    for name in ("labels", "options"):
        if name in answers:
            return [(answers[name], labels != IGNORED)]
    if "start" in answers:
        return [(answers[name], labels[:, i] != IGNORED) for i, name in enumerate(("start", "end"))]
    # Relations are compared at the gold heads, as in BiStil: two parsers rarely agree on all others.
    rows = labels != IGNORED
    return [(answers["arcs"], rows), (head.relations(answers, labels), rows)]
