# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# (what triton compiles is no typed Python)

"""Dense divergences in Triton: one program a row, both rows swept for their partitions, then for terms and gradient.

Imports triton: reached only once impl="triton" has been chosen.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kdkernels.divergence_kernel import (
    NUMBERS,
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
    values = torch.zeros(N, dtype=torch.float32, device=student.device)
    student = student if student.stride(1) == 1 else student.contiguous()
    teacher = teacher if teacher.stride(1) == 1 else teacher.contiguous()
    if N == 0:
        return values
    _divergence_kernel[(N,)](
        student,
        student.stride(0),
        teacher,
        teacher.stride(0),
        values if gradient is None else gradient,
        0 if gradient is None else gradient.stride(0),
        row_scale.contiguous(),
        values,
        V,
        temperature,
        beta,
        GRADIENT=gradient is not None,
        DIVERGENCE=NUMBERS[divergence],
        **launch_options("divergences", student.device, columns=V),
    )
    if gradient is not None:
        # Autograd sees no write of a kernel; who kept the logits for a backward pass must hear of it.
        torch.autograd.graph.increment_version(gradient)
    return values


@triton.jit
def _sweep(z, column, V, T, peak, total, MASKED: tl.constexpr):
    """Take one block into the running maximum and the sum of exponentials at temperature T."""
    x = load_block(z, column, V, MASKED) / T
    higher = tl.maximum(peak, tl.max(x, axis=0))
    base = finite_or_zero(higher)
    return higher, total * tl.exp(peak - base) + tl.sum(tl.exp(x - base), axis=0)


@triton.jit
def _log_partition(z, V, T, BLOCK_V: tl.constexpr):
    """Log Σ exp(z / T) over a row, in one sweep with a running maximum."""
    peak = tl.full([], -float("inf"), tl.float32)
    total = tl.full([], 0.0, tl.float32)
    lane = tl.arange(0, BLOCK_V)
    edge = V // BLOCK_V * BLOCK_V  # the columns of whole blocks; what remains takes a mask
    for start in range(0, edge, BLOCK_V):
        peak, total = _sweep(z, start + lane, V, T, peak, total, False)
    peak, total = _sweep(z, edge + lane, V, T, peak, total, True)
    return finite_or_zero(peak) + tl.log(total)


@triton.jit
def _terms(
    student,
    teacher,
    column,
    V,
    T,
    log_zs,
    log_zt,
    beta,
    DIVERGENCE: tl.constexpr,
    MASKED: tl.constexpr,
):
    """Log q, terms and pulls of one block of columns; 0 beyond the row."""
    log_q = load_block(student, column, V, MASKED) / T - log_zs
    log_p = load_block(teacher, column, V, MASKED) / T - log_zt
    terms, pulls = divergence_terms(log_p, log_q, beta, DIVERGENCE)
    if MASKED:
        terms = tl.where(column < V, terms, 0.0)
        pulls = tl.where(column < V, pulls, 0.0)
    return log_q, terms, pulls


@triton.jit
def _divergence_kernel(
    student,  # [N, V]
    student_stride,
    teacher,  # [N, V]
    teacher_stride,
    gradient,  # [N, V], may be the student's memory
    gradient_stride,
    row_scale,  # [N]
    values,  # [N]
    V,
    T,
    beta,
    GRADIENT: tl.constexpr,
    DIVERGENCE: tl.constexpr,
    BLOCK_V: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)  # int64: row times stride passes 2^31
    z = student + row * student_stride
    teacher_z = teacher + row * teacher_stride
    by_z = gradient + row * gradient_stride
    log_zs = _log_partition(z, V, T, BLOCK_V)
    log_zt = _log_partition(teacher_z, V, T, BLOCK_V)
    value = tl.full([], 0.0, tl.float32)
    total_pull = tl.full([], 0.0, tl.float32)
    lane = tl.arange(0, BLOCK_V)
    edge = V // BLOCK_V * BLOCK_V
    for start in range(0, edge, BLOCK_V):
        _, terms, pulls = _terms(
            z, teacher_z, start + lane, V, T, log_zs, log_zt, beta, DIVERGENCE, False
        )
        value += tl.sum(terms, axis=0)
        total_pull += tl.sum(pulls, axis=0)
    _, terms, pulls = _terms(
        z, teacher_z, edge + lane, V, T, log_zs, log_zt, beta, DIVERGENCE, True
    )
    value += tl.sum(terms, axis=0)
    total_pull += tl.sum(pulls, axis=0)
    tl.store(values + row, value * T * T)
    if GRADIENT:
        factor = tl.load(row_scale + row) * T  # T² / T: the logits enter divided by T
        for start in range(0, edge, BLOCK_V):
            log_q, _, pulls = _terms(
                z, teacher_z, start + lane, V, T, log_zs, log_zt, beta, DIVERGENCE, False
            )
            by_logit = (pulls - tl.exp(log_q) * total_pull) * factor
            store_block(by_z, start + lane, by_logit, V, False)
        log_q, _, pulls = _terms(
            z, teacher_z, edge + lane, V, T, log_zs, log_zt, beta, DIVERGENCE, True
        )
        by_logit = (pulls - tl.exp(log_q) * total_pull) * factor
        store_block(by_z, edge + lane, by_logit, V, True)
