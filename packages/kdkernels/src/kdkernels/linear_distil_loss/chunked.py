"""The linear distillation loss without its logits: a chunk of rows at a time, from hidden state to gradient.

For each chunk: logits = h Wᵀ + b into one buffer; the row losses turn the buffer into the gradient by the logits;
two more products give the gradients by h and W. Nothing of size [N, V] exists unless the byte budget allows it.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from kdkernels.products import (
    WIDENED_COLUMNS,
    dtype_of_gradient,
    empty_rows,
    float16_scale,
    product_into,
    sums_in_float32,
)
from kdkernels.targets import Targets
from kdkernels.topk_kl.chunked import Blend

CPU_CHUNK_BYTES = 256 * 2**20
DEVICE_CHUNK_BYTES = 2**30

RowLosses = Callable[..., tuple[Tensor, Tensor]]


class Gradients(NamedTuple):
    """Of the loss by each operand; None for what nobody asked for."""

    hidden: Tensor | None  # [N, H]
    weight: Tensor | None  # [V, H]
    bias: Tensor | None  # [V]


@sums_in_float32()
def losses_and_gradients(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    labels: Tensor | None,
    targets: Targets | None,
    row_scale: Tensor,
    blend: Blend,
    wanted: tuple[bool, bool, bool],
    compute_dtype: torch.dtype,
    chunk_bytes: int,
    row_losses: RowLosses,
) -> tuple[Tensor, Tensor, Gradients]:
    """Hard and soft loss of each row, and the gradients of Σ row_scale · ((1-alpha)·hard + alpha·soft).

    Args:
        hidden: [N, H].
        weight: [V, H].
        bias: [V] or None.
        labels: [N], every one a column.
        targets: of the soft loss, or None.
        row_scale: [N].
        blend: what the loss is.
        wanted: whether the gradient by hidden, weight and bias is wanted.
        compute_dtype: of the operands in the matrix products, whose sums are in float32.
        chunk_bytes: size of the logits buffer; one row is the least.
        row_losses: what turns a chunk of logits into losses and gradient.

    Returns:
        hard [N], soft [N], gradients in the dtypes of their operands, in float32 for float16.
    """
    N, V = hidden.shape[0], weight.shape[0]
    h, W = hidden.to(compute_dtype), weight.to(compute_dtype)
    b = None if bias is None else bias.to(compute_dtype)
    rows = chunk_rows(N, V, compute_dtype, chunk_bytes)
    buffer = empty_rows(rows, V, compute_dtype, hidden.device)
    scale = float16_scale(row_scale, compute_dtype, temperature=blend.temperature)
    row_scale = row_scale if scale is None else row_scale * scale
    by_hidden = torch.empty_like(h, dtype=dtype_of_gradient(compute_dtype)) if wanted[0] else None
    by_weight = WeightGradient(weight, chunks=math.ceil(N / rows)) if wanted[1] else None
    by_bias = _zeros_exact(V, hidden) if wanted[2] else None
    hard, soft = _zeros_exact(N, hidden), _zeros_exact(N, hidden)
    for start in range(0, N, rows):
        stop = min(start + rows, N)
        piece, logits = h[start:stop], buffer[: stop - start]
        if b is None:
            torch.mm(piece, W.t(), out=logits)
        else:
            torch.addmm(b, piece, W.t(), out=logits)
        hard[start:stop], soft[start:stop] = row_losses(
            logits,
            labels=None if labels is None else labels[start:stop],
            targets=None if targets is None else Targets(*(part[start:stop] for part in targets)),
            row_scale=row_scale[start:stop],
            blend=blend,
            gradient=logits if any(wanted) else None,
        )
        if by_hidden is not None:
            product_into(by_hidden[start:stop], logits, W)
        if by_weight is not None:
            by_weight.add(logits, piece)
        if by_bias is not None:
            by_bias += logits.sum(dim=0, dtype=by_bias.dtype)
    return (
        hard,
        soft,
        finished(
            (by_hidden, None if by_weight is None else by_weight.sum, by_bias),
            (hidden, weight, bias),
            scale,
        ),
    )


def finished(
    sums: Sequence[Tensor | None], operands: Sequence[Tensor | None], scale: Tensor | None
) -> Gradients:
    """The sums over all chunks without the scale that they were made with, in the dtypes that wait for `backward`."""
    gradients: list[Tensor | None] = []
    for total, operand in zip(sums, operands, strict=True):
        if total is None or operand is None:
            gradients.append(None)
            continue
        if scale is not None:
            total.div_(scale)
        gradients.append(total.to(dtype_of_gradient(operand.dtype)))
    return Gradients(*gradients)


def default_chunk_bytes(device: torch.device) -> int:
    """Size of the logits buffer where the caller names none."""
    return CPU_CHUNK_BYTES if device.type == "cpu" else DEVICE_CHUNK_BYTES


def chunk_rows(N: int, V: int, dtype: torch.dtype, chunk_bytes: int) -> int:
    """Rows of logits that fit the budget, evened out over the chunks; at least one."""
    most = max(1, chunk_bytes // (V * dtype.itemsize))
    chunks = max(1, math.ceil(N / most))
    return max(1, math.ceil(N / chunks))


class WeightGradient:
    """Σ over chunks of dzᵀ h, accumulated in float32 whatever the operands; [V, H]."""

    def __init__(self, weight: Tensor, *, chunks: int) -> None:
        """Make room.

        Args:
            weight: the operand.
            chunks: how many will be added; the product of a single one needs no accumulator.
        """
        exact = torch.float64 if weight.dtype == torch.float64 else torch.float32
        self._sum = torch.empty_like(
            weight,
            dtype=dtype_of_gradient(weight.dtype) if chunks == 1 else exact,
            memory_format=torch.contiguous_format,
        )
        self._empty = True

    def add(self, by_logits: Tensor, hidden: Tensor) -> None:
        """Add one chunk's product. [R, V], [R, H]"""
        transposed = by_logits.t()
        if self._sum.dtype == hidden.dtype:
            self._sum.addmm_(transposed, hidden, beta=0 if self._empty else 1)
        elif hidden.device.type == "cuda" and self._sum.dtype == torch.float32:
            torch.addmm(
                self._sum, transposed, hidden, out_dtype=self._sum.dtype, beta=0 if self._empty else 1,
                out=self._sum,
            )  # fmt: skip
        else:
            self._add_widened(transposed, hidden)
        self._empty = False

    def _add_widened(self, transposed: Tensor, hidden: Tensor) -> None:
        """As add, where products come in the operands' own precision only: for float16 that is not wide enough."""
        if hidden.dtype == torch.float16:
            hidden = hidden.float()
        for start in range(0, len(transposed), WIDENED_COLUMNS):
            columns = transposed[start : start + WIDENED_COLUMNS]
            product = torch.mm(columns.to(hidden.dtype), hidden)
            place = self._sum[start : start + WIDENED_COLUMNS]
            if self._empty:
                place.copy_(product)
            else:
                place.add_(product)

    @property
    def sum(self) -> Tensor:
        """Of what was added; zeros where nothing was."""
        if self._empty:
            self._sum.zero_()
        return self._sum


def _zeros_exact(size: int, like: Tensor) -> Tensor:
    exact = torch.float64 if like.dtype == torch.float64 else torch.float32
    return torch.zeros(size, dtype=exact, device=like.device)
