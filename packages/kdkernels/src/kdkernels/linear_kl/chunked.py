"""Both heads a chunk of rows at a time, from hidden states to the student's gradients.

    for each chunk of rows h_s, h_t:                                                    # [R, H_s], [R, H_t]
        z_s, z_t = h_s W_sᵀ + b_s, h_t W_tᵀ + b_t          into two buffers             # [R, V_s], [R, V_t]
        loss, dz = rows(z_s, z_t), ∂Σ row_scale · loss / ∂z_s    over z_s, in place     # [R], [R, V_s]
        dh_s = dz W_s;   dW_s += dzᵀ h_s;   db_s += Σ dz                      # [R, H_s], [V_s, H_s], [V_s]

Nothing of size [N, V] exists unless the byte budget allows it, and the teacher gets no gradient.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from kdkernels.linear_kl.columns import Columns
from kdkernels.linear_kl.heads import Head
from kdkernels.products import (
    chunk_rows,
    dtype_of_gradient,
    empty_rows,
    float16_scale,
    product_into,
    sums_in_float32,
)
from kdkernels.projection_gradients import Gradients, WeightGradient, unscaled


@sums_in_float32()
def losses_and_gradients(
    student: Head,
    teacher: Head,
    columns: Columns,
    *,
    row_scale: Tensor,
    temperature: float,
    wanted: tuple[bool, bool, bool],
    operands: Head,
    chunk_bytes: int,
    row_losses: Callable[..., Tensor],
) -> tuple[Tensor, Gradients]:
    """T² D of each row, and the gradients of Σ row_scale · T² D by the student's operands.

    Args:
        student: its operands, in the dtype of the products.
        teacher: as `student`.
        columns: which logits are compared.
        row_scale: [N].
        temperature: T.
        wanted: whether the gradient by hidden, weight and bias is wanted.
        operands: the student's as they were given, whose dtypes their gradients take.
        chunk_bytes: bytes of both sides' logits; one row is the least.
        row_losses: from (logits, teacher's logits, row_scale=, gradient=) to losses, writing the gradient.

    Returns:
        [N] in the dtype of row_scale, and the gradients in the dtypes of their operands, in float32 for float16.
    """
    N, exact = student.hidden.shape[0], row_scale.dtype
    row_bytes = _row_bytes(student, teacher, columns, exact)
    rows = chunk_rows(N, row_bytes=row_bytes, chunk_bytes=chunk_bytes)
    dtype, device = student.hidden.dtype, row_scale.device
    z_s = empty_rows(rows, student.weight.shape[0], exact, device)
    z_t = empty_rows(rows, teacher.weight.shape[0], exact, device)
    rounded = z_s if dtype == exact else empty_rows(rows, student.weight.shape[0], dtype, device)
    scale = float16_scale(row_scale, dtype, temperature=temperature)
    row_scale = row_scale if scale is None else row_scale * scale
    grad_hidden = (
        torch.empty_like(student.hidden, dtype=dtype_of_gradient(dtype)) if wanted[0] else None
    )
    grad_weight = WeightGradient(operands.weight, chunks=math.ceil(N / rows)) if wanted[1] else None
    grad_bias = row_scale.new_zeros(student.weight.shape[0]) if wanted[2] else None
    losses = row_scale.new_zeros(N)
    for start in range(0, N, rows):
        stop = min(start + rows, N)
        logits = student.logits(start, stop, z_s[: stop - start])
        real = logits[:, : columns.student]
        losses[start:stop] = row_losses(
            real,
            _matched(teacher.logits(start, stop, z_t[: stop - start]), columns),
            row_scale=row_scale[start:stop],
            gradient=real if any(wanted) else None,
        )
        logits[:, columns.student :] = 0.0  # padding gets no gradient
        grad_logits = rounded[: stop - start]
        if grad_logits.dtype != exact:
            grad_logits.copy_(logits)
        if grad_hidden is not None:
            product_into(grad_hidden[start:stop], grad_logits, student.weight)
        if grad_weight is not None:
            grad_weight.add(grad_logits, student.hidden[start:stop])
        if grad_bias is not None:
            grad_bias += logits.sum(dim=0)
    sums = (grad_hidden, None if grad_weight is None else grad_weight.sum, grad_bias)
    return losses, unscaled(sums, operands, scale)


def _row_bytes(student: Head, teacher: Head, columns: Columns, exact: torch.dtype) -> int:
    """Of both sides' logits, of the teacher's in the student's order, and of the gradient rounded for its products."""
    V_s, V_t = student.weight.shape[0], teacher.weight.shape[0]
    matched = 0 if columns.source is None else columns.student
    rounded = 0 if student.hidden.dtype == exact else V_s * student.hidden.element_size()
    return (V_s + V_t + matched) * exact.itemsize + rounded


def _matched(z: Tensor, columns: Columns) -> Tensor:
    """The teacher's logits in the order of the student's columns; -inf where the teacher has none."""
    if columns.source is None:
        return z[:, : columns.teacher]
    absent = columns.source < 0
    return z.index_select(1, columns.source.clamp(min=0)).masked_fill_(absent, -math.inf)
