"""Both maps tile by tile in Triton, flash-attention style (impl "triton").

Scores s = scale · q kᵀ are recomputed in every sweep and never leave the chip. With A = softmax(s) and D = A_s - A_t,

    Σ D²:                      ∂/∂s_s = 2 A_s ∘ (D - rowsum(A_s ∘ D))      the backward pass of a softmax
    Σ A_t (log A_t - log A_s): ∂/∂s_s = A_s - A_t
    ∂/∂q = scale · ∂/∂s k,   ∂/∂k = scale · (∂/∂s)ᵀ q.

One sweep over the keys finds of a block of query rows, by the online softmax (Milakov & Gimelshein 2018, Algorithm 3), both
log-partitions log Z and rowsum(A_s ∘ D) = Σ e_s² / Z_s² - Σ e_s e_t / (Z_s Z_t), where e = exp(s - running maximum) and the
sums are rescaled as Z is. A second sweep has the sum, from D itself, which does not cancel, and the gradient by the queries.
A second kernel, one block of keys against all rows, finds the gradient by the keys (as the backward pass of FlashAttention-2
does, Dao 2023), of scores laid out as [keys, rows], so that their gradient is multiplied as it stands.

That makes 2 + 3 + 3 products of S · S · d a head and 6 exponentials an entry. Queries and keys of a head are read S / 128 times
or so, mostly from the second-level cache; the gradients are written once, in the dtype that they are kept in. Sums are kept per
program and added up in a fixed order, so results are deterministic. Products accumulate in float32.
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
from kdkernels.attention_maps.blocks import Block, blocks_for
from kdkernels.attention_maps.map_sums import MapSums

# Triton's interpreter multiplies the bit patterns of bfloat16; the same products in float32 are exact.
INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")
LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)


def map_sums(
    q_s: Tensor, k_s: Tensor, q_t: Tensor, k_t: Tensor, comparison: Comparison, *, gradient: bool
) -> MapSums:
    """Sum the comparison over all tiles, in float32."""
    (q_s, k_s), (q_t, k_t) = _one_dtype(q_s, k_s), _one_dtype(q_t, k_t)
    batch, heads, length, width_s = q_s.shape
    width_t = q_t.shape[3]
    masked = comparison.mask is not None or comparison.reach is not None
    of_rows, of_keys = blocks_for(q_s, q_t, masked=masked)
    row_blocks, key_blocks = -(-length // of_rows[0]), -(-length // of_keys[1])
    device, mask, reach = q_s.device, comparison.mask, comparison.reach
    pairs, mse = batch * heads, comparison.divergence == "mse"
    numbers_of_rows = torch.empty(
        pairs * (3 * length + row_blocks), dtype=torch.float32, device=device
    )
    row_statistics, totals = numbers_of_rows.split([3 * pairs * length, pairs * row_blocks])
    dq, dk = (_gradient_buffer(operand, empty=not gradient) for operand in (q_s, k_s))
    if totals.numel() == 0:
        return MapSums(totals.sum(), 0, dq, dk)
    counts = totals if mask is None else torch.empty_like(totals, dtype=torch.int64)
    counted = comparison.counted_without_mask(batch=batch, heads=heads, length=length)
    is_mean = mask is None and comparison.divisor is None
    share = (1.0 if mse else LN_2.value) / (counted if is_mean else 1)
    factor = comparison.gradient_factor / counted if is_mean else 1.0
    tensors = (q_s, k_s, q_t, k_t, q_s if mask is None else mask.view(torch.uint8))
    strides = [stride for side in tensors[:4] for stride in side.stride()]
    mask_strides = (0, 0, 0) if mask is None else (*mask.stride(), 0)[:3]
    scales = comparison.scale_s * LOG2_E.value, comparison.scale_t * LOG2_E.value
    sizes = (*mask_strides, heads, length, reach or 0, *scales)
    options: dict[str, Any] = {
        "width_s": width_s,
        "width_t": width_t,
        "MSE": mse,
        "MASK_AXES": 0 if mask is None else mask.dim() - 1,
        "LOCAL": reach is not None,
        "WIDTH_S": _padded(width_s),
        "WIDTH_T": _padded(width_t),
    }
    _loss_and_dq_kernel[(row_blocks * pairs,)](
        *tensors, row_statistics, totals, counts, dq, *strides, *dq.stride(), *sizes, factor, share,
        GRADIENT=gradient, **options, **_block_options(of_rows, length, mask),
    )  # fmt: skip
    if gradient:
        _dk_kernel[(key_blocks * pairs,)](
            *tensors, row_statistics, dk, *strides, *dk.stride(), *sizes, factor,
            **options, **_block_options(of_keys, length, mask),
        )  # fmt: skip
    return MapSums(totals.sum(), counted if mask is None else counts.sum(), dq, dk, is_mean)


def _gradient_buffer(operand: Tensor, *, empty: bool) -> Tensor:
    """For the gradient by an operand, laid out as that: in its dtype where that has float32's range, else in float32."""
    dtype = operand.dtype if operand.dtype == torch.bfloat16 else torch.float32
    return torch.empty_like(operand[:0] if empty else operand, dtype=dtype)


