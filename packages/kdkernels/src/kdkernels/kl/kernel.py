# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# (what triton compiles is no typed Python)

"""Dense divergences in Triton: one program a row, both rows swept for their partitions, then for terms and gradient.

log Z = log Σ exp(z / T) of a row takes one sweep by the online softmax (Milakov & Gimelshein 2018, Algorithm 3). With
g = ∂D/∂(log q) and G = Σ_v g_v, as `divergences` derives them, ∂(T² D)/∂z_v = T (g_v - q_v G): G takes a sweep of its
own, in which the value is summed too, and the gradient a last one.

Imports triton: reached only once impl="triton" has been chosen.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kdkernels.divergence_kernel import (
    DIVERGENCE_NUMBERS,
    divergence_terms,
    finite_or_zero,
    load_block,
    store_block,
)
from kdkernels.tuning import launch_options


def row_losses(
    student: Tensor,
    teacher: Tensor,
    *,
    row_scale: Tensor,
    temperature: float,
    divergence: str,
    beta: float,
    gradient: Tensor | None,
) -> Tensor:
    """As `chunked.row_losses`, for float32, float16 and bfloat16."""
    N, V = student.shape
    losses = torch.zeros(N, dtype=torch.float32, device=student.device)
    student = student if student.stride(1) == 1 else student.contiguous()
    teacher = teacher if teacher.stride(1) == 1 else teacher.contiguous()
    if N == 0:
        return losses
    _divergence_kernel[(N,)](
        student,
        student.stride(0),
        teacher,
        teacher.stride(0),
        losses if gradient is None else gradient,
        0 if gradient is None else gradient.stride(0),
        row_scale.contiguous(),
        losses,
        V,
        temperature,
        beta,
        GRADIENT=gradient is not None,
        DIVERGENCE=DIVERGENCE_NUMBERS[divergence],
        **launch_options("divergences", student.device, columns=V),
    )
    if gradient is not None:
        # Autograd sees no write of a kernel; who kept the logits for a backward pass must hear of it.
        torch.autograd.graph.increment_version(gradient)
    return losses


@triton.jit
def _online_softmax_update(z, column, V, T, row_max, sum_exp, MASKED: tl.constexpr):
    """Take one block into the running maximum and the sum of exponentials at temperature T."""
    x = load_block(z, column, V, MASKED) / T
    new_max = tl.maximum(row_max, tl.max(x, axis=0))
    base = finite_or_zero(new_max)
    return new_max, sum_exp * tl.exp(row_max - base) + tl.sum(tl.exp(x - base), axis=0)


@triton.jit
def _log_partition(z, V, T, BLOCK_V: tl.constexpr):
    """Log Σ exp(z / T) over a row, in one sweep with a running maximum."""
    row_max = tl.full([], -float("inf"), tl.float32)
    sum_exp = tl.full([], 0.0, tl.float32)
    lane = tl.arange(0, BLOCK_V)
    edge = V // BLOCK_V * BLOCK_V  # the columns of whole blocks; what remains takes a mask
    for start in range(0, edge, BLOCK_V):
        row_max, sum_exp = _online_softmax_update(z, start + lane, V, T, row_max, sum_exp, False)
    row_max, sum_exp = _online_softmax_update(z, edge + lane, V, T, row_max, sum_exp, True)
    return finite_or_zero(row_max) + tl.log(sum_exp)


@triton.jit
def _terms(
    student,
    teacher,
    column,
    V,
    T,
    lse_s,
    lse_t,
    beta,
    DIVERGENCE: tl.constexpr,
    MASKED: tl.constexpr,
):
    """Log q, terms and gradients by log q of one block of columns; the last two 0 beyond the row."""
    log_q = load_block(student, column, V, MASKED) / T - lse_s
    log_p = load_block(teacher, column, V, MASKED) / T - lse_t
    terms, grad_log_q = divergence_terms(log_p, log_q, beta, DIVERGENCE)
    if MASKED:
        terms = tl.where(column < V, terms, 0.0)
        grad_log_q = tl.where(column < V, grad_log_q, 0.0)
    return log_q, terms, grad_log_q


@triton.jit
def _divergence_kernel(
    student,  # [N, V]
    student_stride,
    teacher,  # [N, V]
    teacher_stride,
    gradient,  # [N, V], may be the student's memory
    gradient_stride,
    row_scale,  # [N]
    losses,  # [N]
    V,
    T,
    beta,
    GRADIENT: tl.constexpr,
    DIVERGENCE: tl.constexpr,
    BLOCK_V: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)  # int64: row times stride passes 2^31
    z_s = student + row * student_stride
    z_t = teacher + row * teacher_stride
    grad_row = gradient + row * gradient_stride
    lse_s = _log_partition(z_s, V, T, BLOCK_V)
    lse_t = _log_partition(z_t, V, T, BLOCK_V)
    loss = tl.full([], 0.0, tl.float32)
    grad_sum = tl.full([], 0.0, tl.float32)
    lane = tl.arange(0, BLOCK_V)
    edge = V // BLOCK_V * BLOCK_V
    for start in range(0, edge, BLOCK_V):
        _, terms, grad_log_q = _terms(
            z_s, z_t, start + lane, V, T, lse_s, lse_t, beta, DIVERGENCE, False
        )
        loss += tl.sum(terms, axis=0)
        grad_sum += tl.sum(grad_log_q, axis=0)
    _, terms, grad_log_q = _terms(z_s, z_t, edge + lane, V, T, lse_s, lse_t, beta, DIVERGENCE, True)
    loss += tl.sum(terms, axis=0)
    grad_sum += tl.sum(grad_log_q, axis=0)
    tl.store(losses + row, loss * T * T)
    if GRADIENT:
        factor = tl.load(row_scale + row) * T  # T² / T: the logits enter divided by T
        for start in range(0, edge, BLOCK_V):
            log_q, _, grad_log_q = _terms(
                z_s, z_t, start + lane, V, T, lse_s, lse_t, beta, DIVERGENCE, False
            )
            grad = (grad_log_q - tl.exp(log_q) * grad_sum) * factor
            store_block(grad_row, start + lane, grad, V, False)
        log_q, _, grad_log_q = _terms(
            z_s, z_t, edge + lane, V, T, lse_s, lse_t, beta, DIVERGENCE, True
        )
        grad = (grad_log_q - tl.exp(log_q) * grad_sum) * factor
        store_block(grad_row, edge + lane, grad, V, True)
