"""Both maps tile by tile in Triton, flash-attention style (impl "triton").

Scores are recomputed in every sweep and never leave the chip: one sweep over the keys finds both log-partitions of a
block of query rows, a second the sum and the row sums that the softmax gradient needs, a third the gradient by the
queries; a second kernel, one block of keys against all rows, finds the gradient by the keys. Sums are kept per
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
from kdkernels.attention_maps.blocks import blocks_for
from kdkernels.attention_maps.sums import MapSums

# Triton's interpreter multiplies the bit patterns of bfloat16; the same products in float32 are exact.
INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")


def walk(
    q_s: Tensor, k_s: Tensor, q_t: Tensor, k_t: Tensor, comparison: Comparison, *, gradient: bool
) -> MapSums:
    """Sum the comparison over all tiles, in float32."""
    (q_s, k_s), (q_t, k_t) = _alike(q_s, k_s), _alike(q_t, k_t)
    batch, heads, length, width_s = q_s.shape
    width_t = q_t.shape[3]
    rows, keys, warps, stages = blocks_for(q_s, q_t)
    device = q_s.device
    row_blocks, key_blocks = triton.cdiv(length, rows), triton.cdiv(length, keys)
    totals = torch.empty(batch * heads, row_blocks, dtype=torch.float32, device=device)
    counts = torch.empty_like(totals, dtype=torch.int64)
    per_row = torch.empty(3, batch * heads, length, dtype=torch.float32, device=device)
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
    _by_rows[(row_blocks * batch * heads,)](
        *tensors, per_row, totals, counts, dq, *strides, *sizes, *scales, GRADIENT=gradient, **options
    )  # fmt: skip
    if gradient:
        _by_keys[(key_blocks * batch * heads,)](
            *tensors, per_row, dk, *strides, *sizes, *scales, **options
        )
    return MapSums(totals.sum(dtype=torch.float64).float(), counts.sum(), dq, dk)


def _alike(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Both in one dtype: autocast may leave rotary queries and keys in two."""
    dtype = torch.promote_types(q.dtype, k.dtype)
    return q.to(dtype), k.to(dtype)


def _strides(sides: tuple[Tensor, ...], mask: Tensor | None) -> list[int]:
    of_sides = [stride for side in sides for stride in side.stride()]
    of_mask = [] if mask is None else list(mask.stride())
    return of_sides + of_mask + [0] * (3 - len(of_mask))


@triton.jit
def _load_side(
    start,
    strideb,
    strideh,
    strides,
    strided,
    sequence,
    head,
    at,
    inside,
    WIDTH: tl.constexpr,
    width,
):
    """Vectors of some tokens of one head: [len(at), WIDTH], zero outside."""
    lane = tl.arange(0, WIDTH).to(tl.int64)
    where = start + sequence * strideb + head * strideh
    where += at.to(tl.int64)[:, None] * strides + lane[None, :] * strided
    return tl.load(where, mask=inside[:, None] & (lane < width)[None, :], other=0.0)


@triton.jit
def _tokens(mask, mask_b, mask_i, sequence, at, length, MASK_AXES: tl.constexpr):
    """Which positions hold a real token: bool [len(at)]."""
    inside = at < length
    if MASK_AXES == 1:
        there = tl.load(mask + sequence * mask_b + at.to(tl.int64) * mask_i, mask=inside, other=0)
        inside = inside & (there != 0)
    return inside


@triton.jit
def _meet(
    mask, mask_b, mask_i, mask_j, sequence, row, key, row_in, key_in, reach,
    MASK_AXES: tl.constexpr, LOCAL: tl.constexpr,
):  # fmt: skip
    """Which entries of the tile exist: bool [len(row), len(key)]."""
    visible = row_in[:, None] & key_in[None, :]
    if LOCAL:
        visible = visible & (tl.abs(row[:, None] - key[None, :]) <= reach)
    if MASK_AXES == 2:
        where = mask + sequence * mask_b
        where += row.to(tl.int64)[:, None] * mask_i + key.to(tl.int64)[None, :] * mask_j
        visible = visible & (tl.load(where, mask=visible, other=0) != 0)
    return visible


