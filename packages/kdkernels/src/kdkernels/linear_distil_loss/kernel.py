# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# (what triton compiles is no typed Python)

"""The linear distillation loss in half precision on tensor cores: the products end in the softmax.

In bfloat16 at one temperature the plane holds exponentials, and no pass over it stands between the products:

    for each chunk of rows h:                                                           # [R, H]
        z_k = h · W_k + b_k     of the label and the teacher's ids; their largest is the base      # [R, K + 1]
        e = exp(h Wᵀ + b - base)          the product's blocks end in it, and in their sums         # [R, V]
        loss, f                           from the sums and the z_k                                # [R], [R]
        e at the label and the ids        so that f e = ∂Σ row_scale · loss / ∂z
        dh = f (e W);   dW += eᵀ (f h);   db += eᵀ f                                 # [R, H], [V, H], [V]

The gradient of a row is its softmax times a factor but in the few columns that label and teacher name
(`topk_kl/chunked.py`): the factor goes to the small operands of the products. At two temperatures, and in float16, which has no
room for exponentials, the plane holds logits less the base, and the row kernel of `topk_kl` goes over it.

Bytes of an element of [N, V] beside those of the three products of plain formulae (2 written, twice 2 read): none, and 2 read for
the gradient by a bias; with logits in the plane 4 read and 2 written.

Imports triton: reached only once impl="triton" has been chosen.
"""

import functools
import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from kdkernels.column_sums_kernel import add_column_sums
from kdkernels.divergence_kernel import (
    DIVERGENCE_NUMBERS,
    LOG2_E,
    divergence_terms,
    log_add,
    log_sum_exp,
)
from kdkernels.loss_options import LossOptions
from kdkernels.products import (
    chunk_rows,
    dtype_of_gradient,
    float16_scale,
    padded_rows,
    plane_times_weight,
)
from kdkernels.projection_gradients import Gradients, WeightGradient, unscaled
from kdkernels.projection_kernel import project, sampled_base
from kdkernels.targets import Targets
from kdkernels.topk_kl import kernel as row_kernel


def losses_and_gradients(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    labels: Tensor,
    targets: Targets | None,
    row_scale: Tensor,
    options: LossOptions,
    wanted: tuple[bool, bool, bool],
    compute_dtype: torch.dtype,
    chunk_bytes: int,
) -> tuple[Tensor, Tensor, Gradients]:
    """As `chunked.losses_and_gradients`, with products in bfloat16 or float16."""
    (N, H), V = hidden.shape, weight.shape[0]
    h, W = hidden.to(compute_dtype).contiguous(), weight.to(compute_dtype).contiguous()
    b = None if bias is None else bias.to(compute_dtype).contiguous()
    labels = labels.contiguous()
    exponentials = compute_dtype == torch.bfloat16 and (targets is None or options.temperature == 1)
    scale = float16_scale(row_scale, compute_dtype, temperature=options.temperature)
    row_scale = row_scale if scale is None else row_scale * scale
    rows = chunk_rows(N, row_bytes=V * compute_dtype.itemsize, chunk_bytes=chunk_bytes)
    buffer = padded_rows(rows, V, torch.bfloat16 if exponentials else torch.float16, hidden.device)
    grad_hidden = torch.empty_like(h, dtype=dtype_of_gradient(compute_dtype)) if wanted[0] else None
    grad_weight = (
        WeightGradient(weight, chunks=math.ceil(N / rows), rows=buffer.shape[1])
        if wanted[1]
        else None
    )
    grad_bias = hidden.new_zeros(V, dtype=torch.float32) if wanted[2] else None
    hard, soft = hidden.new_zeros(2, N, dtype=torch.float32)
    compute = (
        _exponentials if exponentials else functools.partial(_logits, want_gradient=any(wanted))
    )
    for start in range(0, N, rows):
        part = slice(start, min(start + rows, N))
        plane, factor = compute(
            h[part], W, b, buffer[: part.stop - start], labels[part],
            None if targets is None else Targets(*(tensor[part] for tensor in targets)),
            row_scale[part], options, hard[part], soft[part],
        )  # fmt: skip
        if grad_hidden is not None:
            product = hidden.new_empty(len(plane), H, dtype=torch.float32)
            plane_times_weight(product, plane, W)
            if factor is not None:
                product *= factor.unsqueeze(1)
            grad_hidden[part] = product
        if grad_weight is not None:
            grad_weight.add(
                plane,
                h[part] if factor is None else (h[part] * factor.unsqueeze(1)).to(compute_dtype),
            )
        if grad_bias is not None:
            add_column_sums(grad_bias, plane, factor)
    sums = (grad_hidden, None if grad_weight is None else grad_weight.sum[:V], grad_bias)
    return hard, soft, unscaled(sums, (hidden, weight, bias), scale)


