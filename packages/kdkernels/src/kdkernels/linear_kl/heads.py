"""An output projection and what goes into it."""

from typing import NamedTuple

import torch
from torch import Tensor

from kdkernels.checks import KernelArgumentError, require_floating, require_shape
from kdkernels.precision import products_of

# Columns of a half-precision weight that are widened at once on a CPU.
WIDENED_COLUMNS = 4096


class Head(NamedTuple):
    """One side of the comparison."""

    hidden: Tensor
    """[N, H]"""
    weight: Tensor
    """[V, H]"""
    bias: Tensor | None
    """[V]"""

    def rows(self, counted: Tensor) -> "Head":
        """The same for some rows."""
        return Head(self.hidden.index_select(0, counted), self.weight, self.bias)

    def without(self, left_out: Tensor) -> "Head":
        """The same with nothing in some rows, True in `left_out` [N]."""
        return self._replace(hidden=self.hidden.masked_fill(left_out.unsqueeze(1), 0.0))

    def cast(self, dtype: torch.dtype) -> "Head":
        """The same in another dtype."""
        bias = None if self.bias is None else self.bias.to(dtype)
        return Head(self.hidden.to(dtype), self.weight.to(dtype), bias)

    def detach(self) -> "Head":
        """The same without a history."""
        bias = None if self.bias is None else self.bias.detach()
        return Head(self.hidden.detach(), self.weight.detach(), bias)

    def contiguous(self) -> "Head":
        """The same with its vectors in one piece."""
        bias = None if self.bias is None else self.bias.contiguous()
        return Head(self.hidden.contiguous(), self.weight.contiguous(), bias)

    def logits(self, start: int, stop: int, out: Tensor) -> Tensor:
        """Of some rows, written to `out` [stop - start, V] in its dtype, unrounded: float32 for half precision."""
        rows, weight = self.hidden[start:stop], self.weight
        if out.dtype == rows.dtype:
            torch.mm(rows, weight.t(), out=out)
        elif out.device.type == "cuda":
            out.copy_(torch.mm(rows, weight.t(), out_dtype=out.dtype))
        else:
            rows = rows.to(out.dtype)
            with products_of(self.hidden.dtype, out.device):
                for first in range(0, len(weight), WIDENED_COLUMNS):
                    columns = slice(first, first + WIDENED_COLUMNS)
                    out[:, columns] = torch.mm(rows, weight[columns].to(out.dtype).t())
        return out if self.bias is None else out.add_(self.bias)


def check_head(operation: str, side: str, head: Head, *, N: int | None, autocast: bool) -> None:
    """Refuse operands that do not fit together; `side` is the letter in their names."""
    hidden, weight, bias = head
    require_shape(f"hidden_{side}", hidden, (N, None), axes="[N, H]", operation=operation)
    shape = (None, hidden.shape[1])
    require_shape(f"weight_{side}", weight, shape, axes="[V, H]", operation=operation)
    require_floating(f"hidden_{side}", hidden, operation=operation)
    require_floating(f"weight_{side}", weight, operation=operation)
    if bias is not None:
        require_shape(f"bias_{side}", bias, (weight.shape[0],), axes="[V]", operation=operation)
        require_floating(f"bias_{side}", bias, operation=operation)
    if hidden.dtype != weight.dtype and not autocast:
        raise KernelArgumentError(
            f"{operation}: hidden_{side} and weight_{side} must have one dtype outside autocast; "
            f"got {hidden.dtype} and {weight.dtype}"
        )
