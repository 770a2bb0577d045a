"""Both maps tile by tile in Triton, flash-attention style (impl "triton").

Scores s = scale · q kᵀ are recomputed in every sweep and never leave the chip. With A = softmax(s) and D = A_s - A_t,

    Σ D²:                      ∂/∂s_s = 2 A_s ∘ (D - rowsum(A_s ∘ D))      the backward pass of a softmax
    Σ A_t (log A_t - log A_s): ∂/∂s_s = A_s - A_t
    ∂/∂q = scale · ∂/∂s k,   ∂/∂k = scale · (∂/∂s)ᵀ q.

One sweep over the keys finds both log-partitions of a block of query rows by the online softmax (Milakov & Gimelshein
2018, Algorithm 3), a second the sum and rowsum(A_s ∘ D), a third the gradient by the queries; a second kernel, one block
of keys against all rows, finds the gradient by the keys (as the backward pass of FlashAttention-2 does, Dao 2023). Sums
are kept per program and added up in a fixed order, so results are deterministic. Products accumulate in float32.
"""

# Kernels are typed by Triton when they are launched:
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

import os
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kdkernels.attention_maps.arguments import Comparison
from kdkernels.attention_maps.blocks import blocks_for
from kdkernels.attention_maps.map_sums import MapSums

# Triton's interpreter multiplies the bit patterns of bfloat16; the same products in float32 are exact.
INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")


def map_sums(
    q_s: Tensor, k_s: Tensor, q_t: Tensor, k_t: Tensor, comparison: Comparison, *, gradient: bool
) -> MapSums:
    """Sum the comparison over all tiles, in float32."""
    (q_s, k_s), (q_t, k_t) = _one_dtype(q_s, k_s), _one_dtype(q_t, k_t)
    batch, heads, length, width_s = q_s.shape
    width_t = q_t.shape[3]
    rows, keys, warps, stages = blocks_for(q_s, q_t)
    device = q_s.device
    row_blocks, key_blocks = triton.cdiv(length, rows), triton.cdiv(length, keys)
    totals = torch.empty(batch * heads, row_blocks, dtype=torch.float32, device=device)
    counts = torch.empty_like(totals, dtype=torch.int64)
    row_statistics = torch.empty(3, batch * heads, length, dtype=torch.float32, device=device)
    dq = torch.empty(q_s.shape if gradient else 0, dtype=torch.float32, device=device)
    dk = torch.empty_like(dq)
    if totals.numel() == 0:
        return MapSums(totals.sum(), counts.sum(), dq, dk)
    mask = comparison.mask
    tensors = (q_s, k_s, q_t, k_t, q_s if mask is None else mask.view(torch.uint8))
    strides = _strides(tensors[:4], mask)
    sizes = (heads, length, width_s, width_t, comparison.reach or 0)
    scales = (comparison.scale_s, comparison.scale_t)
    options: dict[str, Any] = {
        "MSE": comparison.divergence == "mse",
        "MASK_AXES": 0 if mask is None else mask.dim() - 1,
        "LOCAL": comparison.reach is not None,
        "ROWS": rows,
        "KEYS": keys,
        "WIDTH_S": max(16, triton.next_power_of_2(width_s)),
        "WIDTH_T": max(16, triton.next_power_of_2(width_t)),
        "num_warps": warps,
        "num_stages": stages,
    }
    _loss_and_dq_kernel[(row_blocks * batch * heads,)](
        *tensors, row_statistics, totals, counts, dq, *strides, *sizes, *scales, GRADIENT=gradient, **options
    )  # fmt: skip
    if gradient:
        _dk_kernel[(key_blocks * batch * heads,)](
            *tensors, row_statistics, dk, *strides, *sizes, *scales, **options
        )
    return MapSums(totals.sum(dtype=torch.float64).float(), counts.sum(), dq, dk)