def _logits(
    h: Tensor,
    W: Tensor,
    b: Tensor | None,
    plane: Tensor,
    labels: Tensor,
    targets: Targets | None,
    row_scale: Tensor,
    options: LossOptions,
    hard: Tensor,
    soft: Tensor,
    *,
    want_gradient: bool,
) -> tuple[Tensor, None]:
    """Fill a plane [R, P] of float16 with the gradient by the logits, in the dtype of `h`."""
    base = sampled_base(h, W, b)
    project(h, W, b, base, plane, exponentials=False)
    gradient = plane.view(h.dtype)
    row_kernel.launch(
        plane, hard, soft, labels, targets, row_scale, options,
        columns=len(W), scale=1.0, gradient=gradient if want_gradient else None,
    )  # fmt: skip
    return gradient, None


def _exponentials(
    h: Tensor,
    W: Tensor,
    b: Tensor | None,
    plane: Tensor,
    labels: Tensor,
    targets: Targets | None,
    row_scale: Tensor,
    options: LossOptions,
    hard: Tensor,
    soft: Tensor,
) -> tuple[Tensor, Tensor]:
    """Fill a plane [R, P] with what, times a factor of each row, is the gradient by the logits; the factors [R]."""
    (R, H), K = h.shape, 0 if targets is None else targets.ids.shape[1]
    listed = h.new_empty(R, K + 1, dtype=torch.float32)
    base, factor = h.new_empty(2, R, dtype=torch.float32)
    unread = row_scale  # a pointer for what the kernels will not read
    ids = unread if targets is None else targets.ids.contiguous()
    _listed_kernel[(R,)](
        h, W, W if b is None else b, ids, labels, listed, base, K, H, BIAS=b is not None,
        BLOCK_H=triton.next_power_of_2(H), num_warps=4,
    )  # fmt: skip
    row_sums = project(h, W, b, base, plane, exponentials=True)
    blocks = row_sums.sums.shape[1]
    _finish_kernel[(R,)](
        plane, plane.stride(0), row_sums.base, row_sums.sums, blocks, listed, ids,
        unread if targets is None else targets.log_mass.contiguous(),
        unread if targets is None else targets.log_rest.contiguous(),
        labels, row_scale.contiguous(), hard, soft, factor, K, options.alpha, options.beta,
        SOFT=targets is not None, DIVERGENCE=DIVERGENCE_NUMBERS[options.divergence],
        BLOCK_K=max(2, triton.next_power_of_2(K)), BLOCKS=triton.next_power_of_2(blocks),
        COLUMNS=row_sums.columns, num_warps=4,
    )  # fmt: skip
    return plane, factor


@triton.jit
def _listed_kernel(
    h, W, b, ids, labels, listed, base, K, H, BIAS: tl.constexpr, BLOCK_H: tl.constexpr
):
    """Logits of a row's ids and, in the last place, of its label; the largest is the base."""
    row = tl.program_id(0).to(tl.int64)
    j = tl.arange(0, BLOCK_H)
    state = tl.load(h + row * H + j, mask=j < H, other=0.0).to(tl.float32)
    z = _logit(W, b, tl.load(labels + row).to(tl.int64), state, j, H, BIAS)
    tl.store(listed + row * (K + 1) + K, z)
    top = z
    for k in range(K):
        column = tl.load(ids + row * K + k).to(tl.int64)
        z = _logit(W, b, tl.maximum(column, 0), state, j, H, BIAS)
        z = tl.where(column >= 0, z, -float("inf"))
        top = tl.maximum(top, z)
        tl.store(listed + row * (K + 1) + k, z)
    top *= LOG2_E
    # A word that is barred has no logit near the others'; any base will do, for the product finds a better one.
    tl.store(base + row, tl.where(tl.abs(top) < 1e6, top, 0.0))


@triton.jit
def _logit(W, b, column, state, j, H, BIAS: tl.constexpr):
    vector = tl.load(W + column * H + j, mask=j < H, other=0.0).to(tl.float32)
    z = tl.sum(state * vector, axis=0)
    if BIAS:
        z += tl.load(b + column).to(tl.float32)
    return z


