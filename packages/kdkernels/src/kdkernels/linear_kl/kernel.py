"""Both heads on tensor cores, in bfloat16 or float16: log-probabilities out of the products, one pass to the gradient.

    for each chunk of rows h_s, h_t:                                                    # [R, H_s], [R, H_t]
        x_s, x_t = (h W^T + b) / T - base, by the student's columns, and the sums of their exponentials       # [R, V]
        loss, dz                              from x_s, x_t, written over x_s                                 # [R], [R, V]
        dh_s = dz W_s;   dW_s += dz^T h_s;   db_s += sum dz                            # [R, H_s], [V, H_s], [V]

The products know bias, temperature and the map of the columns, and leave sums from which each row's partition follows
(`projection_kernel`). The forward KL then takes one sweep over both planes, for the sum over g is -1 (`divergences`); the other
divergences take one for that sum, and one for the gradient.

Bytes of an element of [N, V] beside those of the four products of plain formulae (each plane written once, the student's
gradient read twice): 4 read and 2 written for the forward KL, 8 and 2 for the others.

Imports triton: reached only once impl="triton" has been chosen.
"""

import math

import torch
from torch import Tensor

from kdkernels.column_sums_kernel import add_column_sums
from kdkernels.kl.kernel import launch
from kdkernels.linear_kl.columns import Columns
from kdkernels.linear_kl.heads import Head
from kdkernels.products import (
    chunk_rows,
    dtype_of_gradient,
    float16_scale,
    padded_rows,
    plane_times_weight,
)
from kdkernels.projection_gradients import Gradients, WeightGradient, unscaled
from kdkernels.projection_kernel import project, sampled_base


def losses_and_gradients(
    student: Head,
    teacher: Head,
    columns: Columns,
    *,
    row_scale: Tensor,
    temperature: float,
    divergence: str,
    beta: float,
    wanted: tuple[bool, bool, bool],
    operands: Head,
    chunk_bytes: int,
) -> tuple[Tensor, Gradients]:
    """As `chunked.losses_and_gradients`, for operands in half precision."""
    student, teacher = student.contiguous(), _reordered(teacher, columns).contiguous()
    N, V = student.hidden.shape[0], student.weight.shape[0]
    dtype, device = student.hidden.dtype, row_scale.device
    rows = chunk_rows(N, row_bytes=4 * V, chunk_bytes=chunk_bytes)
    plane_s, plane_t = (padded_rows(rows, V, torch.float16, device) for _ in range(2))
    scale = float16_scale(row_scale, dtype, temperature=temperature)
    row_scale = row_scale if scale is None else row_scale * scale
    grad_hidden = (
        torch.empty_like(student.hidden, dtype=dtype_of_gradient(dtype)) if wanted[0] else None
    )
    grad_weight = (
        WeightGradient(operands.weight, chunks=math.ceil(N / max(1, rows)), rows=plane_s.shape[1])
        if wanted[1]
        else None
    )
    grad_bias = row_scale.new_zeros(V) if wanted[2] else None
    losses = row_scale.new_zeros(N)
    for start in range(0, N, rows):
        part = slice(start, min(start + rows, N))
        x_s, x_t = plane_s[: part.stop - start], plane_t[: part.stop - start]
        sums = []
        for head, plane in ((student, x_s), (teacher, x_t)):
            hidden = head.hidden[part]
            base = sampled_base(hidden, head.weight, head.bias, temperature=temperature)
            sums.append(
                project(
                    hidden, head.weight, head.bias, base, plane, exponentials=False,
                    temperature=temperature, columns=columns.student,
                ).sums
            )  # fmt: skip
        grad_logits = x_s.view(dtype)
        launch(
            x_s, x_t, losses[part], row_scale=row_scale[part], columns=columns.student, scale=1.0,
            temperature=temperature, divergence=divergence, beta=beta,
            gradient=grad_logits if any(wanted) else None, sums=(sums[0], sums[1]),
        )  # fmt: skip
        if grad_hidden is not None:
            plane_times_weight(grad_hidden[part], grad_logits, student.weight)
        if grad_weight is not None:
            grad_weight.add(grad_logits, student.hidden[part])
        if grad_bias is not None:
            add_column_sums(grad_bias, grad_logits)
    total = None if grad_weight is None else grad_weight.sum[:V]
    return losses, unscaled((grad_hidden, total, grad_bias), operands, scale)


def _reordered(teacher: Head, columns: Columns) -> Head:
    """The teacher's head with a column for each of the student's, whose logit is -inf where the teacher has none."""
    if columns.source is None:
        return teacher
    source = columns.source.clamp(min=0)
    bias = torch.zeros_like(teacher.weight[:, 0]) if teacher.bias is None else teacher.bias
    return Head(
        teacher.hidden,
        teacher.weight.index_select(0, source),
        bias.index_select(0, source).masked_fill_(columns.source < 0, -math.inf),
    )
