"""Losses of rows of logits against labels and top-k targets, and their gradient by the logits in one visit.

z is a row of logits, K its top-k ids, t the teacher's masses of the classes "id k" and "the rest" (see `targets`).

    log q_k = z_k / T - log Z,   log q_rest = log Σ_{v not in K} exp(z_v / T) - log Z,   Z = Σ_v exp(z_v / T)
    hard = log Σ_v exp(z_v) - z_label,   soft = T² D(t, q)
    ∂hard/∂z_v = softmax(z)_v - [v = label]
    ∂soft/∂z_v = T (g_v - q_v G)                                                for v in K
               = T (g_rest - q_rest G) · exp(z_v / T) / Σ_{u not in K} exp(z_u / T)  else

with g = ∂D/∂(log q) and G = Σ g over all classes (derived in `divergences`); T is T² times the 1/T of the chain rule.
The columns in K are set to -inf before the exponential: the rest is summed by itself, so its mass is known without the
cancellation in 1 - Σ_K q, and all its columns have one factor in the gradient.
"""

import math

import torch
from torch import Tensor

from kdkernels.divergences import divergence_terms
from kdkernels.loss_options import LossOptions
from kdkernels.precision import accumulation_dtype
from kdkernels.targets import Targets

# The piece of a chunk that is worked on at once, small enough to stay in a core's cache.
CPU_BLOCK_BYTES = 4 * 2**20
DEVICE_BLOCK_BYTES = 256 * 2**20


