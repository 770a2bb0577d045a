"""Divergences between a teacher's and a student's distribution over classes, and their gradients by log q.

t is the teacher, q the student, q_j = Σ_{v in class j} exp(z_v) / Σ_v exp(z_v). Beside the value stands the gradient
g_j = ∂D / ∂(log q_j), from which that by a logit follows for any grouping of columns into classes: with
∂(log q_j) / ∂z_v = [v in j] exp(z_v) / Σ_{u in j} exp(z_u) - softmax(z)_v,

    ∂D/∂z_v = (exp(z_v) / Σ_{u in j} exp(z_u)) g_j - softmax(z)_v Σ_i g_i,   v in class j,

which is g_v - q_v Σ_i g_i for a column that is a class of its own. g_j is given up to a multiple of q_j, which cancels
in that difference. A class without mass on the weighting side contributes 0.
"""

import math

import torch
from torch import Tensor

DIVERGENCES = ("forward_kl", "reverse_kl", "jsd")


def divergence_terms(
    name: str, log_t: Tensor, log_q: Tensor, *, beta: float
) -> tuple[Tensor, Tensor]:
    """Each class's term of the divergence, and the gradient of their sum by log q.

    forward_kl = KL(t ‖ q); reverse_kl = KL(q ‖ t);
    jsd = β KL(t ‖ m) + (1-β) KL(q ‖ m) with m = β t + (1-β) q.

    Args:
        name: "forward_kl", "reverse_kl" or "jsd".
        log_t: log-masses of the teacher's classes, any shape.
        log_q: those of the student, same shape.
        beta: the teacher's share in m, for "jsd".

    Returns:
        terms and gradients by `log_q` (up to a multiple of q), of the shape of `log_q`.
    """
    if name == "forward_kl":
        t = log_t.exp()
        return weighted_log_ratio(t, log_t, log_q), -t
    q = log_q.exp()
    if name == "reverse_kl":
        terms = weighted_log_ratio(q, log_q, log_t)
        return terms, terms
    log_m = _log_mixture(log_t, log_q, beta)
    terms_of_q = (1 - beta) * weighted_log_ratio(q, log_q, log_m)
    return beta * weighted_log_ratio(log_t.exp(), log_t, log_m) + terms_of_q, terms_of_q


def _log_mixture(log_t: Tensor, log_q: Tensor, beta: float) -> Tensor:
    """log(β t + (1-β) q); exactly log t where t = q, so that equal distributions score 0."""
    larger = torch.maximum(log_t, log_q)
    larger = larger.masked_fill(larger == -math.inf, 0.0)
    return larger + (beta * (log_t - larger).exp() + (1 - beta) * (log_q - larger).exp()).log()


def weighted_log_ratio(weight: Tensor, log_a: Tensor, log_b: Tensor) -> Tensor:
    """Weight · (log_a - log_b), and 0 where the weight is 0 whatever the logarithms are."""
    return torch.where(weight == 0, 0.0, weight * (log_a - log_b))
