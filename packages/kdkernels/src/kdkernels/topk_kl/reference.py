"""The top-k distillation loss as its definition reads: masses by class, the divergence between them.

Beside the lean version it is longer in memory and shorter to read: the teacher's masses are scattered into a dense
[N, V] vector, so duplicates add up by themselves, and autograd takes the gradient.
"""

import math

import torch
from torch import Tensor

from kdkernels.loss_options import LossOptions
from kdkernels.targets import LOG_TAIL_FLOOR


def soft_loss(
    logits: Tensor,
    topk_ids: Tensor,
    topk_logprobs: Tensor,
    *,
    options: LossOptions,
    tail: str,
    log_partition: Tensor | None,
) -> Tensor:
    """T² D(teacher, softmax(logits / T)) of each row.

    Args:
        logits: [N, V] in float32 or float64.
        topk_ids: [N, K], -1 in unused places; the masses of equal ids add up.
        topk_logprobs: [N, K] at temperature 1.
        options: divergence and temperature.
        tail: what becomes of the teacher's other columns.
        log_partition: [N] at the temperature, or None.

    Returns:
        [N], differentiable by `logits`.
    """
    T = options.temperature
    used = topk_ids >= 0
    columns = topk_ids.to(torch.int64).clamp(min=0)
    log_p = topk_logprobs.detach().to(torch.float64) / T
    if log_partition is not None and tail != "renormalise":
        log_p = log_p - log_partition.detach().to(torch.float64).unsqueeze(1)
    none = torch.zeros(logits.shape, dtype=torch.float64, device=logits.device)
    p = none.scatter_add(1, columns, log_p.exp().masked_fill(~used, 0.0))  # [N, V]
    listed = none.scatter_add(1, columns, used.to(p.dtype)) > 0  # [N, V]
    rest = 1 - p.sum(dim=1)
    if tail == "renormalise":
        total = p.sum(dim=1, keepdim=True)
        p, rest = p / total.masked_fill(total == 0, 1.0), torch.zeros_like(rest)
    if tail == "drop":
        rest = torch.zeros_like(rest)
    floor = math.exp(LOG_TAIL_FLOOR) if options.divergence == "reverse_kl" else 0.0
    rest = rest.clamp(min=floor).masked_fill(listed.all(dim=1), 0.0).to(logits.dtype)
    p = p.to(logits.dtype)

    log_q = torch.log_softmax(logits / T, dim=1)
    log_q_rest = _log_sum(log_q, keep=~listed)
    if options.divergence == "forward_kl":
        value = _weighted_log_ratio(p, p.log(), log_q).sum(dim=1) + _weighted_log_ratio(
            rest, rest.log(), log_q_rest
        )
    elif options.divergence == "reverse_kl":
        q = log_q.exp() * listed
        value = _weighted_log_ratio(q, log_q, p.log()).sum(dim=1) + _weighted_log_ratio(
            log_q_rest.exp(), log_q_rest, rest.log()
        )
    else:
        by_column = _jsd(p, log_q, options.beta).masked_fill(~listed, 0.0)
        value = by_column.sum(dim=1) + _jsd(rest, log_q_rest, options.beta)
    return (value * T**2).masked_fill(~used.any(dim=1), 0.0)


def _jsd(t: Tensor, log_q: Tensor, beta: float) -> Tensor:
    q = log_q.exp()
    m = beta * t + (1 - beta) * q
    log_m = m.masked_fill(m == 0, 1.0).log()
    return beta * _weighted_log_ratio(t, t.log(), log_m) + (1 - beta) * _weighted_log_ratio(
        q, log_q, log_m
    )


def _weighted_log_ratio(weight: Tensor, log_a: Tensor, log_b: Tensor) -> Tensor:
    """Weight · (log_a - log_b), 0 where the weight is 0; the inner choice keeps infinities out of the gradient."""
    weightless = weight == 0
    return weight * (log_a.masked_fill(weightless, 0.0) - log_b.masked_fill(weightless, 0.0))


def _log_sum(log_q: Tensor, *, keep: Tensor) -> Tensor:
    """Log Σ exp over the kept columns, -inf (without gradient) where none is kept. [N, V] -> [N]"""
    any_kept = keep.any(dim=1)
    masked = log_q.masked_fill(~keep & any_kept.unsqueeze(1), -math.inf)
    return masked.logsumexp(dim=1).masked_fill(~any_kept, -math.inf)
