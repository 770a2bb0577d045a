"""Gradients of an output projection z = h Wᵀ + b, summed chunk by chunk in float32 whatever the operands."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from kdkernels.precision import accumulation_dtype
from kdkernels.products import WIDENED_COLUMNS, dtype_of_gradient


class Gradients(NamedTuple):
    """Of the loss by each operand; None for what nobody asked for."""

    hidden: Tensor | None  # [N, H]
    weight: Tensor | None  # [V, H]
    bias: Tensor | None  # [V]


def unscaled(
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


def bytes_of_sums(weight: Tensor) -> int:
    """What the gradient by `weight` takes over several chunks beside itself: its sum in float32, where it is narrower."""
    exact = accumulation_dtype(weight.dtype)
    return 0 if dtype_of_gradient(weight.dtype) == exact else weight.numel() * exact.itemsize


class WeightGradient:
    """dW = Σ over chunks of dzᵀ h, accumulated in float32 whatever the operands; [V, H]."""

    def __init__(self, weight: Tensor, *, chunks: int, rows: int | None = None) -> None:
        """Make room.

        Args:
            weight: the operand.
            chunks: how many will be added; the product of a single one needs no accumulator.
            rows: how many the sum has, at least V, where what is added has columns that stand for no word; None for V.
        """
        self._sum = torch.empty(
            weight.shape[0] if rows is None else rows,
            weight.shape[1],
            device=weight.device,
            dtype=dtype_of_gradient(weight.dtype)
            if chunks == 1
            else accumulation_dtype(weight.dtype),
        )
        self._empty = True

    def add(self, grad_logits: Tensor, hidden: Tensor) -> None:
        """Add one chunk's product. [R, V], [R, H]"""
        transposed = grad_logits.t()
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
            part = self._sum[start : start + WIDENED_COLUMNS]
            if self._empty:
                part.copy_(product)
            else:
                part.add_(product)

    @property
    def sum(self) -> Tensor:
        """Of what was added; zeros where nothing was."""
        if self._empty:
            self._sum.zero_()
        return self._sum
