"""Divergences between a teacher's and a student's distribution over classes, with what each class pulls.

t is the teacher, q the student. Beside the value stands the pull g_j = ∂value / ∂(log q_j), from which the gradient
by a logit follows for any grouping of columns into classes: ∂value/∂z_v = g_v - q_v Σ_j g_j for a column that is a
class of its own. A pull is given up to a multiple of q_j, which cancels in that difference. A class without mass on
the weighting side contributes 0.
"""

import math

import torch
from torch import Tensor

DIVERGENCES = ("forward_kl", "reverse_kl", "jsd")


def divergence_terms(
    name: str, log_t: Tensor, log_q: Tensor, *, beta: float
) -> tuple[Tensor, Tensor]:
    """Each class's term of the divergence, and its pull.

    forward_kl = KL(t ‖ q); reverse_kl = KL(q ‖ t);
    jsd = β KL(t ‖ m) + (1-β) KL(q ‖ m) with m = β t + (1-β) q.

    Args:
        name: "forward_kl", "reverse_kl" or "jsd".
        log_t: log-masses of the teacher's classes, any shape.
        log_q: those of the student, same shape.
        beta: the teacher's share in m, for "jsd".

    Returns:
        terms and pulls, of the shape of `log_q`.
    """
    if name == "forward_kl":
        t = log_t.exp()
        return weighted_gap(t, log_t, log_q), -t
    q = log_q.exp()
    if name == "reverse_kl":
        terms = weighted_gap(q, log_q, log_t)
        return terms, terms
    log_m = _log_mixture(log_t, log_q, beta)
    from_q = (1 - beta) * weighted_gap(q, log_q, log_m)
    return beta * weighted_gap(log_t.exp(), log_t, log_m) + from_q, from_q


def _log_mixture(log_t: Tensor, log_q: Tensor, beta: float) -> Tensor:
    """log(β t + (1-β) q); exactly log t where t = q, so that equal distributions score 0."""
    peak = torch.maximum(log_t, log_q)
    peak = peak.masked_fill(peak == -math.inf, 0.0)
    return peak + (beta * (log_t - peak).exp() + (1 - beta) * (log_q - peak).exp()).log()


def weighted_gap(weight: Tensor, log_a: Tensor, log_b: Tensor) -> Tensor:
    """Weight · (log_a - log_b), and 0 where the weight is 0 whatever the logarithms are."""
    return torch.where(weight == 0, 0.0, weight * (log_a - log_b))
