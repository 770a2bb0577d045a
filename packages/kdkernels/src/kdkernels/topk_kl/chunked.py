"""Losses of rows of logits against labels and top-k targets, and their gradient by the logits in one visit.

The columns of a row's top-k are lifted out before the exponential: what remains is summed by itself, so the mass of
the rest is known without the cancellation in 1 - Σq, and every remaining column has the same factor in the gradient.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from kdkernels.divergences import divergence_terms
from kdkernels.targets import Targets

# The piece of a chunk that is worked on at once, small enough to stay in a core's cache.
CPU_BLOCK_BYTES = 4 * 2**20
DEVICE_BLOCK_BYTES = 256 * 2**20


class Blend(NamedTuple):
    """How the terms of a row mix: (1-alpha)·hard + alpha·soft, soft by this divergence at this temperature."""

    alpha: float
    temperature: float = 1.0
    divergence: str = "forward_kl"
    beta: float = 0.5


def row_losses(
    logits: Tensor,
    *,
    labels: Tensor | None,
    targets: Targets | None,
    row_scale: Tensor,
    blend: Blend,
    gradient: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Hard and soft loss of each row; the gradient of Σ row_scale · loss is written to `gradient`.

    Args:
        logits: [R, V].
        labels: [R] columns of the hard loss, or None for none.
        targets: of the soft loss, or None for none.
        row_scale: [R] factor of each row in the loss that is differentiated.
        blend: what the loss is.
        gradient: [R, V] to write to, of the dtype of `logits`; may be `logits` itself. None for no gradient.

    Returns:
        hard [R] and soft [R] in float32 (float64 for float64 logits), zeros for a part that is not asked for.
    """
    R, V = logits.shape
    exact = torch.float64 if logits.dtype == torch.float64 else torch.float32
    hard = torch.zeros(R, dtype=exact, device=logits.device)
    soft = torch.zeros_like(hard)
    block = _block_rows(V, exact, logits.device)
    in_place = gradient is not None and logits.dtype == exact
    scratch = None if in_place else torch.empty(min(block, R), V, dtype=exact, device=logits.device)
    for start in range(0, R, block):
        rows = slice(start, min(start + block, R))
        target = gradient[rows] if gradient is not None else None
        if scratch is None:
            assert target is not None
            work = target
        else:
            work = scratch[: rows.stop - rows.start]
        if work.data_ptr() != logits[rows].data_ptr():
            work.copy_(logits[rows])
        hard[rows], soft[rows] = _block_losses(
            work,
            labels=None if labels is None else labels[rows],
            targets=None if targets is None else Targets(*(part[rows] for part in targets)),
            row_scale=row_scale[rows].to(exact),
            blend=blend,
            want_gradient=gradient is not None,
        )
        if target is not None and scratch is not None:
            target.copy_(work)
    return hard, soft


def _block_losses(
    x: Tensor,
    *,
    labels: Tensor | None,
    targets: Targets | None,
    row_scale: Tensor,
    blend: Blend,
    want_gradient: bool,
) -> tuple[Tensor, Tensor]:
    """As row_losses, on one block in full precision; `x` holds the logits before and the gradient after."""
    T = blend.temperature
    label_logit = None if labels is None else x.gather(1, labels.unsqueeze(1)).squeeze(1)  # [R]
    if targets is None:
        support = x[:, :0]
        places = torch.empty_like(support, dtype=torch.int64)
    else:
        unused = targets.ids < 0
        places = targets.ids.clamp(min=0)
        support = x.gather(1, places).masked_fill_(unused, -math.inf)  # [R, K]
        lifted = torch.full_like(support, -math.inf).masked_fill_(unused, math.inf)
        x.scatter_reduce_(1, places, lifted, "amin")
    peak = x.amax(dim=1)
    peak = peak.masked_fill_(peak == -math.inf, 0.0)  # no column remains
    x.sub_(peak.unsqueeze(1))
    two_temperatures = targets is not None and labels is not None and T != 1
    cooled = torch.div(x, T).exp_() if two_temperatures else None  # [R, V]
    if targets is not None and labels is None and T != 1:
        x.div_(T)
    x.exp_()
    zero = torch.zeros_like(peak)
    hard, hard_rest, hard_support = zero, zero, support
    soft, soft_rest, soft_support = zero, zero, support
    if labels is not None:
        assert label_logit is not None
        hard_total = x.sum(dim=1)
        rest = peak + hard_total.log()
        whole = torch.logaddexp(rest, support.logsumexp(dim=1))
        hard = whole - label_logit
        hard_rest = (rest - whole).exp_()  # mass outside the support
        hard_support = (support - whole.unsqueeze(1)).exp_()
    if targets is not None:
        soft_x = x if cooled is None else cooled
        soft_total = hard_total if labels is not None and cooled is None else soft_x.sum(dim=1)
        rest = peak / T + soft_total.log()
        cool_support = support / T
        whole = torch.logaddexp(rest, cool_support.logsumexp(dim=1))
        log_q = cool_support - whole.unsqueeze(1)
        log_s = rest - whole
        soft, soft_support, soft_rest = _soft(targets, log_q, log_s, blend)
    if not want_gradient:
        return hard, soft
    # d loss / d logit = temperature² / temperature in the soft part
    hard_share, soft_share = (1 - blend.alpha) * row_scale, blend.alpha * T * row_scale
    if cooled is not None:
        x.mul_(_factor(hard_share * hard_rest, hard_total))
        x.addcmul_(cooled, _factor(soft_share * soft_rest, soft_total))
    elif labels is not None:
        x.mul_(_factor(hard_share * hard_rest + soft_share * soft_rest, hard_total))
    else:
        x.mul_(_factor(soft_share * soft_rest, soft_total))
    if targets is not None:
        pulled = soft_support * soft_share.unsqueeze(1)
        if labels is not None:
            pulled += hard_support * hard_share.unsqueeze(1)
        x.scatter_add_(1, places, pulled.masked_fill_(unused, 0.0))
    if labels is not None:
        x.scatter_add_(1, labels.unsqueeze(1), -hard_share.unsqueeze(1))
    return hard, soft


def _soft(
    targets: Targets, log_q: Tensor, log_s: Tensor, blend: Blend
) -> tuple[Tensor, Tensor, Tensor]:
    """Soft loss [R], and T² ∂loss/∂(z/T) / T²: of each support column [R, K], and summed over the rest [R]."""
    name, beta = blend.divergence, blend.beta
    terms, pulls = divergence_terms(name, targets.log_mass, log_q, beta=beta)
    rest_term, rest_pull = divergence_terms(name, targets.log_rest, log_s, beta=beta)
    total_pull = pulls.sum(dim=1) + rest_pull
    value = (terms.sum(dim=1) + rest_term) * blend.temperature**2
    by_support = pulls - log_q.exp() * total_pull.unsqueeze(1)
    by_rest = rest_pull - log_s.exp() * total_pull
    return value, by_support, by_rest


def _factor(mass: Tensor, total: Tensor) -> Tensor:
    """What to multiply the exponentials of a row by, so that they sum to `mass`. [R] -> [R, 1]"""
    return (mass / total).masked_fill(total == 0, 0.0).unsqueeze(1)


def _block_rows(V: int, dtype: torch.dtype, device: torch.device) -> int:
    budget = CPU_BLOCK_BYTES if device.type == "cpu" else DEVICE_BLOCK_BYTES
    return max(1, budget // (V * dtype.itemsize))