def _padded(width: int) -> int:
    """A power of two that products can take, by plain Python: Triton's function is made for kernels, and slow outside."""
    return max(16, 1 << (width - 1).bit_length())


def _block_options(blocks: Block, length: int, mask: Tensor | None) -> dict[str, Any]:
    rows, keys, warps, stages = blocks
    padded = mask is not None and mask.dim() == 2
    return {
        "WHOLE": length % rows == 0 and length % keys == 0 and not padded,
        "ROWS": rows,
        "KEYS": keys,
        "num_warps": warps,
        "num_stages": stages,
    }


def _one_dtype(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Both in one dtype: autocast may leave rotary queries and keys in two."""
    if q.dtype == k.dtype:
        return q, k
    dtype = torch.promote_types(q.dtype, k.dtype)
    return q.to(dtype), k.to(dtype)


@triton.jit
def _first_vectors(x, strides, sequence, head, SIZE: tl.constexpr, WIDTH: tl.constexpr):
    """Where the first tokens' vectors of one head are: [SIZE, WIDTH]. Strides by batch, head, token and value."""
    token, lane = tl.arange(0, SIZE).to(tl.int64), tl.arange(0, WIDTH).to(tl.int64)
    start = x + sequence * strides[0] + head * strides[1]
    return start + token[:, None] * strides[2] + lane[None, :] * strides[3]


@triton.jit
def _load_vectors(
    first, start, stride, real, width: tl.constexpr, WIDTH: tl.constexpr, WHOLE: tl.constexpr
):
    """Vectors of the tokens from `start` on: [SIZE, WIDTH], zero outside."""
    where = first + tl.cast(start, tl.int64) * stride
    if WHOLE and width == WIDTH:
        return tl.load(where)
    else:
        return tl.load(
            where, mask=real[:, None] & (tl.arange(0, WIDTH) < width)[None, :], other=0.0
        )


@triton.jit
def _tokens(
    start, mask, mask_strides, sequence, length,
    MASK_AXES: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """Positions of a block of tokens, and which of them are real: [SIZE]."""
    at = start + tl.arange(0, SIZE)
    real = at < length
    if MASK_AXES == 1:
        where = mask + sequence * mask_strides[0] + at.to(tl.int64) * mask_strides[1]
        real = real & (tl.load(where, mask=real, other=0) != 0)
    return at, real


@triton.jit
def _product(a, b):
    if INTERPRETED:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), out_dtype=tl.float32)
    else:
        return tl.dot(a, b, input_precision="tf32x3", out_dtype=tl.float32)


@triton.jit
def _visible(
    row, row_real, key, key_real, mask, mask_strides, sequence, reach,
    MASK_AXES: tl.constexpr, LOCAL: tl.constexpr,
):  # fmt: skip
    """Which entries of a tile exist. Rows and keys are given as [n, 1] and [1, n], in the order of the tile's axes."""
    visible = row_real & key_real
    if LOCAL:
        visible = visible & (tl.abs(row - key) <= reach)
    if MASK_AXES == 2:
        where = mask + sequence * mask_strides[0]
        where += row.to(tl.int64) * mask_strides[1] + key.to(tl.int64) * mask_strides[2]
        visible = visible & (tl.load(where, mask=visible, other=0) != 0)
    return visible


@triton.jit
def _online_maximum(scores, row_max):
    """Of every row: the new maximum, 0 in place of it where nothing has been seen, and what shrinks sums to it."""
    new_max = tl.maximum(row_max, tl.max(scores, 1))
    base = tl.where(new_max == float("-inf"), 0.0, new_max)
    return new_max, base, tl.exp2(row_max - base)


