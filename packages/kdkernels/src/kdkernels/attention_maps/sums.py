"""From sums over two maps to a loss with a gradient, whichever implementation summed."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kdkernels.attention_maps.arguments import Comparison
from kdkernels.attention_maps.reference import mean_over
from kdkernels.compiling import opaque
from kdkernels.reduction import scaled


class MapLoss(NamedTuple):
    """A loss between two maps."""

    loss: Tensor
    """A scalar to differentiate."""
    counted: Tensor
    """What the mean runs over: entries of `attention_mse`, query rows of `relation_kl`; int64, on the device."""
    impl: str
    """The implementation that ran."""


class MapSums(NamedTuple):
    """What an implementation hands back.

    Attributes:
        total: the sum over all entries.
        counted: what its mean runs over.
        dq: [B, h, S, d], the gradient of the total by q_s, up to the factors that `_Compare` applies; empty if unasked.
        dk: as `dq`, by k_s.
    """

    total: Tensor
    counted: Tensor
    dq: Tensor
    dk: Tensor


Walk = Callable[..., MapSums]


@opaque
def compare(
    q_s: Tensor, k_s: Tensor, q_t: Tensor, k_t: Tensor, comparison: Comparison, *, walk: Walk
) -> tuple[Tensor, Tensor]:
    """The mean of the comparison, and what it runs over; differentiable once, by q_s and k_s.

    The gradient is taken in the forward pass, where it is needed at all: its memory is that of q_s and k_s.
    """
    gradient = torch.is_grad_enabled() and (q_s.requires_grad or k_s.requires_grad)
    return _Compare.apply(q_s, k_s, q_t, k_t, comparison, walk, gradient)


class _Compare(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q_s: Tensor,
        k_s: Tensor,
        q_t: Tensor,
        k_t: Tensor,
        comparison: Comparison,
        walk: Walk,
        gradient: bool,
    ) -> tuple[Tensor, Tensor]:
        with torch.autocast(q_s.device.type, enabled=False):
            sums = walk(q_s, k_s, q_t, k_t, comparison, gradient=gradient)
            if gradient:
                doubled = 2.0 if comparison.divergence == "mse" else 1.0
                one = torch.full_like(sums.total, doubled * comparison.scale_s)
                factor = mean_over(one, sums.counted, comparison.divisor)
                ctx.save_for_backward(_kept(sums.dq, q_s, factor), _kept(sums.dk, k_s, factor))
                ctx.dtypes = q_s.dtype, k_s.dtype
            ctx.mark_non_differentiable(sums.counted)
            return mean_over(sums.total, sums.counted, comparison.divisor), sums.counted

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        dq, dk = ctx.saved_tensors
        of_q, of_k = ctx.dtypes
        by_q, by_k = scaled(dq, grad_output, of_q), scaled(dk, grad_output, of_k)
        return by_q, by_k, None, None, None, None, None


def _kept(gradient: Tensor, operand: Tensor, factor: Tensor) -> Tensor:
    """The factor times the gradient, laid out as the operand and, where its dtype has float32's range, in its dtype."""
    dtype = operand.dtype if operand.dtype == torch.bfloat16 else gradient.dtype
    return torch.mul(gradient, factor, out=torch.empty_like(operand, dtype=dtype))