@triton.jit
def _product(a, b):
    if INTERPRETED:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), out_dtype=tl.float32)
    else:
        return tl.dot(a, b, input_precision="tf32x3", out_dtype=tl.float32)


@triton.jit
def _grow(scores, visible, top, mass):
    """One step of an online log-sum-exp: the new (maximum, mass relative to it) of every row."""
    scores = tl.where(visible, scores, float("-inf"))
    higher = tl.maximum(top, tl.max(scores, 1))
    safe = tl.where(higher == float("-inf"), 0.0, higher)
    mass = mass * tl.exp(top - safe) + tl.sum(tl.exp(scores - safe[:, None]), 1)
    return higher, mass


@triton.jit
def _log_partition(top, mass):
    """Of every row; 0 for a row that sees nothing, whose entries are never read."""
    empty = mass == 0.0
    return tl.where(empty, 0.0, top + tl.log(tl.where(empty, 1.0, mass)))


@triton.jit
def _by_rows(
    q_s, k_s, q_t, k_t, mask, per_row, totals, counts, dq,
    qs_b, qs_h, qs_s, qs_d, ks_b, ks_h, ks_s, ks_d,
    qt_b, qt_h, qt_s, qt_d, kt_b, kt_h, kt_s, kt_d, mask_b, mask_i, mask_j,
    heads, length, width_s, width_t, reach, scale_s, scale_t,
    GRADIENT: tl.constexpr, MSE: tl.constexpr, MASK_AXES: tl.constexpr, LOCAL: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, WIDTH_S: tl.constexpr, WIDTH_T: tl.constexpr,
):  # fmt: skip
    """One block of query rows of one head against all keys: partitions, sum, count and dq."""
    program, blocks = tl.program_id(0), tl.cdiv(length, ROWS)
    block, pair = program % blocks, (program // blocks).to(tl.int64)
    rows_of_all = (tl.num_programs(0) // blocks).to(tl.int64) * length
    sequence, head = pair // heads, pair % heads
    row = block * ROWS + tl.arange(0, ROWS)
    row_in = _tokens(mask, mask_b, mask_i, sequence, row, length, MASK_AXES)
    rows_s = _load_side(q_s, qs_b, qs_h, qs_s, qs_d, sequence, head, row, row_in, WIDTH_S, width_s)
    rows_t = _load_side(q_t, qt_b, qt_h, qt_s, qt_d, sequence, head, row, row_in, WIDTH_T, width_t)
    first, last = 0, length
    if LOCAL:
        first = tl.maximum(0, block * ROWS - reach) // KEYS * KEYS
        last = tl.minimum(length, block * ROWS + ROWS + reach)

    top_s = tl.full([ROWS], float("-inf"), tl.float32)
    top_t = tl.full([ROWS], float("-inf"), tl.float32)
    mass_s = tl.zeros([ROWS], tl.float32)
    mass_t = tl.zeros([ROWS], tl.float32)
    seen = tl.zeros([ROWS], tl.int32)
    for start in range(first, last, KEYS):
        key = start + tl.arange(0, KEYS)
        key_in = _tokens(mask, mask_b, mask_i, sequence, key, length, MASK_AXES)
        visible = _meet(
            mask,
            mask_b,
            mask_i,
            mask_j,
            sequence,
            row,
            key,
            row_in,
            key_in,
            reach,
            MASK_AXES,
            LOCAL,
        )
        keys_s = _load_side(
            k_s, ks_b, ks_h, ks_s, ks_d, sequence, head, key, key_in, WIDTH_S, width_s
        )
        keys_t = _load_side(
            k_t, kt_b, kt_h, kt_s, kt_d, sequence, head, key, key_in, WIDTH_T, width_t
        )
        top_s, mass_s = _grow(_product(rows_s, tl.trans(keys_s)) * scale_s, visible, top_s, mass_s)
        top_t, mass_t = _grow(_product(rows_t, tl.trans(keys_t)) * scale_t, visible, top_t, mass_t)
        seen += tl.sum(visible.to(tl.int32), 1)
    lse_s, lse_t = _log_partition(top_s, mass_s), _log_partition(top_t, mass_t)

    total = tl.zeros([ROWS], tl.float32)
    slope = tl.zeros([ROWS], tl.float32)
    for start in range(first, last, KEYS):
        key = start + tl.arange(0, KEYS)
        key_in = _tokens(mask, mask_b, mask_i, sequence, key, length, MASK_AXES)
        visible = _meet(
            mask,
            mask_b,
            mask_i,
            mask_j,
            sequence,
            row,
            key,
            row_in,
            key_in,
            reach,
            MASK_AXES,
            LOCAL,
        )
        keys_s = _load_side(
            k_s, ks_b, ks_h, ks_s, ks_d, sequence, head, key, key_in, WIDTH_S, width_s
        )
        keys_t = _load_side(
            k_t, kt_b, kt_h, kt_s, kt_d, sequence, head, key, key_in, WIDTH_T, width_t
        )
        log_s = _product(rows_s, tl.trans(keys_s)) * scale_s - lse_s[:, None]
        log_t = _product(rows_t, tl.trans(keys_t)) * scale_t - lse_t[:, None]
        map_s = tl.where(visible, tl.exp(log_s), 0.0)
        map_t = tl.where(visible, tl.exp(log_t), 0.0)
        if MSE:
            total += tl.sum((map_s - map_t) * (map_s - map_t), 1)
            slope += tl.sum(map_s * (map_s - map_t), 1)
        else:
            total += tl.sum(tl.where(visible, map_t * (log_t - log_s), 0.0), 1)

    if GRADIENT:
        by_rows = tl.zeros([ROWS, WIDTH_S], tl.float32)
        for start in range(first, last, KEYS):
            key = start + tl.arange(0, KEYS)
            key_in = _tokens(mask, mask_b, mask_i, sequence, key, length, MASK_AXES)
            visible = _meet(
                mask,
                mask_b,
                mask_i,
                mask_j,
                sequence,
                row,
                key,
                row_in,
                key_in,
                reach,
                MASK_AXES,
                LOCAL,
            )
            keys_s = _load_side(
                k_s, ks_b, ks_h, ks_s, ks_d, sequence, head, key, key_in, WIDTH_S, width_s
            )
            keys_t = _load_side(
                k_t, kt_b, kt_h, kt_s, kt_d, sequence, head, key, key_in, WIDTH_T, width_t
            )
            log_s = _product(rows_s, tl.trans(keys_s)) * scale_s - lse_s[:, None]
            log_t = _product(rows_t, tl.trans(keys_t)) * scale_t - lse_t[:, None]
            by_scores = _by_scores(log_s, log_t, slope, visible, MSE)
            by_rows += _gradient_product(by_scores, keys_s)
        lane = tl.arange(0, WIDTH_S).to(tl.int64)
        where = dq + (pair * length + row.to(tl.int64))[:, None] * width_s + lane[None, :]
        tl.store(where, by_rows, mask=(row < length)[:, None] & (lane < width_s)[None, :])
        where = per_row + pair * length + row
        tl.store(where, lse_s, mask=row < length)
        tl.store(where + rows_of_all, lse_t, mask=row < length)
        tl.store(where + 2 * rows_of_all, slope, mask=row < length)

    tl.store(totals + program, tl.sum(total, 0))
    counted = seen if MSE else (seen > 0).to(tl.int32)
    tl.store(counts + program, tl.sum(counted.to(tl.int64), 0))


@triton.jit
def _by_scores(log_s, log_t, slope, visible, MSE: tl.constexpr):
    """The gradient by the student's scores; half of it for the squared difference."""
    map_s = tl.where(visible, tl.exp(log_s), 0.0)
    map_t = tl.where(visible, tl.exp(log_t), 0.0)
    if MSE:
        return map_s * (map_s - map_t - slope[:, None])
    else:
        return map_s - map_t


@triton.jit
def _gradient_product(by_scores, vectors):
    """by_scores · vectors, in bfloat16 where the vectors are, else in float32: float16 would underflow."""
    if vectors.dtype == tl.bfloat16:
        return _product(by_scores.to(tl.bfloat16), vectors)
    else:
        return _product(by_scores, vectors.to(tl.float32))


@triton.jit
def _by_keys(
    q_s, k_s, q_t, k_t, mask, per_row, dk,
    qs_b, qs_h, qs_s, qs_d, ks_b, ks_h, ks_s, ks_d,
    qt_b, qt_h, qt_s, qt_d, kt_b, kt_h, kt_s, kt_d, mask_b, mask_i, mask_j,
    heads, length, width_s, width_t, reach, scale_s, scale_t,
    MSE: tl.constexpr, MASK_AXES: tl.constexpr, LOCAL: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, WIDTH_S: tl.constexpr, WIDTH_T: tl.constexpr,
):  # fmt: skip
    """One block of keys of one head against all query rows: dk."""
    program, blocks = tl.program_id(0), tl.cdiv(length, KEYS)
    block, pair = program % blocks, (program // blocks).to(tl.int64)
    rows_of_all = (tl.num_programs(0) // blocks).to(tl.int64) * length
    sequence, head = pair // heads, pair % heads
    key = block * KEYS + tl.arange(0, KEYS)
    key_in = _tokens(mask, mask_b, mask_i, sequence, key, length, MASK_AXES)
    keys_s = _load_side(k_s, ks_b, ks_h, ks_s, ks_d, sequence, head, key, key_in, WIDTH_S, width_s)
    keys_t = _load_side(k_t, kt_b, kt_h, kt_s, kt_d, sequence, head, key, key_in, WIDTH_T, width_t)
    first, last = 0, length
    if LOCAL:
        first = tl.maximum(0, block * KEYS - reach) // ROWS * ROWS
        last = tl.minimum(length, block * KEYS + KEYS + reach)
    by_keys = tl.zeros([KEYS, WIDTH_S], tl.float32)
    for start in range(first, last, ROWS):
        row = start + tl.arange(0, ROWS)
        row_in = _tokens(mask, mask_b, mask_i, sequence, row, length, MASK_AXES)
        visible = _meet(
            mask,
            mask_b,
            mask_i,
            mask_j,
            sequence,
            row,
            key,
            row_in,
            key_in,
            reach,
            MASK_AXES,
            LOCAL,
        )
        rows_s = _load_side(
            q_s, qs_b, qs_h, qs_s, qs_d, sequence, head, row, row_in, WIDTH_S, width_s
        )
        rows_t = _load_side(
            q_t, qt_b, qt_h, qt_s, qt_d, sequence, head, row, row_in, WIDTH_T, width_t
        )
        where = per_row + pair * length + row
        lse_s = tl.load(where, mask=row_in, other=0.0)
        lse_t = tl.load(where + rows_of_all, mask=row_in, other=0.0)
        slope = tl.load(where + 2 * rows_of_all, mask=row_in, other=0.0)
        log_s = _product(rows_s, tl.trans(keys_s)) * scale_s - lse_s[:, None]
        log_t = _product(rows_t, tl.trans(keys_t)) * scale_t - lse_t[:, None]
        by_scores = _by_scores(log_s, log_t, slope, visible, MSE)
        by_keys += _gradient_product(tl.trans(by_scores), rows_s)
    lane = tl.arange(0, WIDTH_S).to(tl.int64)
    where = dk + (pair * length + key.to(tl.int64))[:, None] * width_s + lane[None, :]
    tl.store(where, by_keys, mask=(key < length)[:, None] & (lane < width_s)[None, :])
