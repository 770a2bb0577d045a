# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# (what triton compiles is no typed Python)

"""The gradient by a bias: sums over the rows of a plane, in float32 and always in one order.

Imports triton: reached only once impl="triton" has been chosen.
"""

import triton
import triton.language as tl
from torch import Tensor


def add_column_sums(total: Tensor, plane: Tensor, factor: Tensor | None = None) -> None:
    """Add Σ over rows of factor · plane to `total`. [V], [R, P], [R] or None for ones; P is at least V."""
    R, P = plane.shape
    _column_sums_kernel[(triton.cdiv(P, 256),)](
        plane, plane.stride(0), total if factor is None else factor, total, R, P, len(total),
        FACTOR=factor is not None, COLUMNS=256, ROWS=32, num_warps=8,
    )  # fmt: skip


@triton.jit
def _column_sums_kernel(
    plane, stride, factor, total, R, P, V,
    FACTOR: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    sums = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in range(0, R, ROWS):
        row = start + tl.arange(0, ROWS)
        value = tl.load(
            plane + row.to(tl.int64)[:, None] * stride + column[None, :],
            mask=(row < R)[:, None] & (column < P)[None, :],
            other=0.0,
        ).to(tl.float32)
        if FACTOR:
            value *= tl.load(factor + row, mask=row < R, other=0.0)[:, None]
        sums += value
    before = tl.load(total + column, mask=column < V, other=0.0)
    tl.store(total + column, before + tl.sum(sums, axis=0), mask=column < V)