@triton.jit
def _finish_kernel(
    plane,  # [R, P] exponentials, in which those of label and ids are replaced
    stride,
    base,  # [R]
    sums,  # [R, blocks]
    blocks,
    listed,  # [R, K + 1]
    ids,  # [R, K]
    log_mass,  # [R, K]
    log_rest,  # [R]
    labels,  # [R]
    row_scale,  # [R]
    hard_out,  # [R]
    soft_out,  # [R]
    factor_out,  # [R]
    K,
    alpha,
    beta,
    SOFT: tl.constexpr,
    DIVERGENCE: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCKS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """From sums to losses, to each row's factor, and to the columns whose gradient is not the factor times the exponential."""
    row = tl.program_id(0).to(tl.int64)
    e_row = plane + row * stride
    k = tl.arange(0, BLOCK_K)
    of_row = tl.arange(0, BLOCKS)
    lane = tl.arange(0, COLUMNS)
    scale = tl.load(row_scale + row)
    log2_base = tl.load(base + row)
    parts = tl.load(sums + row * blocks + of_row, mask=of_row < blocks, other=0.0)
    label = tl.load(labels + row).to(tl.int64)
    label_logit = tl.load(listed + row * (K + 1) + K)
    topk_ids = tl.full([BLOCK_K], -1, tl.int64)
    topk_logits = tl.full([BLOCK_K], -float("inf"), tl.float32)
    if SOFT:
        topk_ids = tl.load(ids + row * K + k, mask=k < K, other=-1)
        topk_logits = tl.load(listed + row * (K + 1) + k, mask=k < K, other=-float("inf"))
        # The blocks of listed columns once more, without these: a difference of sums would cancel.
        for i in range(K):
            column = tl.load(ids + row * K + i)
            if column >= 0:
                block = column // COLUMNS
                columns = block * COLUMNS + lane
                e = tl.load(e_row + columns, mask=columns < stride, other=0.0).to(tl.float32)
                for j in range(K):
                    e = tl.where(columns == tl.load(ids + row * K + j), 0.0, e)
                parts = tl.where(of_row == block, tl.sum(e, axis=0), parts)
    sum_exp = tl.sum(parts, axis=0)
    lse_rest = log2_base / LOG2_E + tl.log(sum_exp)
    lse = log_add(lse_rest, log_sum_exp(topk_logits))
    hard_share = (1.0 - alpha) * scale
    soft_share = alpha * scale
    tl.store(hard_out + row, lse - label_logit)
    rest = hard_share * tl.exp(lse_rest - lse)  # the gradient of all other columns together
    topk_grad = hard_share * (tl.exp(topk_logits - lse) - tl.where(topk_ids == label, 1.0, 0.0))
    if SOFT:
        log_t = tl.load(log_mass + row * K + k, mask=k < K, other=-float("inf"))
        log_q = topk_logits - lse
        log_q_rest = lse_rest - lse
        terms, grad_log_q = divergence_terms(log_t, log_q, beta, DIVERGENCE)
        rest_term, grad_log_q_rest = divergence_terms(
            tl.load(log_rest + row), log_q_rest, beta, DIVERGENCE
        )
        grad_sum = tl.sum(grad_log_q, axis=0) + grad_log_q_rest
        tl.store(soft_out + row, tl.sum(terms, axis=0) + rest_term)
        rest += soft_share * (grad_log_q_rest - tl.exp(log_q_rest) * grad_sum)
        topk_grad += soft_share * (grad_log_q - tl.exp(log_q) * grad_sum)
    factor = tl.where(sum_exp == 0, 0.0, rest / sum_exp)
    label_listed = tl.sum(tl.where(topk_ids == label, 1, 0), axis=0) > 0
    # What the plane holds times the factor is the gradient; a factor too small to divide by is as good as 0.
    largest = tl.max(tl.where(topk_ids >= 0, tl.abs(topk_grad), 0.0), axis=0)
    least = tl.maximum(largest, tl.abs(hard_share)) * 5.169878828456423e-26  # 2^-84
    factor = tl.where(tl.abs(factor) < least, tl.where(factor < 0, -least, least), factor)
    tl.store(factor_out + row, factor)
    label_e = tl.exp2(label_logit * LOG2_E - log2_base) - tl.where(
        hard_share == 0, 0.0, hard_share / factor
    )
    tl.debug_barrier()  # all threads have read the plane before any column of it is replaced
    dtype = plane.dtype.element_ty
    if SOFT:
        tl.store(
            e_row + topk_ids,
            tl.where(topk_grad == 0, 0.0, topk_grad / factor).to(dtype),
            mask=topk_ids >= 0,
        )
    tl.store(e_row + label, label_e.to(dtype), mask=label_listed == 0)
