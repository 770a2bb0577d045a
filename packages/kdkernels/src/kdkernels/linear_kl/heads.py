"""An output projection and what goes into it."""

from typing import NamedTuple

import torch
from torch import Tensor

from kdkernels.checks import KernelArgumentError, require_floating, require_shape


class Head(NamedTuple):
    """One side of the comparison."""

    hidden: Tensor
    """[N, H]"""
    weight: Tensor
    """[V, H]"""
    bias: Tensor | None
    """[V]"""

    def rows(self, kept: Tensor) -> "Head":
        """The same for some rows."""
        return Head(self.hidden.index_select(0, kept), self.weight, self.bias)

    def cast(self, dtype: torch.dtype) -> "Head":
        """The same in another dtype."""
        bias = None if self.bias is None else self.bias.to(dtype)
        return Head(self.hidden.to(dtype), self.weight.to(dtype), bias)

    def detach(self) -> "Head":
        """The same without a history."""
        bias = None if self.bias is None else self.bias.detach()
        return Head(self.hidden.detach(), self.weight.detach(), bias)

    def logits(self, start: int, stop: int, out: Tensor) -> Tensor:
        """Of some rows, written to `out` [stop - start, V]."""
        piece = self.hidden[start:stop]
        if self.bias is None:
            return torch.mm(piece, self.weight.t(), out=out)
        return torch.addmm(self.bias, piece, self.weight.t(), out=out)


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