@triton.jit
def _gradient_product(grad_scores, vectors):
    """grad_scores · vectors, in bfloat16 where the vectors are, else in float32: float16 would underflow."""
    if vectors.dtype == tl.bfloat16:
        return _product(grad_scores.to(tl.bfloat16), vectors)
    else:
        return _product(grad_scores, vectors.to(tl.float32))


@triton.jit
def _store_gradient(
    first,
    start,
    stride,
    gradient,
    at,
    length,
    width: tl.constexpr,
    WIDTH: tl.constexpr,
    WHOLE: tl.constexpr,
):
    """Write the gradient by some tokens' vectors [SIZE, WIDTH]."""
    where = first + tl.cast(start, tl.int64) * stride
    gradient = gradient.to(first.dtype.element_ty)
    if WHOLE and width == WIDTH:
        tl.store(where, gradient)
    else:
        tl.store(
            where, gradient, mask=(at < length)[:, None] & (tl.arange(0, WIDTH) < width)[None, :]
        )


@triton.jit
def _loss_and_dq_kernel(
    q_s, k_s, q_t, k_t, mask, row_statistics, totals, counts, dq,
    qs_b, qs_h, qs_s, qs_d, ks_b, ks_h, ks_s, ks_d,
    qt_b, qt_h, qt_s, qt_d, kt_b, kt_h, kt_s, kt_d,
    dq_b, dq_h, dq_s, dq_d, mask_b, mask_i, mask_j,
    heads, length, reach, scale_s, scale_t, factor, share, width_s: tl.constexpr, width_t: tl.constexpr,
    GRADIENT: tl.constexpr, MSE: tl.constexpr, MASK_AXES: tl.constexpr, LOCAL: tl.constexpr, WHOLE: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, WIDTH_S: tl.constexpr, WIDTH_T: tl.constexpr,
):  # fmt: skip
    """One block of query rows of one head against all keys: partitions, sum, count and dq.

    Scales are of exponents of 2; the sum is multiplied by `share`, dq by `factor`.
    """
    PLAIN: tl.constexpr = WHOLE and not LOCAL and MASK_AXES == 0
    program, blocks = tl.program_id(0), tl.cdiv(length, ROWS)
    block, pair = program % blocks, (program // blocks).to(tl.int64)
    all_rows = (tl.num_programs(0) // blocks).to(tl.int64) * length
    sequence, head = pair // heads, pair % heads
    mask_strides = (mask_b, mask_i, mask_j)
    row, row_real = _tokens(block * ROWS, mask, mask_strides, sequence, length, MASK_AXES, ROWS)
    first_qs = _first_vectors(q_s, (qs_b, qs_h, qs_s, qs_d), sequence, head, ROWS, WIDTH_S)
    first_qt = _first_vectors(q_t, (qt_b, qt_h, qt_s, qt_d), sequence, head, ROWS, WIDTH_T)
    first_ks = _first_vectors(k_s, (ks_b, ks_h, ks_s, ks_d), sequence, head, KEYS, WIDTH_S)
    first_kt = _first_vectors(k_t, (kt_b, kt_h, kt_s, kt_d), sequence, head, KEYS, WIDTH_T)
    queries_s = _load_vectors(first_qs, block * ROWS, qs_s, row_real, width_s, WIDTH_S, WHOLE)
    queries_t = _load_vectors(first_qt, block * ROWS, qt_s, row_real, width_t, WIDTH_T, WHOLE)
    first, last = 0, length
    if LOCAL:
        first = tl.maximum(0, block * ROWS - reach) // KEYS * KEYS
        last = tl.minimum(length, block * ROWS + ROWS + reach)

    max_s = tl.full([ROWS], float("-inf"), tl.float32)
    max_t = tl.full([ROWS], float("-inf"), tl.float32)
    sum_s = tl.zeros([ROWS], tl.float32)  # of exponentials
    sum_t = tl.zeros([ROWS], tl.float32)
    squares = tl.zeros([ROWS], tl.float32)
    crossed = tl.zeros([ROWS], tl.float32)
    keys_seen = tl.zeros([ROWS], tl.int32)
    for start in range(first, last, KEYS):
        key, key_real = _tokens(start, mask, mask_strides, sequence, length, MASK_AXES, KEYS)
        keys_s = _load_vectors(first_ks, start, ks_s, key_real, width_s, WIDTH_S, WHOLE)
        keys_t = _load_vectors(first_kt, start, kt_s, key_real, width_t, WIDTH_T, WHOLE)
        scores_s = _product(queries_s, tl.trans(keys_s)) * scale_s
        scores_t = _product(queries_t, tl.trans(keys_t)) * scale_t
        if not PLAIN:
            visible = _visible(
                row[:, None], row_real[:, None], key[None, :], key_real[None, :],
                mask, mask_strides, sequence, reach, MASK_AXES, LOCAL,
            )  # fmt: skip
            scores_s = tl.where(visible, scores_s, float("-inf"))
            scores_t = tl.where(visible, scores_t, float("-inf"))
            keys_seen += tl.sum(visible.to(tl.int32), 1)
        max_s, base_s, shrink_s = _online_maximum(scores_s, max_s)
        max_t, base_t, shrink_t = _online_maximum(scores_t, max_t)
        exp_s = tl.exp2(scores_s - base_s[:, None])
        exp_t = tl.exp2(scores_t - base_t[:, None])
        sum_s = sum_s * shrink_s + tl.sum(exp_s, 1)
        sum_t = sum_t * shrink_t + tl.sum(exp_t, 1)
        if MSE:
            squares = squares * (shrink_s * shrink_s) + tl.sum(exp_s * exp_s, 1)
            crossed = crossed * (shrink_s * shrink_t) + tl.sum(exp_s * exp_t, 1)
    # Rows that see nothing: anything finite will do, for their entries are never read.
    empty = sum_s == 0.0
    sum_s, sum_t = tl.where(empty, 1.0, sum_s), tl.where(empty, 1.0, sum_t)
    lse_s = tl.where(empty, 0.0, max_s) + tl.log2(sum_s)
    lse_t = tl.where(empty, 0.0, max_t) + tl.log2(sum_t)
    row_dot = (squares / sum_s - crossed / sum_t) / sum_s  # rowsum(A_s ∘ (A_s - A_t))

    total = tl.zeros([ROWS], tl.float32)
    dq_block = tl.zeros([ROWS, WIDTH_S], tl.float32)
    for start in range(first, last, KEYS):
        key, key_real = _tokens(start, mask, mask_strides, sequence, length, MASK_AXES, KEYS)
        keys_s = _load_vectors(first_ks, start, ks_s, key_real, width_s, WIDTH_S, WHOLE)
        keys_t = _load_vectors(first_kt, start, kt_s, key_real, width_t, WIDTH_T, WHOLE)
        log_s = _product(queries_s, tl.trans(keys_s)) * scale_s - lse_s[:, None]
        log_t = _product(queries_t, tl.trans(keys_t)) * scale_t - lse_t[:, None]
        map_s, map_t = tl.exp2(log_s), tl.exp2(log_t)
        if MSE:
            difference = map_s - map_t
            terms = difference * difference
            grad_scores = map_s * (difference - row_dot[:, None])
        else:
            terms = map_t * (log_t - log_s)
            grad_scores = map_s - map_t
        if not PLAIN:
            visible = _visible(
                row[:, None], row_real[:, None], key[None, :], key_real[None, :],
                mask, mask_strides, sequence, reach, MASK_AXES, LOCAL,
            )  # fmt: skip
            terms = tl.where(visible, terms, 0.0)
            grad_scores = tl.where(visible, grad_scores, 0.0)
        total += tl.sum(terms, 1)
        if GRADIENT:
            dq_block += _gradient_product(grad_scores, keys_s)

    if GRADIENT:
        first_dq = _first_vectors(dq, (dq_b, dq_h, dq_s, dq_d), sequence, head, ROWS, WIDTH_S)
        _store_gradient(
            first_dq, block * ROWS, dq_s, dq_block * factor, row, length, width_s, WIDTH_S, WHOLE
        )
        where = row_statistics + pair * length + row
        tl.store(where, lse_s, mask=row < length)
        tl.store(where + all_rows, lse_t, mask=row < length)
        tl.store(where + 2 * all_rows, row_dot, mask=row < length)
    tl.store(totals + program, tl.sum(total, 0) * share)
    if MASK_AXES > 0:
        counted = keys_seen if MSE else (keys_seen > 0).to(tl.int32)
        tl.store(counts + program, tl.sum(counted.to(tl.int64), 0))


@triton.jit
def _dk_kernel(
    q_s, k_s, q_t, k_t, mask, row_statistics, dk,
    qs_b, qs_h, qs_s, qs_d, ks_b, ks_h, ks_s, ks_d,
    qt_b, qt_h, qt_s, qt_d, kt_b, kt_h, kt_s, kt_d,
    dk_b, dk_h, dk_s, dk_d, mask_b, mask_i, mask_j,
    heads, length, reach, scale_s, scale_t, factor, width_s: tl.constexpr, width_t: tl.constexpr,
    MSE: tl.constexpr, MASK_AXES: tl.constexpr, LOCAL: tl.constexpr, WHOLE: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, WIDTH_S: tl.constexpr, WIDTH_T: tl.constexpr,
):  # fmt: skip
    """One block of keys of one head against all query rows: dk. Tiles are [KEYS, ROWS]."""
    PLAIN: tl.constexpr = WHOLE and not LOCAL and MASK_AXES == 0
    program, blocks = tl.program_id(0), tl.cdiv(length, KEYS)
    block, pair = program % blocks, (program // blocks).to(tl.int64)
    all_rows = (tl.num_programs(0) // blocks).to(tl.int64) * length
    sequence, head = pair // heads, pair % heads
    mask_strides = (mask_b, mask_i, mask_j)
    key, key_real = _tokens(block * KEYS, mask, mask_strides, sequence, length, MASK_AXES, KEYS)
    first_qs = _first_vectors(q_s, (qs_b, qs_h, qs_s, qs_d), sequence, head, ROWS, WIDTH_S)
    first_qt = _first_vectors(q_t, (qt_b, qt_h, qt_s, qt_d), sequence, head, ROWS, WIDTH_T)
    first_ks = _first_vectors(k_s, (ks_b, ks_h, ks_s, ks_d), sequence, head, KEYS, WIDTH_S)
    first_kt = _first_vectors(k_t, (kt_b, kt_h, kt_s, kt_d), sequence, head, KEYS, WIDTH_T)
    keys_s = _load_vectors(first_ks, block * KEYS, ks_s, key_real, width_s, WIDTH_S, WHOLE)
    keys_t = _load_vectors(first_kt, block * KEYS, kt_s, key_real, width_t, WIDTH_T, WHOLE)
    first, last = 0, length
    if LOCAL:
        first = tl.maximum(0, block * KEYS - reach) // ROWS * ROWS
        last = tl.minimum(length, block * KEYS + KEYS + reach)
    dk_block = tl.zeros([KEYS, WIDTH_S], tl.float32)
    for start in range(first, last, ROWS):
        row, row_real = _tokens(start, mask, mask_strides, sequence, length, MASK_AXES, ROWS)
        queries_s = _load_vectors(first_qs, start, qs_s, row_real, width_s, WIDTH_S, WHOLE)
        queries_t = _load_vectors(first_qt, start, qt_s, row_real, width_t, WIDTH_T, WHOLE)
        where = row_statistics + pair * length + row
        lse_s = tl.load(where, mask=row_real, other=0.0)
        lse_t = tl.load(where + all_rows, mask=row_real, other=0.0)
        map_s = tl.exp2(_product(keys_s, tl.trans(queries_s)) * scale_s - lse_s[None, :])
        map_t = tl.exp2(_product(keys_t, tl.trans(queries_t)) * scale_t - lse_t[None, :])
        if MSE:
            row_dot = tl.load(where + 2 * all_rows, mask=row_real, other=0.0)
            grad_scores = map_s * (map_s - map_t - row_dot[None, :])
        else:
            grad_scores = map_s - map_t
        if not PLAIN:
            visible = _visible(
                row[None, :], row_real[None, :], key[:, None], key_real[:, None],
                mask, mask_strides, sequence, reach, MASK_AXES, LOCAL,
            )  # fmt: skip
            grad_scores = tl.where(visible, grad_scores, 0.0)
        dk_block += _gradient_product(grad_scores, queries_s)
    first_dk = _first_vectors(dk, (dk_b, dk_h, dk_s, dk_d), sequence, head, KEYS, WIDTH_S)
    _store_gradient(
        first_dk, block * KEYS, dk_s, dk_block * factor, key, length, width_s, WIDTH_S, WHOLE
    )
