# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# (what triton compiles is no typed Python)

"""Losses and gradient of rows of logits in Triton: one program a row, the row read twice and written once.

The same steps as `chunked.py`: lift the top-k columns out of the row, sum the rest by itself (one sweep with a running
maximum, for both temperatures), then write the gradient over the logits. Imports triton: reached only once
impl="triton" has been chosen.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from kdkernels.divergence_kernel import (
    NUMBERS,
    divergence_terms,
    finite_or_zero,
    load_block,
    log_add,
    store_block,
)
from kdkernels.products import empty_rows
from kdkernels.targets import Targets
from kdkernels.topk_kl.chunked import Blend
from kdkernels.tuning import launch_options

# Logits that must not be overwritten are worked on in a copy of this size.
COPY_BYTES = 256 * 2**20


def row_losses(
    logits: Tensor,
    *,
    labels: Tensor | None,
    targets: Targets | None,
    row_scale: Tensor,
    blend: Blend,
    gradient: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """As `chunked.row_losses`, for float32, float16 and bfloat16."""
    R, V = logits.shape
    hard = torch.zeros(R, dtype=torch.float32, device=logits.device)
    soft = torch.zeros_like(hard)
    if gradient is not None:
        if gradient.data_ptr() != logits.data_ptr():
            gradient.copy_(logits)
        _launch(gradient, hard, soft, labels, targets, row_scale, blend, want_gradient=True)
        # Autograd sees no write of a kernel; who kept the logits for a backward pass must hear of it.
        torch.autograd.graph.increment_version(gradient)
        return hard, soft
    rows = min(R, max(1, COPY_BYTES // (V * logits.element_size())))
    copy = empty_rows(rows, V, logits.dtype, logits.device)
    for start in range(0, R, rows):
        piece = slice(start, min(start + rows, R))
        work = copy[: piece.stop - piece.start].copy_(logits[piece])
        part = None if targets is None else Targets(*(tensor[piece] for tensor in targets))
        _launch(
            work, hard[piece], soft[piece], None if labels is None else labels[piece], part,
            row_scale[piece], blend, want_gradient=False,
        )  # fmt: skip
    return hard, soft


def _launch(
    work: Tensor,
    hard: Tensor,
    soft: Tensor,
    labels: Tensor | None,
    targets: Targets | None,
    row_scale: Tensor,
    blend: Blend,
    *,
    want_gradient: bool,
) -> None:
    R, V = work.shape
    if R == 0:
        return
    K = 0 if targets is None else targets.ids.shape[1]
    nothing = row_scale  # a pointer for what the kernel will not read
    _row_kernel[(R,)](
        work,
        work.stride(0),
        nothing if targets is None else targets.ids.contiguous(),
        nothing if targets is None else targets.log_mass.contiguous(),
        nothing if targets is None else targets.log_rest.contiguous(),
        nothing if labels is None else labels.contiguous(),
        row_scale.contiguous(),
        hard,
        soft,
        V,
        K,
        blend.alpha,
        blend.temperature,
        blend.beta,
        HARD=labels is not None,
        SOFT=targets is not None,
        ONE_TEMPERATURE=blend.temperature == 1,
        GRADIENT=want_gradient,
        DIVERGENCE=NUMBERS[blend.divergence],
        BLOCK_K=max(2, 2 ** math.ceil(math.log2(max(1, K)))),
        **launch_options("row_losses", work.device, columns=V),
    )


@triton.jit
def _sweep(
    z, column, V, peak, total, cool_total, T, ONE_TEMPERATURE: tl.constexpr, MASKED: tl.constexpr
):
    """Take one block into the running maximum and the sums of exponentials at temperatures 1 and T."""
    x = load_block(z, column, V, MASKED)
    higher = tl.maximum(peak, tl.max(x, axis=0))
    base = finite_or_zero(higher)
    total = total * tl.exp(peak - base) + tl.sum(tl.exp(x - base), axis=0)
    if not ONE_TEMPERATURE:
        cool_total = cool_total * tl.exp((peak - base) / T) + tl.sum(tl.exp((x - base) / T), axis=0)
    return higher, total, cool_total


@triton.jit
def _gradient(
    z,
    column,
    V,
    base,
    hard_factor,
    soft_factor,
    T,
    ONE_TEMPERATURE: tl.constexpr,
    MASKED: tl.constexpr,
):
    """Overwrite one block of logits with the gradient that the columns outside the support have."""
    x = load_block(z, column, V, MASKED) - base
    if ONE_TEMPERATURE:
        by_logit = tl.exp(x) * (hard_factor + soft_factor)
    else:
        by_logit = tl.exp(x) * hard_factor + tl.exp(x / T) * soft_factor
    store_block(z, column, by_logit, V, MASKED)


@triton.jit
def _log_sum(x):
    """Log Σ exp of a vector, -inf where it is empty."""
    peak = finite_or_zero(tl.max(x, axis=0))
    return peak + tl.log(tl.sum(tl.exp(x - peak), axis=0))


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
    place = tl.full([BLOCK_K], -1, tl.int64)
    support = tl.full([BLOCK_K], -float("inf"), tl.float32)
    if SOFT:
        place = tl.load(ids + row * K + k, mask=k < K, other=-1)
        support = tl.load(z + place, mask=place >= 0, other=-float("inf")).to(tl.float32)
        tl.debug_barrier()  # read before they are lifted out
        tl.store(z + place, tl.full([BLOCK_K], -float("inf"), tl.float32), mask=place >= 0)
        tl.debug_barrier()  # lifted out before the sweep
    used = place >= 0

    peak = tl.full([], -float("inf"), tl.float32)
    total = tl.full([], 0.0, tl.float32)
    cool_total = tl.full([], 0.0, tl.float32)
    lane = tl.arange(0, BLOCK_V)
    edge = V // BLOCK_V * BLOCK_V  # the columns of whole blocks; what remains takes a mask
    for start in range(0, edge, BLOCK_V):
        peak, total, cool_total = _sweep(
            z, start + lane, V, peak, total, cool_total, T, ONE_TEMPERATURE, False
        )
    peak, total, cool_total = _sweep(
        z, edge + lane, V, peak, total, cool_total, T, ONE_TEMPERATURE, True
    )
    base = finite_or_zero(peak)
    if ONE_TEMPERATURE:
        cool_total = total

    hard_factor = tl.full([], 0.0, tl.float32)
    soft_factor = tl.full([], 0.0, tl.float32)
    pulled = tl.zeros([BLOCK_K], tl.float32)
    hard_share = (1.0 - alpha) * scale
    soft_share = alpha * T * scale  # T² / T: the logits enter divided by T
    if HARD:
        rest = base + tl.log(total)
        whole = log_add(rest, _log_sum(support))
        tl.store(hard_out + row, whole - label_logit)
        hard_factor = tl.where(total == 0, 0.0, hard_share * tl.exp(rest - whole) / total)
        pulled += hard_share * tl.exp(support - whole)
    if SOFT:
        log_t = tl.load(log_mass + row * K + k, mask=k < K, other=-float("inf"))
        rest = base / T + tl.log(cool_total)
        whole = log_add(rest, _log_sum(support / T))
        log_q = support / T - whole
        log_s = rest - whole
        terms, pulls = divergence_terms(log_t, log_q, beta, DIVERGENCE)
        rest_term, rest_pull = divergence_terms(tl.load(log_rest + row), log_s, beta, DIVERGENCE)
        total_pull = tl.sum(pulls, axis=0) + rest_pull
        tl.store(soft_out + row, (tl.sum(terms, axis=0) + rest_term) * T * T)
        by_rest = rest_pull - tl.exp(log_s) * total_pull
        soft_factor = tl.where(cool_total == 0, 0.0, soft_share * by_rest / cool_total)
        pulled += soft_share * (pulls - tl.exp(log_q) * total_pull)
    if GRADIENT:
        for start in range(0, edge, BLOCK_V):
            _gradient(z, start + lane, V, base, hard_factor, soft_factor, T, ONE_TEMPERATURE, False)
        _gradient(z, edge + lane, V, base, hard_factor, soft_factor, T, ONE_TEMPERATURE, True)
        tl.debug_barrier()  # the columns with a value of their own come last
        if SOFT:
            if HARD:
                pulled -= tl.where(place == label, hard_share, 0.0)
            tl.store(z + place, pulled, mask=used)
        if HARD:
            listed = tl.sum(tl.where(used & (place == label), 1, 0), axis=0) > 0
            x = label_logit - base
            by_label = tl.exp(x) * hard_factor + tl.exp(x / T) * soft_factor - hard_share
            tl.store(z + label, by_label, mask=listed == 0)
