"""From sums over two maps to a loss with a gradient, whichever implementation sums."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kdkernels.attention_maps.arguments import Comparison, widest
from kdkernels.attention_maps.blocks import too_wide
from kdkernels.attention_maps.map_sums import MapSums
from kdkernels.attention_maps.reference import mean_over
from kdkernels.checks import choose_impl
from kdkernels.compiling import no_compile
from kdkernels.reduction import scaled

MapSumsFunction = Callable[..., MapSums]


class MapLoss(NamedTuple):
    """A loss between two maps."""

    loss: Tensor
    """A scalar to differentiate."""
    counted: Tensor
    """What the mean runs over: entries of `attention_mse`, query rows of `relation_kl`; int64, on the device."""
    impl: str
    """The implementation that ran."""


def map_loss(
    operation: str,
    q_s: Tensor,
    k_s: Tensor,
    q_t: Tensor,
    k_t: Tensor,
    comparison: Comparison,
    *,
    reference: Callable[..., tuple[Tensor, Tensor]],
    impl: str,
) -> MapLoss:
    """Compare softmax(scale · q kᵀ) of student and teacher by the implementation that is asked for.

    Args:
        operation: the public function's name, for messages.
        q_s: [B, h, S, d_s].
        k_s: [B, h, S, d_s].
        q_t: [B, h, S, d_t].
        k_t: [B, h, S, d_t].
        comparison: how.
        reference: from the same to the loss and what its mean runs over, with both maps in memory.
        impl: "auto", "reference", "torch" or "triton".

    Returns:
        MapLoss.

    Raises:
        KernelArgumentError: the implementation is unknown, or cannot run here.
    """
    chosen = choose_impl(
        impl,
        operation=operation,
        device=q_s.device,
        dtype=widest(q_s, k_s, q_t, k_t),
        unsuited=too_wide(q_s, k_s, q_t, k_t),
    )
    if chosen == "reference":
        loss, counted = reference(q_s, k_s, q_t, k_t, comparison)
    else:
        loss, counted = _lean_loss(q_s, k_s, q_t, k_t, comparison, map_sums_of(chosen))
    return MapLoss(loss, counted, chosen)


def map_sums_of(impl: str) -> MapSumsFunction:
    """The sums of an implementation. Triton is imported here and nowhere else."""
    if impl == "triton":
        from kdkernels.attention_maps import kernel

        return kernel.map_sums
    from kdkernels.attention_maps import chunked

    return chunked.map_sums


@no_compile
def _lean_loss(
    q_s: Tensor,
    k_s: Tensor,
    q_t: Tensor,
    k_t: Tensor,
    comparison: Comparison,
    map_sums: MapSumsFunction,
) -> tuple[Tensor, Tensor]:
    """The mean of the comparison, and what it runs over; differentiable once, by q_s and k_s.

    The gradient is taken in the forward pass, where it is needed at all: its memory is that of q_s and k_s.
    """
    gradient = torch.is_grad_enabled() and (q_s.requires_grad or k_s.requires_grad)
    return _MapLoss.apply(q_s, k_s, q_t, k_t, comparison, map_sums, gradient)


class _MapLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q_s: Tensor,
        k_s: Tensor,
        q_t: Tensor,
        k_t: Tensor,
        comparison: Comparison,
        map_sums: MapSumsFunction,
        gradient: bool,
    ) -> tuple[Tensor, Tensor]:
        with torch.autocast(q_s.device.type, enabled=False):
            sums = map_sums(q_s, k_s, q_t, k_t, comparison, gradient=gradient)
            if gradient:
                # ∂(scale · q kᵀ) / ∂q has the scale; of the squared difference the sums hold half the gradient.
                doubled = 2.0 if comparison.divergence == "mse" else 1.0
                scale = torch.full_like(sums.total, doubled * comparison.scale_s)
                factor = mean_over(scale, sums.counted, comparison.divisor)
                ctx.save_for_backward(
                    _scaled_like(sums.dq, q_s, factor), _scaled_like(sums.dk, k_s, factor)
                )
                ctx.dtypes = q_s.dtype, k_s.dtype
            ctx.mark_non_differentiable(sums.counted)
            return mean_over(sums.total, sums.counted, comparison.divisor), sums.counted

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        dq, dk = (
            scaled(gradient, grad_output, dtype)
            for gradient, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        )
        return dq, dk, None, None, None, None, None


def _scaled_like(gradient: Tensor, operand: Tensor, factor: Tensor) -> Tensor:
    """The factor times the gradient, laid out as the operand and, where its dtype has float32's range, in its dtype."""
    dtype = operand.dtype if operand.dtype == torch.bfloat16 else gradient.dtype
    return torch.mul(gradient, factor, out=torch.empty_like(operand, dtype=dtype))
