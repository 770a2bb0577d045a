# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# (what triton compiles is no typed Python)

"""Losses and gradient of rows of logits in Triton: one program a row, the row read twice and written once.

The formulae are those of `chunked.py`. One sweep takes maximum and sums together, lane by lane (`online_softmax_update`); a second,
from the end, whose columns may still be in the cache, writes the gradient over the logits. The top-k columns are set to -inf
before the first, so that both sweeps see the rest of the vocabulary alone, and are written by themselves at the end.

Bytes of a logit in half precision: 4 read and 2 written. A gradient needs at least 2 read, unless a row stays on the chip, and 2
written. Logits that must not be overwritten are copied first: 2 read and 2 written more.

Imports triton: reached only once impl="triton" has been chosen.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from kdkernels.divergence_kernel import (
    DIVERGENCE_NUMBERS,
    LOG2_E,
    LOG_2,
    divergence_terms,
    finite_or_zero,
    load_block,
    log2_sum,
    log_add,
    log_sum_exp,
    online_softmax_update,
    store_block,
)
from kdkernels.loss_options import LossOptions
from kdkernels.products import empty_rows
from kdkernels.targets import Targets
from kdkernels.tuning import launch_options

# Logits that must not be overwritten are worked on in a copy of this size.
COPY_BYTES = 256 * 2**20


def row_losses(
    logits: Tensor,
    *,
    labels: Tensor | None,
    targets: Targets | None,
    row_scale: Tensor,
    options: LossOptions,
    gradient: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """As `chunked.row_losses`, for float32, float16 and bfloat16."""
    R, V = logits.shape
    hard = torch.zeros(R, dtype=torch.float32, device=logits.device)
    soft = torch.zeros_like(hard)
    if gradient is not None:
        if gradient.data_ptr() != logits.data_ptr():
            gradient.copy_(logits)
        launch(gradient, hard, soft, labels, targets, row_scale, options, gradient=gradient)
        # Autograd sees no write of a kernel; who kept the logits for a backward pass must hear of it.
        torch.autograd.graph.increment_version(gradient)
        return hard, soft
    rows_at_once = min(R, max(1, COPY_BYTES // (V * logits.element_size())))
    scratch = empty_rows(rows_at_once, V, logits.dtype, logits.device)
    for start in range(0, R, rows_at_once):
        rows = slice(start, min(start + rows_at_once, R))
        launch(
            scratch[: rows.stop - rows.start].copy_(logits[rows]), hard[rows], soft[rows],
            None if labels is None else labels[rows],
            None if targets is None else Targets(*(tensor[rows] for tensor in targets)),
            row_scale[rows], options,
        )  # fmt: skip
    return hard, soft


def launch(
    logits: Tensor,
    hard: Tensor,
    soft: Tensor,
    labels: Tensor | None,
    targets: Targets | None,
    row_scale: Tensor,
    options: LossOptions,
    *,
    columns: int | None = None,
    scale: float = LOG2_E.value,
    gradient: Tensor | None = None,
) -> None:
    """Write the losses, and the gradient.

    Args:
        logits: [R, V or more], are lost.
        hard: [R] to write to.
        soft: [R] to write to.
        labels: [R] or None.
        targets: of the rows, or None.
        row_scale: [R].
        options: what the loss is.
        columns: V, None for all.
        scale: what times the logits is z over log 2, but for a constant of the row.
        gradient: [R, P] to write to, 0 from V on; may be the memory of the logits. None for no gradient.
    """
    R, V = logits.shape[0], logits.shape[1] if columns is None else columns
    if R == 0:
        return
    K = 0 if targets is None else targets.ids.shape[1]
    unread = row_scale  # a pointer for what the kernel will not read
    _row_kernel[(R,)](
        logits,
        logits.stride(0),
        logits if gradient is None else gradient,
        0 if gradient is None else gradient.stride(0),
        unread if targets is None else targets.ids.contiguous(),
        unread if targets is None else targets.log_mass.contiguous(),
        unread if targets is None else targets.log_rest.contiguous(),
        unread if labels is None else labels.contiguous(),
        row_scale.contiguous(),
        hard,
        soft,
        V,
        V if gradient is None else gradient.shape[1],
        K,
        scale,
        options.alpha,
        options.temperature,
        1 / options.temperature,
        options.beta,
        HARD=labels is not None,
        SOFT=targets is not None,
        ONE_TEMPERATURE=options.temperature == 1,
        GRADIENT=gradient is not None,
        DIVERGENCE=DIVERGENCE_NUMBERS[options.divergence],
        BLOCK_K=max(2, 2 ** math.ceil(math.log2(max(1, K)))),
        **launch_options("row_losses", logits.device, columns=V, itemsize=logits.element_size()),
    )


@triton.jit
def _row_sums(
    z, V, scale, inverse_T, ONE_TEMPERATURE: tl.constexpr, BLOCK_V: tl.constexpr, STAGES: tl.constexpr
):  # fmt: skip
    """The row's maximum over log 2, and log2 of its sums of exponentials at temperatures 1 and T."""
    lane_max = tl.full([BLOCK_V], -float("inf"), tl.float32)
    sum_1 = tl.zeros([BLOCK_V], tl.float32)
    sum_T = tl.zeros([BLOCK_V], tl.float32)
    max_T = lane_max
    lane = tl.arange(0, BLOCK_V)
    edge = V // BLOCK_V * BLOCK_V  # the columns of whole blocks; what remains takes a mask
    for start in tl.range(0, edge, BLOCK_V, num_stages=STAGES):
        x = load_block(z, start + lane, V, scale, False)
        lane_max, sum_1 = online_softmax_update(x, lane_max, sum_1)
        if not ONE_TEMPERATURE:
            max_T, sum_T = online_softmax_update(x * inverse_T, max_T, sum_T)
    x = load_block(z, edge + lane, V, scale, True)
    lane_max, sum_1 = online_softmax_update(x, lane_max, sum_1)
    base, log2_1 = log2_sum(lane_max, sum_1)
    log2_T = log2_1
    if not ONE_TEMPERATURE:
        max_T, sum_T = online_softmax_update(x * inverse_T, max_T, sum_T)
        _, log2_T = log2_sum(max_T, sum_T)
    return base, log2_1, log2_T


