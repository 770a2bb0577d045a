# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# (what triton compiles is no typed Python)

"""Losses and gradient of rows of logits in Triton: one program a row, the row read twice and written once.

The formulae are those of `chunked.py`. One sweep takes the maximum and the sum of exponentials together, by the online
softmax (Milakov & Gimelshein 2018, "Online normalizer calculation for softmax", Algorithm 3): with m the maximum and d
the sum of exp(x - m) so far, a block x' gives

    m' = max(m, max x'),   d' = d exp(m - m') + Σ exp(x' - m').

A second sweep writes the gradient over the logits. The top-k columns are set to -inf before the first, so that both
sweeps see the rest of the vocabulary alone, and are written by themselves at the end.

Imports triton: reached only once impl="triton" has been chosen.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from kdkernels.divergence_kernel import (
    DIVERGENCE_NUMBERS,
    divergence_terms,
    finite_or_zero,
    load_block,
    log_add,
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
        _launch(gradient, hard, soft, labels, targets, row_scale, options, want_gradient=True)
        # Autograd sees no write of a kernel; who kept the logits for a backward pass must hear of it.
        torch.autograd.graph.increment_version(gradient)
        return hard, soft
    rows_at_once = min(R, max(1, COPY_BYTES // (V * logits.element_size())))
    scratch = empty_rows(rows_at_once, V, logits.dtype, logits.device)
    for start in range(0, R, rows_at_once):
        rows = slice(start, min(start + rows_at_once, R))
        _launch(
            scratch[: rows.stop - rows.start].copy_(logits[rows]), hard[rows], soft[rows],
            None if labels is None else labels[rows],
            None if targets is None else Targets(*(tensor[rows] for tensor in targets)),
            row_scale[rows], options, want_gradient=False,
        )  # fmt: skip
    return hard, soft


def _launch(
    logits: Tensor,
    hard: Tensor,
    soft: Tensor,
    labels: Tensor | None,
    targets: Targets | None,
    row_scale: Tensor,
    options: LossOptions,
    *,
    want_gradient: bool,
) -> None:
    R, V = logits.shape
    if R == 0:
        return
    K = 0 if targets is None else targets.ids.shape[1]
    unread = row_scale  # a pointer for what the kernel will not read
    _row_kernel[(R,)](
        logits,
        logits.stride(0),
        unread if targets is None else targets.ids.contiguous(),
        unread if targets is None else targets.log_mass.contiguous(),
        unread if targets is None else targets.log_rest.contiguous(),
        unread if labels is None else labels.contiguous(),
        row_scale.contiguous(),
        hard,
        soft,
        V,
        K,
        options.alpha,
        options.temperature,
        options.beta,
        HARD=labels is not None,
        SOFT=targets is not None,
        ONE_TEMPERATURE=options.temperature == 1,
        GRADIENT=want_gradient,
        DIVERGENCE=DIVERGENCE_NUMBERS[options.divergence],
        BLOCK_K=max(2, 2 ** math.ceil(math.log2(max(1, K)))),
        **launch_options("row_losses", logits.device, columns=V),
    )


@triton.jit
def _online_softmax_update(
    z, column, V, row_max, sum_exp, sum_exp_T, T, ONE_TEMPERATURE: tl.constexpr, MASKED: tl.constexpr
):  # fmt: skip
    """Take one block into the running maximum and the sums of exponentials at temperatures 1 and T."""
    x = load_block(z, column, V, MASKED)
    new_max = tl.maximum(row_max, tl.max(x, axis=0))
    base = finite_or_zero(new_max)
    sum_exp = sum_exp * tl.exp(row_max - base) + tl.sum(tl.exp(x - base), axis=0)
    if not ONE_TEMPERATURE:
        scale_T = tl.exp((row_max - base) / T)
        sum_exp_T = sum_exp_T * scale_T + tl.sum(tl.exp((x - base) / T), axis=0)
    return new_max, sum_exp, sum_exp_T


@triton.jit
def _store_gradient(
    z, column, V, base, hard_factor, soft_factor, T, ONE_TEMPERATURE: tl.constexpr, MASKED: tl.constexpr
):  # fmt: skip
    """Overwrite one block of logits with the gradient that the columns outside the top-k have."""
    x = load_block(z, column, V, MASKED) - base
    if ONE_TEMPERATURE:
        grad = tl.exp(x) * (hard_factor + soft_factor)
    else:
        grad = tl.exp(x) * hard_factor + tl.exp(x / T) * soft_factor
    store_block(z, column, grad, V, MASKED)


@triton.jit
def _log_sum_exp(x):
    """Log Σ exp of a vector, -inf where it is empty."""
    base = finite_or_zero(tl.max(x, axis=0))
    return base + tl.log(tl.sum(tl.exp(x - base), axis=0))


@triton.jit
def _row_kernel(
    logits,  # [R, V], becomes the gradient
    row_stride,
    ids,  # [R, K]
    log_mass,  # [R, K]
    log_rest,  # [R]
    labels,  # [R]
    row_scale,  # [R]
    hard_out,  # [R]
    soft_out,  # [R]
    V,
    K,
    alpha,
    T,
    beta,
    HARD: tl.constexpr,
    SOFT: tl.constexpr,
    ONE_TEMPERATURE: tl.constexpr,
    GRADIENT: tl.constexpr,
    DIVERGENCE: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)  # int64: row times stride passes 2^31
    z = logits + row * row_stride
    k = tl.arange(0, BLOCK_K)
    scale = tl.load(row_scale + row)
    label = tl.full([], 0, tl.int64)
    label_logit = tl.full([], 0.0, tl.float32)
    if HARD:
        label = tl.load(labels + row).to(tl.int64)
        label_logit = tl.load(z + label).to(tl.float32)
    topk_ids = tl.full([BLOCK_K], -1, tl.int64)
    topk_logits = tl.full([BLOCK_K], -float("inf"), tl.float32)
    if SOFT:
        topk_ids = tl.load(ids + row * K + k, mask=k < K, other=-1)
        topk_logits = tl.load(z + topk_ids, mask=topk_ids >= 0, other=-float("inf")).to(tl.float32)
        tl.debug_barrier()  # all threads have read the top-k columns before any is overwritten
        tl.store(z + topk_ids, tl.full([BLOCK_K], -float("inf"), tl.float32), mask=topk_ids >= 0)
        tl.debug_barrier()  # and the sweep, whose threads read other columns than they wrote, sees -inf
    listed = topk_ids >= 0

    row_max = tl.full([], -float("inf"), tl.float32)
    sum_exp = tl.full([], 0.0, tl.float32)
    sum_exp_T = tl.full([], 0.0, tl.float32)
    lane = tl.arange(0, BLOCK_V)
    edge = V // BLOCK_V * BLOCK_V  # the columns of whole blocks; what remains takes a mask
    for start in range(0, edge, BLOCK_V):
        row_max, sum_exp, sum_exp_T = _online_softmax_update(
            z, start + lane, V, row_max, sum_exp, sum_exp_T, T, ONE_TEMPERATURE, False
        )
    row_max, sum_exp, sum_exp_T = _online_softmax_update(
        z, edge + lane, V, row_max, sum_exp, sum_exp_T, T, ONE_TEMPERATURE, True
    )
    base = finite_or_zero(row_max)
    if ONE_TEMPERATURE:
        sum_exp_T = sum_exp

    # Outside the top-k the gradient is exp(z - max) hard_factor + exp((z - max) / T) soft_factor.
    hard_factor = tl.full([], 0.0, tl.float32)
    soft_factor = tl.full([], 0.0, tl.float32)
    topk_grad = tl.zeros([BLOCK_K], tl.float32)
    hard_share = (1.0 - alpha) * scale
    soft_share = alpha * T * scale  # T² / T: the logits enter divided by T
    if HARD:
        # hard = log Σ exp(z) - z_label;  ∂hard/∂z_v = softmax(z)_v - [v = label]
        lse_rest = base + tl.log(sum_exp)
        lse = log_add(lse_rest, _log_sum_exp(topk_logits))
        tl.store(hard_out + row, lse - label_logit)
        hard_factor = tl.where(sum_exp == 0, 0.0, hard_share * tl.exp(lse_rest - lse) / sum_exp)
        topk_grad += hard_share * tl.exp(topk_logits - lse)
    if SOFT:
        # soft = T² D(t, q);  ∂D/∂(z_k/T) = g_k - q_k G, and g_rest - q_rest G for all other columns together
        log_t = tl.load(log_mass + row * K + k, mask=k < K, other=-float("inf"))
        lse_rest = base / T + tl.log(sum_exp_T)
        lse = log_add(lse_rest, _log_sum_exp(topk_logits / T))
        log_q = topk_logits / T - lse
        log_q_rest = lse_rest - lse
        terms, grad_log_q = divergence_terms(log_t, log_q, beta, DIVERGENCE)
        rest_term, grad_log_q_rest = divergence_terms(
            tl.load(log_rest + row), log_q_rest, beta, DIVERGENCE
        )
        grad_sum = tl.sum(grad_log_q, axis=0) + grad_log_q_rest  # G
        tl.store(soft_out + row, (tl.sum(terms, axis=0) + rest_term) * T * T)
        rest_grad = grad_log_q_rest - tl.exp(log_q_rest) * grad_sum
        soft_factor = tl.where(sum_exp_T == 0, 0.0, soft_share * rest_grad / sum_exp_T)
        topk_grad += soft_share * (grad_log_q - tl.exp(log_q) * grad_sum)
    if GRADIENT:
        for start in range(0, edge, BLOCK_V):
            _store_gradient(
                z, start + lane, V, base, hard_factor, soft_factor, T, ONE_TEMPERATURE, False
            )
        _store_gradient(z, edge + lane, V, base, hard_factor, soft_factor, T, ONE_TEMPERATURE, True)
        tl.debug_barrier()  # the columns with a value of their own come last
        if SOFT:
            if HARD:
                topk_grad -= tl.where(topk_ids == label, hard_share, 0.0)
            tl.store(z + topk_ids, topk_grad, mask=listed)
        if HARD:
            label_listed = tl.sum(tl.where(listed & (topk_ids == label), 1, 0), axis=0) > 0
            x = label_logit - base
            label_grad = tl.exp(x) * hard_factor + tl.exp(x / T) * soft_factor - hard_share
            tl.store(z + label, label_grad, mask=label_listed == 0)
