# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# (what triton compiles is no typed Python)

"""Dense divergences in Triton: one program a row, both rows swept for their partitions, then for terms and gradient.

Imports triton: reached only once impl="triton" has been chosen.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kdkernels.divergence_kernel import NUMBERS, divergence_terms, finite_or_zero
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
    return values


@triton.jit
def _log_partition(z, V, T, BLOCK_V: tl.constexpr):
    """Log Σ exp(z / T) over a row, in one sweep with a running maximum."""
    peak = tl.full([], -float("inf"), tl.float32)
    total = tl.full([], 0.0, tl.float32)
    for start in range(0, V, BLOCK_V):
        column = start + tl.arange(0, BLOCK_V)
        x = tl.load(z + column, mask=column < V, other=-float("inf")).to(tl.float32) / T
        higher = tl.maximum(peak, tl.max(x, axis=0))
        base = finite_or_zero(higher)
        total = total * tl.exp(peak - base) + tl.sum(tl.exp(x - base), axis=0)
        peak = higher
    return finite_or_zero(peak) + tl.log(total)


@triton.jit
def _terms(student, teacher, column, V, T, log_zs, log_zt, beta, DIVERGENCE: tl.constexpr):
    """Log q, terms and pulls of one block of columns; 0 beyond the row."""
    inside = column < V
    low = -float("inf")
    log_q = tl.load(student + column, mask=inside, other=low).to(tl.float32) / T - log_zs
    log_p = tl.load(teacher + column, mask=inside, other=low).to(tl.float32) / T - log_zt
    terms, pulls = divergence_terms(log_p, log_q, beta, DIVERGENCE)
    return log_q, tl.where(inside, terms, 0.0), tl.where(inside, pulls, 0.0)


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
    for start in range(0, V, BLOCK_V):
        column = start + tl.arange(0, BLOCK_V)
        _, terms, pulls = _terms(
            z, teacher_z, column, V, T, log_zs, log_zt, beta, DIVERGENCE
        )  # fmt: skip
        value += tl.sum(terms, axis=0)
        total_pull += tl.sum(pulls, axis=0)
    tl.store(values + row, value * T * T)
    if GRADIENT:
        factor = tl.load(row_scale + row) * T  # T² / T: the logits enter divided by T
        for start in range(0, V, BLOCK_V):
            column = start + tl.arange(0, BLOCK_V)
            log_q, _, pulls = _terms(
                z, teacher_z, column, V, T, log_zs, log_zt, beta, DIVERGENCE
            )  # fmt: skip
            by_logit = (pulls - tl.exp(log_q) * total_pull) * factor
            tl.store(by_z + column, by_logit, mask=column < V)