def _one_dtype(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Both in one dtype: autocast may leave rotary queries and keys in two."""
    dtype = torch.promote_types(q.dtype, k.dtype)
    return q.to(dtype), k.to(dtype)


def _strides(sides: tuple[Tensor, ...], mask: Tensor | None) -> list[int]:
    of_sides = [stride for side in sides for stride in side.stride()]
    of_mask = [] if mask is None else list(mask.stride())
    return of_sides + of_mask + [0] * (3 - len(of_mask))


@triton.jit
def _load_vectors(x, strides, sequence, head, at, inside, WIDTH: tl.constexpr, width):
    """Vectors of some tokens of one head: [len(at), WIDTH], zero outside. Strides by batch, head, token and value."""
    lane = tl.arange(0, WIDTH).to(tl.int64)
    where = x + sequence * strides[0] + head * strides[1]
    where += at.to(tl.int64)[:, None] * strides[2] + lane[None, :] * strides[3]
    return tl.load(where, mask=inside[:, None] & (lane < width)[None, :], other=0.0)


@triton.jit
def _load_tokens(
    start, x_s, strides_s, x_t, strides_t, mask, mask_strides, sequence, head, length, width_s, width_t,
    MASK_AXES: tl.constexpr, SIZE: tl.constexpr, WIDTH_S: tl.constexpr, WIDTH_T: tl.constexpr,
):  # fmt: skip
    """A block of tokens of one head: positions, which of them are real [SIZE], vectors of both sides [SIZE, WIDTH]."""
    at = start + tl.arange(0, SIZE)
    real = at < length
    if MASK_AXES == 1:
        where = mask + sequence * mask_strides[0] + at.to(tl.int64) * mask_strides[1]
        real = real & (tl.load(where, mask=real, other=0) != 0)
    vectors_s = _load_vectors(x_s, strides_s, sequence, head, at, real, WIDTH_S, width_s)
    vectors_t = _load_vectors(x_t, strides_t, sequence, head, at, real, WIDTH_T, width_t)
    return at, real, vectors_s, vectors_t


@triton.jit
def _product(a, b):
    if INTERPRETED:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), out_dtype=tl.float32)
    else:
        return tl.dot(a, b, input_precision="tf32x3", out_dtype=tl.float32)


@triton.jit
def _score_tile(
    queries, keys, scales, mask, mask_strides, sequence, reach,
    MASK_AXES: tl.constexpr, LOCAL: tl.constexpr,
):  # fmt: skip
    """Of two blocks of tokens: which entries exist, and both sides' scores [len(queries), len(keys)]."""
    row, row_real, queries_s, queries_t = queries
    key, key_real, keys_s, keys_t = keys
    visible = row_real[:, None] & key_real[None, :]
    if LOCAL:
        visible = visible & (tl.abs(row[:, None] - key[None, :]) <= reach)
    if MASK_AXES == 2:
        where = mask + sequence * mask_strides[0]
        where += row.to(tl.int64)[:, None] * mask_strides[1]
        where += key.to(tl.int64)[None, :] * mask_strides[2]
        visible = visible & (tl.load(where, mask=visible, other=0) != 0)
    scores_s = _product(queries_s, tl.trans(keys_s)) * scales[0]
    scores_t = _product(queries_t, tl.trans(keys_t)) * scales[1]
    return visible, scores_s, scores_t


@triton.jit
def _online_softmax_update(scores, visible, row_max, sum_exp):
    """Take one tile into the running maximum of every row, and the sum of exponentials relative to it."""
    scores = tl.where(visible, scores, float("-inf"))
    new_max = tl.maximum(row_max, tl.max(scores, 1))
    base = tl.where(new_max == float("-inf"), 0.0, new_max)
    sum_exp = sum_exp * tl.exp(row_max - base) + tl.sum(tl.exp(scores - base[:, None]), 1)
    return new_max, sum_exp


@triton.jit
def _log_partition(row_max, sum_exp):
    """Of every row; 0 for a row that sees nothing, whose entries are never read."""
    empty = sum_exp == 0.0
    return tl.where(empty, 0.0, row_max + tl.log(tl.where(empty, 1.0, sum_exp)))


@triton.jit
def _grad_scores(log_s, log_t, row_dot, visible, MSE: tl.constexpr):
    """The gradient by the student's scores; half of it for the squared difference."""
    map_s = tl.where(visible, tl.exp(log_s), 0.0)
    map_t = tl.where(visible, tl.exp(log_t), 0.0)
    if MSE:
        return map_s * (map_s - map_t - row_dot[:, None])
    else:
        return map_s - map_t


@triton.jit
def _gradient_product(grad_scores, vectors):
    """grad_scores · vectors, in bfloat16 where the vectors are, else in float32: float16 would underflow."""
    if vectors.dtype == tl.bfloat16:
        return _product(grad_scores.to(tl.bfloat16), vectors)
    else:
        return _product(grad_scores, vectors.to(tl.float32))


@triton.jit
def _store_gradient(out, gradient, pair, at, length, width, WIDTH: tl.constexpr):
    """Write the gradient by some tokens' vectors [len(at), WIDTH] to `out` [B · h, S, width]."""
    lane = tl.arange(0, WIDTH).to(tl.int64)
    where = out + (pair * length + at.to(tl.int64))[:, None] * width + lane[None, :]
    tl.store(where, gradient, mask=(at < length)[:, None] & (lane < width)[None, :])


@triton.jit
def _loss_and_dq_kernel(
    q_s, k_s, q_t, k_t, mask, row_statistics, totals, counts, dq,
    qs_b, qs_h, qs_s, qs_d, ks_b, ks_h, ks_s, ks_d,
    qt_b, qt_h, qt_s, qt_d, kt_b, kt_h, kt_s, kt_d, mask_b, mask_i, mask_j,
    heads, length, width_s, width_t, reach, scale_s, scale_t,
    GRADIENT: tl.constexpr, MSE: tl.constexpr, MASK_AXES: tl.constexpr, LOCAL: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, WIDTH_S: tl.constexpr, WIDTH_T: tl.constexpr,
):  # fmt: skip
    """One block of query rows of one head against all keys: partitions, sum, count and dq."""
    strides_qs, strides_qt = (qs_b, qs_h, qs_s, qs_d), (qt_b, qt_h, qt_s, qt_d)
    strides_ks, strides_kt = (ks_b, ks_h, ks_s, ks_d), (kt_b, kt_h, kt_s, kt_d)
    mask_strides, scales = (mask_b, mask_i, mask_j), (scale_s, scale_t)
    program, blocks = tl.program_id(0), tl.cdiv(length, ROWS)
    block, pair = program % blocks, (program // blocks).to(tl.int64)
    all_rows = (tl.num_programs(0) // blocks).to(tl.int64) * length
    sequence, head = pair // heads, pair % heads
    queries = _load_tokens(
        block * ROWS, q_s, strides_qs, q_t, strides_qt, mask, mask_strides, sequence, head, length,
        width_s, width_t, MASK_AXES, ROWS, WIDTH_S, WIDTH_T,
    )  # fmt: skip
    first, last = 0, length
    if LOCAL:
        first = tl.maximum(0, block * ROWS - reach) // KEYS * KEYS
        last = tl.minimum(length, block * ROWS + ROWS + reach)

    max_s = tl.full([ROWS], float("-inf"), tl.float32)
    max_t = tl.full([ROWS], float("-inf"), tl.float32)
    sum_exp_s = tl.zeros([ROWS], tl.float32)
    sum_exp_t = tl.zeros([ROWS], tl.float32)
    keys_seen = tl.zeros([ROWS], tl.int32)
    for start in range(first, last, KEYS):
        keys = _load_tokens(
            start, k_s, strides_ks, k_t, strides_kt, mask, mask_strides, sequence, head, length,
            width_s, width_t, MASK_AXES, KEYS, WIDTH_S, WIDTH_T,
        )  # fmt: skip
        visible, scores_s, scores_t = _score_tile(
            queries, keys, scales, mask, mask_strides, sequence, reach, MASK_AXES, LOCAL
        )
        max_s, sum_exp_s = _online_softmax_update(scores_s, visible, max_s, sum_exp_s)
        max_t, sum_exp_t = _online_softmax_update(scores_t, visible, max_t, sum_exp_t)
        keys_seen += tl.sum(visible.to(tl.int32), 1)
    lse_s, lse_t = _log_partition(max_s, sum_exp_s), _log_partition(max_t, sum_exp_t)

    total = tl.zeros([ROWS], tl.float32)
    row_dot = tl.zeros([ROWS], tl.float32)  # rowsum(A_s ∘ (A_s - A_t))
    for start in range(first, last, KEYS):
        keys = _load_tokens(
            start, k_s, strides_ks, k_t, strides_kt, mask, mask_strides, sequence, head, length,
            width_s, width_t, MASK_AXES, KEYS, WIDTH_S, WIDTH_T,
        )  # fmt: skip
        visible, scores_s, scores_t = _score_tile(
            queries, keys, scales, mask, mask_strides, sequence, reach, MASK_AXES, LOCAL
        )
        log_s, log_t = scores_s - lse_s[:, None], scores_t - lse_t[:, None]
        map_s = tl.where(visible, tl.exp(log_s), 0.0)
        map_t = tl.where(visible, tl.exp(log_t), 0.0)
        if MSE:
            total += tl.sum((map_s - map_t) * (map_s - map_t), 1)
            row_dot += tl.sum(map_s * (map_s - map_t), 1)
        else:
            total += tl.sum(tl.where(visible, map_t * (log_t - log_s), 0.0), 1)

    row = queries[0]
    if GRADIENT:
        dq_block = tl.zeros([ROWS, WIDTH_S], tl.float32)
        for start in range(first, last, KEYS):
            keys = _load_tokens(
                start, k_s, strides_ks, k_t, strides_kt, mask, mask_strides, sequence, head, length,
                width_s, width_t, MASK_AXES, KEYS, WIDTH_S, WIDTH_T,
            )  # fmt: skip
            visible, scores_s, scores_t = _score_tile(
                queries, keys, scales, mask, mask_strides, sequence, reach, MASK_AXES, LOCAL
            )
            log_s, log_t = scores_s - lse_s[:, None], scores_t - lse_t[:, None]
            grad_scores = _grad_scores(log_s, log_t, row_dot, visible, MSE)
            dq_block += _gradient_product(grad_scores, keys[2])
        _store_gradient(dq, dq_block, pair, row, length, width_s, WIDTH_S)
        where = row_statistics + pair * length + row
        tl.store(where, lse_s, mask=row < length)
        tl.store(where + all_rows, lse_t, mask=row < length)
        tl.store(where + 2 * all_rows, row_dot, mask=row < length)

    tl.store(totals + program, tl.sum(total, 0))
    counted = keys_seen if MSE else (keys_seen > 0).to(tl.int32)
    tl.store(counts + program, tl.sum(counted.to(tl.int64), 0))


@triton.jit
def _dk_kernel(
    q_s, k_s, q_t, k_t, mask, row_statistics, dk,
    qs_b, qs_h, qs_s, qs_d, ks_b, ks_h, ks_s, ks_d,
    qt_b, qt_h, qt_s, qt_d, kt_b, kt_h, kt_s, kt_d, mask_b, mask_i, mask_j,
    heads, length, width_s, width_t, reach, scale_s, scale_t,
    MSE: tl.constexpr, MASK_AXES: tl.constexpr, LOCAL: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, WIDTH_S: tl.constexpr, WIDTH_T: tl.constexpr,
):  # fmt: skip
    """One block of keys of one head against all query rows: dk."""
    strides_qs, strides_qt = (qs_b, qs_h, qs_s, qs_d), (qt_b, qt_h, qt_s, qt_d)
    strides_ks, strides_kt = (ks_b, ks_h, ks_s, ks_d), (kt_b, kt_h, kt_s, kt_d)
    mask_strides, scales = (mask_b, mask_i, mask_j), (scale_s, scale_t)
    program, blocks = tl.program_id(0), tl.cdiv(length, KEYS)
    block, pair = program % blocks, (program // blocks).to(tl.int64)
    all_rows = (tl.num_programs(0) // blocks).to(tl.int64) * length
    sequence, head = pair // heads, pair % heads
    keys = _load_tokens(
        block * KEYS, k_s, strides_ks, k_t, strides_kt, mask, mask_strides, sequence, head, length,
        width_s, width_t, MASK_AXES, KEYS, WIDTH_S, WIDTH_T,
    )  # fmt: skip
    first, last = 0, length
    if LOCAL:
        first = tl.maximum(0, block * KEYS - reach) // ROWS * ROWS
        last = tl.minimum(length, block * KEYS + KEYS + reach)
    dk_block = tl.zeros([KEYS, WIDTH_S], tl.float32)
    for start in range(first, last, ROWS):
        queries = _load_tokens(
            start, q_s, strides_qs, q_t, strides_qt, mask, mask_strides, sequence, head, length,
            width_s, width_t, MASK_AXES, ROWS, WIDTH_S, WIDTH_T,
        )  # fmt: skip
        visible, scores_s, scores_t = _score_tile(
            queries, keys, scales, mask, mask_strides, sequence, reach, MASK_AXES, LOCAL
        )
        row, row_real, queries_s, _ = queries
        where = row_statistics + pair * length + row
        lse_s = tl.load(where, mask=row_real, other=0.0)
        lse_t = tl.load(where + all_rows, mask=row_real, other=0.0)
        row_dot = tl.load(where + 2 * all_rows, mask=row_real, other=0.0)
        log_s, log_t = scores_s - lse_s[:, None], scores_t - lse_t[:, None]
        grad_scores = _grad_scores(log_s, log_t, row_dot, visible, MSE)
        dk_block += _gradient_product(tl.trans(grad_scores), queries_s)
    _store_gradient(dk, dk_block, pair, keys[0], length, width_s, WIDTH_S)
