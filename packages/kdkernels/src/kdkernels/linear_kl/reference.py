"""`linear_kl` with both sets of logits in memory: the specification."""

import math

from torch import Tensor

from kdkernels.kl import reference
from kdkernels.linear_kl.columns import Columns
from kdkernels.linear_kl.heads import Head
from kdkernels.precision import accumulation_dtype


def losses(
    student: Head,
    teacher: Head,
    columns: Columns,
    *,
    temperature: float,
    divergence: str,
    beta: float,
) -> Tensor:
    """T² D of each row, [N]; float64 in float64, everything else in float32; differentiable by the student."""
    z_s = _logits(student)[:, : columns.student]
    z_t = _logits(teacher)[:, : columns.teacher]
    if columns.source is not None:
        z_t = z_t[:, columns.source.clamp(min=0)].masked_fill(columns.source < 0, -math.inf)
    return reference.losses(z_s, z_t, temperature=temperature, divergence=divergence, beta=beta)


def _logits(head: Head) -> Tensor:
    exact = accumulation_dtype(head.weight.dtype)
    z = head.hidden.to(exact) @ head.weight.to(exact).t()
    return z if head.bias is None else z + head.bias.to(exact)
