"""From losses of rows of logits to a scalar whose gradient is made in the same visit: what `topk_kl` and `kl` share."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kdkernels.products import float16_scale
from kdkernels.reduction import scaled, weighted_sum


class Divergence(NamedTuple):
    """A divergence between teacher and student."""

    loss: Tensor
    """A scalar to differentiate."""
    rows: int
    """How many rows counted."""
    impl: str
    """The implementation that ran."""


class LossOfLogits(torch.autograd.Function):
    """Σ row_scale · loss over rows of logits [N, V], whose gradient is made with it."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        row_losses: Callable[[Tensor, Tensor | None, Tensor], Tensor],
        mask: Tensor | None,
        row_scale: Tensor,
        temperature: float,
        overwrite: bool,
        grad_enabled: bool,
    ) -> Tensor:
        """Write the gradient over the logits, or beside them, or nowhere."""
        gradient = None
        if grad_enabled and ctx.needs_input_grad[0]:
            gradient = (
                logits
                if overwrite
                else torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
            )
        ctx.scale = float16_scale(row_scale, logits.dtype, temperature=temperature)
        losses = row_losses(
            logits, gradient, row_scale if ctx.scale is None else row_scale * ctx.scale
        )
        if mask is not None:
            losses = losses.masked_fill(~mask, 0.0)
            if gradient is not None:
                gradient.masked_fill_(~mask.unsqueeze(1), 0.0)
        ctx.save_for_backward(None if gradient is None else gradient.detach())
        return weighted_sum(losses, row_scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        """Scale what forward left."""
        factor = grad_output if ctx.scale is None else grad_output / ctx.scale
        return scaled(ctx.saved_tensors[0], factor), None, None, None, None, None, None
