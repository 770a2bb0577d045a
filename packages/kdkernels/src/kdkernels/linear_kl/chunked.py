"""Both heads a chunk of rows at a time, from hidden states to the student's gradients.

For each chunk: both sets of logits into two buffers; the row losses turn the student's buffer into the gradient by
its logits; two more products give the gradients by its hidden states and weight.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from kdkernels.linear_distil_loss.chunked import Gradients, WeightGradient, finished
from kdkernels.linear_kl.columns import Columns
from kdkernels.linear_kl.heads import Head
from kdkernels.products import (
    dtype_of_gradient,
    empty_rows,
    float16_scale,
    product_into,
    sums_in_float32,
)


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
    rows = _chunk_rows(student, teacher, columns, chunk_bytes, exact)
    dtype, device = student.hidden.dtype, row_scale.device
    z_s = empty_rows(rows, student.weight.shape[0], exact, device)
    z_t = empty_rows(rows, teacher.weight.shape[0], exact, device)
    rounded = z_s if dtype == exact else empty_rows(rows, student.weight.shape[0], dtype, device)
    scale = float16_scale(row_scale, dtype, temperature=temperature)
    row_scale = row_scale if scale is None else row_scale * scale
    by_hidden = (
        torch.empty_like(student.hidden, dtype=dtype_of_gradient(dtype)) if wanted[0] else None
    )
    by_weight = WeightGradient(operands.weight, chunks=math.ceil(N / rows)) if wanted[1] else None
    by_bias = row_scale.new_zeros(student.weight.shape[0]) if wanted[2] else None
    values = row_scale.new_zeros(N)
    for start in range(0, N, rows):
        stop = min(start + rows, N)
        logits = student.logits(start, stop, z_s[: stop - start])
        real = logits[:, : columns.student]
        values[start:stop] = row_losses(
            real,
            _matched(teacher.logits(start, stop, z_t[: stop - start]), columns),
            row_scale=row_scale[start:stop],
            gradient=real if any(wanted) else None,
        )
        logits[:, columns.student :] = 0.0
        by_logits = rounded[: stop - start]
        if by_logits.dtype != exact:
            by_logits.copy_(logits)
        if by_hidden is not None:
            product_into(by_hidden[start:stop], by_logits, student.weight)
        if by_weight is not None:
            by_weight.add(by_logits, student.hidden[start:stop])
        if by_bias is not None:
            by_bias += by_logits.sum(dim=0, dtype=exact)
    sums = (by_hidden, None if by_weight is None else by_weight.sum, by_bias)
    return values, finished(sums, operands, scale)


def _chunk_rows(
    student: Head, teacher: Head, columns: Columns, chunk_bytes: int, exact: torch.dtype
) -> int:
    """Rows whose logits fit the budget, evened out over the chunks; at least one."""
    N = max(1, student.hidden.shape[0])
    of_teacher = teacher.weight.shape[0] + (0 if columns.source is None else columns.student)
    a_row = (student.weight.shape[0] + of_teacher) * exact.itemsize
    if student.hidden.dtype != exact:
        a_row += (
            student.weight.shape[0] * student.hidden.element_size()
        )  # the gradient, for its products
    chunks = math.ceil(N / max(1, chunk_bytes // a_row))
    return math.ceil(N / chunks)


def _matched(z: Tensor, columns: Columns) -> Tensor:
    """The teacher's logits in the order of the student's columns; -inf where the teacher has none."""
    if columns.source is None:
        return z[:, : columns.teacher]
    absent = columns.source < 0
    return z.index_select(1, columns.source.clamp(min=0)).masked_fill_(absent, -math.inf)