@triton.jit
def _store_gradient(
    z, gradient, column, V, P, scale, base, hard_factor, soft_factor, inverse_T,
    ONE_TEMPERATURE: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Write one block of the gradient that the columns outside the top-k have."""
    x = load_block(z, column, V, scale, MASKED) - base
    if ONE_TEMPERATURE:
        grad = tl.exp2(x) * (hard_factor + soft_factor)
    else:
        grad = tl.exp2(x) * hard_factor + tl.exp2(x * inverse_T) * soft_factor
    store_block(gradient, column, grad, V, P, MASKED)


@triton.jit
def _row_kernel(
    logits,  # [R, V], are lost
    row_stride,
    gradient,  # [R, P], may be the memory of the logits
    gradient_stride,
    ids,  # [R, K]
    log_mass,  # [R, K]
    log_rest,  # [R]
    labels,  # [R]
    row_scale,  # [R]
    hard_out,  # [R]
    soft_out,  # [R]
    V,
    P,
    K,
    scale,  # of the logits, to units of log 2
    alpha,
    T,
    inverse_T,
    beta,
    HARD: tl.constexpr,
    SOFT: tl.constexpr,
    ONE_TEMPERATURE: tl.constexpr,
    GRADIENT: tl.constexpr,
    DIVERGENCE: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)  # int64: row times stride passes 2^31
    z = logits + row * row_stride
    k = tl.arange(0, BLOCK_K)
    weight = tl.load(row_scale + row)
    natural = scale * LOG_2  # from the logits' units to natural logarithms
    label = tl.full([], 0, tl.int64)
    label_logit = tl.full([], 0.0, tl.float32)
    if HARD:
        label = tl.load(labels + row).to(tl.int64)
        label_logit = tl.load(z + label).to(tl.float32) * natural
    topk_ids = tl.full([BLOCK_K], -1, tl.int64)
    topk_logits = tl.full([BLOCK_K], -float("inf"), tl.float32)
    if SOFT:
        topk_ids = tl.load(ids + row * K + k, mask=k < K, other=-1)
        topk_logits = (
            tl.load(z + topk_ids, mask=topk_ids >= 0, other=-float("inf")).to(tl.float32) * natural
        )
        tl.debug_barrier()  # all threads have read the top-k columns before any is overwritten
        tl.store(z + topk_ids, tl.full([BLOCK_K], -float("inf"), tl.float32), mask=topk_ids >= 0)
        tl.debug_barrier()  # and the sweep, whose threads read other columns than they wrote, sees -inf
    listed = topk_ids >= 0
    base, log2_sum_1, log2_sum_T = _row_sums(
        z, V, scale, inverse_T, ONE_TEMPERATURE, BLOCK_V, STAGES
    )

    # Outside the top-k the gradient is 2^(x - base) hard_factor + 2^((x - base) / T) soft_factor, x the logit over log 2.
    hard_factor = tl.full([], 0.0, tl.float32)
    soft_factor = tl.full([], 0.0, tl.float32)
    topk_grad = tl.zeros([BLOCK_K], tl.float32)
    hard_share = (1.0 - alpha) * weight
    soft_share = alpha * T * weight  # T² / T: the logits enter divided by T
    if HARD:
        # hard = log Σ exp(z) - z_label;  ∂hard/∂z_v = softmax(z)_v - [v = label]
        lse_rest = log2_sum_1 * LOG_2
        lse = log_add(lse_rest, log_sum_exp(topk_logits))
        tl.store(hard_out + row, lse - label_logit)
        hard_factor = hard_share * tl.exp(base * LOG_2 - lse)
        topk_grad += hard_share * tl.exp(topk_logits - lse)
    if SOFT:
        # soft = T² D(t, q);  ∂D/∂(z_k/T) = g_k - q_k G, and g_rest - q_rest G for all other columns together
        log_t = tl.load(log_mass + row * K + k, mask=k < K, other=-float("inf"))
        lse_rest = log2_sum_T * LOG_2
        lse = log_add(lse_rest, log_sum_exp(topk_logits * inverse_T))
        log_q = topk_logits * inverse_T - lse
        log_q_rest = lse_rest - lse
        terms, grad_log_q = divergence_terms(log_t, log_q, beta, DIVERGENCE)
        rest_term, grad_log_q_rest = divergence_terms(
            tl.load(log_rest + row), log_q_rest, beta, DIVERGENCE
        )
        grad_sum = tl.sum(grad_log_q, axis=0) + grad_log_q_rest  # G
        tl.store(soft_out + row, (tl.sum(terms, axis=0) + rest_term) * T * T)
        rest_grad = grad_log_q_rest - tl.exp(log_q_rest) * grad_sum
        share_at_base = tl.exp(base * inverse_T * LOG_2 - finite_or_zero(lse_rest))
        soft_factor = tl.where(
            log2_sum_T == -float("inf"), 0.0, soft_share * rest_grad * share_at_base
        )
        topk_grad += soft_share * (grad_log_q - tl.exp(log_q) * grad_sum)
    if GRADIENT:
        target = gradient + row * gradient_stride
        lane = tl.arange(0, BLOCK_V)
        edge = V // BLOCK_V * BLOCK_V
        for start in range(edge, P, BLOCK_V):
            _store_gradient(
                z, target, start + lane, V, P, scale, base, hard_factor, soft_factor, inverse_T,
                ONE_TEMPERATURE, True,
            )  # fmt: skip
        for back in tl.range(0, edge, BLOCK_V, num_stages=STAGES):
            _store_gradient(
                z, target, edge - BLOCK_V - back + lane, V, P, scale, base, hard_factor, soft_factor,
                inverse_T, ONE_TEMPERATURE, False,
            )  # fmt: skip
        tl.debug_barrier()  # the columns with a value of their own come last
        dtype = gradient.dtype.element_ty
        if SOFT:
            if HARD:
                topk_grad -= tl.where(topk_ids == label, hard_share, 0.0)
            tl.store(target + topk_ids, topk_grad.to(dtype), mask=listed)
        if HARD:
            label_listed = tl.sum(tl.where(listed & (topk_ids == label), 1, 0), axis=0) > 0
            x = label_logit - base * LOG_2
            label_grad = tl.exp(x) * hard_factor + tl.exp(x * inverse_T) * soft_factor - hard_share
            tl.store(target + label, label_grad.to(dtype), mask=label_listed == 0)
