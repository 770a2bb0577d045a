"""Divergences between two softmaxes as their definitions read, with autograd for the gradient."""

import torch
from torch import Tensor


def losses(
    student: Tensor, teacher: Tensor, *, temperature: float, divergence: str, beta: float
) -> Tensor:
    """T² D(softmax(teacher / T), softmax(student / T)) of each row.

    Args:
        student: [N, V] logits in float32 or float64.
        teacher: [N, V] logits, likewise.
        temperature: T.
        divergence: "forward_kl", "reverse_kl" or "jsd".
        beta: the teacher's share in the mixture of "jsd".

    Returns:
        [N], differentiable by `student`.
    """
    log_q = torch.log_softmax(student / temperature, dim=1)
    log_p = torch.log_softmax(teacher.detach() / temperature, dim=1)
    p, q = log_p.exp(), log_q.exp()
    if divergence == "forward_kl":
        terms = _weighted_log_ratio(p, log_p, log_q)
    elif divergence == "reverse_kl":
        terms = _weighted_log_ratio(q, log_q, log_p)
    else:
        m = beta * p + (1 - beta) * q
        log_m = m.masked_fill(m == 0, 1.0).log()
        terms = beta * _weighted_log_ratio(p, log_p, log_m) + (1 - beta) * _weighted_log_ratio(
            q, log_q, log_m
        )
    return terms.sum(dim=1) * temperature**2


def _weighted_log_ratio(weight: Tensor, log_a: Tensor, log_b: Tensor) -> Tensor:
    """Weight · (log_a - log_b), 0 where the weight is 0; the inner choice keeps infinities out of the gradient."""
    weightless = weight == 0
    return weight * (log_a.masked_fill(weightless, 0.0) - log_b.masked_fill(weightless, 0.0))