def row_losses(
    logits: Tensor,
    *,
    labels: Tensor | None,
    targets: Targets | None,
    row_scale: Tensor,
    options: LossOptions,
    gradient: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Hard and soft loss of each row; the gradient of Σ row_scale · loss is written to `gradient`.

    Args:
        logits: [R, V].
        labels: [R] columns of the hard loss, or None for none.
        targets: of the soft loss, or None for none.
        row_scale: [R] factor of each row in the loss that is differentiated.
        options: what the loss is.
        gradient: [R, V] to write to, of the dtype of `logits`; may be `logits` itself. None for no gradient.

    Returns:
        hard [R] and soft [R] in float32 (float64 for float64 logits), zeros for a part that is not asked for.
    """
    R, V = logits.shape
    exact = accumulation_dtype(logits.dtype)
    hard, soft = torch.zeros(2, R, dtype=exact, device=logits.device)
    block = _block_rows(V, exact, logits.device)
    in_place = gradient is not None and logits.dtype == exact
    scratch = None if in_place else torch.empty(min(block, R), V, dtype=exact, device=logits.device)
    for start in range(0, R, block):
        rows = slice(start, min(start + block, R))
        target = gradient[rows] if gradient is not None else None
        if scratch is None:
            assert target is not None
            x = target
        else:
            x = scratch[: rows.stop - rows.start]
        if x.data_ptr() != logits[rows].data_ptr():
            x.copy_(logits[rows])
        hard[rows], soft[rows] = _block_losses(
            x,
            labels=None if labels is None else labels[rows],
            targets=None if targets is None else Targets(*(part[rows] for part in targets)),
            row_scale=row_scale[rows].to(exact),
            options=options,
            want_gradient=gradient is not None,
        )
        if target is not None and scratch is not None:
            target.copy_(x)
    return hard, soft


def _block_losses(
    x: Tensor,
    *,
    labels: Tensor | None,
    targets: Targets | None,
    row_scale: Tensor,
    options: LossOptions,
    want_gradient: bool,
) -> tuple[Tensor, Tensor]:
    """As row_losses, on one block in full precision; `x` holds the logits before and the gradient after."""
    T = options.temperature
    label_logits = None if labels is None else x.gather(1, labels.unsqueeze(1)).squeeze(1)  # [R]
    if targets is None:
        topk_logits = x[:, :0]
        topk_ids = torch.empty_like(topk_logits, dtype=torch.int64)
    else:
        unused = targets.ids < 0
        topk_ids = targets.ids.clamp(min=0)
        topk_logits = x.gather(1, topk_ids).masked_fill_(unused, -math.inf)  # [R, K]
        ceiling = torch.full_like(topk_logits, -math.inf).masked_fill_(unused, math.inf)
        x.scatter_reduce_(1, topk_ids, ceiling, "amin")
    row_max = x.amax(dim=1)
    row_max = row_max.masked_fill_(row_max == -math.inf, 0.0)  # no column remains
    x.sub_(row_max.unsqueeze(1))
    two_temperatures = targets is not None and labels is not None and T != 1
    exp_T = torch.div(x, T).exp_() if two_temperatures else None  # [R, V]
    if targets is not None and labels is None and T != 1:
        x.div_(T)
    x.exp_()
    zero = torch.zeros_like(row_max)
    hard, hard_rest_mass, hard_topk_grad = zero, zero, topk_logits
    soft, soft_rest_grad, soft_topk_grad = zero, zero, topk_logits
    if labels is not None:
        assert label_logits is not None
        sum_exp = x.sum(dim=1)
        lse_rest = row_max + sum_exp.log()
        lse = torch.logaddexp(lse_rest, topk_logits.logsumexp(dim=1))
        hard = lse - label_logits
        hard_rest_mass = (lse_rest - lse).exp_()  # softmax(z) outside the top-k
        hard_topk_grad = (topk_logits - lse.unsqueeze(1)).exp_()
    if targets is not None:
        if labels is not None and exp_T is None:
            sum_exp_T = sum_exp
        else:
            sum_exp_T = (x if exp_T is None else exp_T).sum(dim=1)
        lse_rest = row_max / T + sum_exp_T.log()
        topk_logits_T = topk_logits / T
        lse = torch.logaddexp(lse_rest, topk_logits_T.logsumexp(dim=1))
        log_q = topk_logits_T - lse.unsqueeze(1)
        soft, soft_topk_grad, soft_rest_grad = _soft(targets, log_q, lse_rest - lse, options)
    if not want_gradient:
        return hard, soft
    hard_share, soft_share = (1 - options.alpha) * row_scale, options.alpha * T * row_scale
    if exp_T is not None:
        x.mul_(_factor(hard_share * hard_rest_mass, sum_exp))
        x.addcmul_(exp_T, _factor(soft_share * soft_rest_grad, sum_exp_T))
    elif labels is not None:
        x.mul_(_factor(hard_share * hard_rest_mass + soft_share * soft_rest_grad, sum_exp))
    else:
        x.mul_(_factor(soft_share * soft_rest_grad, sum_exp_T))
    if targets is not None:
        topk_grad = soft_topk_grad * soft_share.unsqueeze(1)
        if labels is not None:
            topk_grad += hard_topk_grad * hard_share.unsqueeze(1)
        x.scatter_add_(1, topk_ids, topk_grad.masked_fill_(unused, 0.0))
    if labels is not None:
        x.scatter_add_(1, labels.unsqueeze(1), -hard_share.unsqueeze(1))
    return hard, soft


def _soft(
    targets: Targets, log_q: Tensor, log_q_rest: Tensor, options: LossOptions
) -> tuple[Tensor, Tensor, Tensor]:
    """Soft loss [R], and ∂D/∂(z/T): g - q G of each listed column [R, K], g_rest - q_rest G of all others together [R]."""
    divergence, beta = options.divergence, options.beta
    terms, grad_log_q = divergence_terms(divergence, targets.log_mass, log_q, beta=beta)
    rest_term, grad_log_q_rest = divergence_terms(
        divergence, targets.log_rest, log_q_rest, beta=beta
    )
    grad_sum = grad_log_q.sum(dim=1) + grad_log_q_rest  # G
    loss = (terms.sum(dim=1) + rest_term) * options.temperature**2
    topk_grad = grad_log_q - log_q.exp() * grad_sum.unsqueeze(1)
    rest_grad = grad_log_q_rest - log_q_rest.exp() * grad_sum
    return loss, topk_grad, rest_grad


def _factor(mass: Tensor, sum_exp: Tensor) -> Tensor:
    """What to multiply the exponentials of a row by, so that they sum to `mass`. [R] -> [R, 1]"""
    return (mass / sum_exp).masked_fill(sum_exp == 0, 0.0).unsqueeze(1)


def _block_rows(V: int, dtype: torch.dtype, device: torch.device) -> int:
    budget = CPU_BLOCK_BYTES if device.type == "cpu" else DEVICE_BLOCK_BYTES
    return max(1, budget // (V * dtype.itemsize))
