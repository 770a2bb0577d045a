"""From losses of rows of logits to a scalar whose gradient is made in the same visit: what `topk_kl` and `kl` share."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kdkernels.operators import differentiable_once
from kdkernels.precision import accumulation_dtype
from kdkernels.products import float16_scale
from kdkernels.reduction import scaled, weighted_sum

RowLosses = Callable[[Tensor, Tensor | None, Tensor], Tensor]


class Divergence(NamedTuple):
    """A divergence between teacher and student."""

    loss: Tensor
    """A scalar to differentiate."""
    rows: int | Tensor
    """How many rows counted; a tensor on the device with `check=False` and inside a compiled graph."""
    impl: str
    """The implementation that ran."""


def loss_and_gradient(
    logits: Tensor,
    gradient: Tensor | None,
    row_losses: RowLosses,
    mask: Tensor | None,
    row_scale: Tensor,
    temperature: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Σ row_scale · loss over rows of logits, and its gradient.

    Args:
        logits: [N, V].
        gradient: [N, V] to write to, may be the logits; None for no gradient.
        row_losses: from (logits, gradient, row_scale) to the loss of each row, writing the gradient.
        mask: [N] True for the rows that count, None for all.
        row_scale: [N] factor of each row.
        temperature: T.

    Returns:
        The sum, what the gradient is multiplied with (empty for 1), and the gradient (empty for none).
    """
    scale = float16_scale(row_scale, logits.dtype, temperature=temperature)
    losses = row_losses(logits, gradient, row_scale if scale is None else row_scale * scale)
    if mask is not None:
        losses = losses.masked_fill(~mask, 0.0)
        if gradient is not None:
            gradient.masked_fill_(~mask.unsqueeze(1), 0.0)
    return (
        weighted_sum(losses, row_scale),
        row_scale.new_empty(0) if scale is None else scale,
        logits.new_empty(0) if gradient is None else gradient,
    )


def fake_outputs(logits: Tensor, *, want_gradient: bool) -> tuple[Tensor, Tensor, Tensor]:
    """What `loss_and_gradient` puts out, without values."""
    loss = logits.new_empty((), dtype=accumulation_dtype(logits.dtype))
    has_scale = logits.dtype == torch.float16 and logits.shape[0] != 0
    return (
        loss,
        torch.empty_like(loss) if has_scale else loss.new_empty(0),
        logits.new_empty(logits.shape if want_gradient else 0),
    )


class OverwritingLoss(torch.autograd.Function):
    """Σ row_scale · loss over rows of logits, which become their gradient: what no operator of torch may do."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        row_losses: RowLosses,
        mask: Tensor | None,
        row_scale: Tensor,
        temperature: float,
        impl: str,
    ) -> tuple[Tensor, Tensor]:
        """Write the gradient over the logits; the loss, and an anchor."""
        with torch.cuda.device_of(logits):  # as `loss_operator` has it
            loss, scale, gradient = loss_and_gradient(
                logits, logits, row_losses, mask, row_scale, temperature
            )
        ctx.scale, ctx.impl = scale, impl
        ctx.set_materialize_grads(False)
        anchor = logits.new_empty(0)  # as `loss_operator` has it
        ctx.save_for_backward(gradient.detach(), anchor)
        return loss, anchor

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        """Multiply what forward left."""
        others = (None,) * 5
        if grad_output is None:
            return None, *others
        gradient, anchor = ctx.saved_tensors
        with torch.no_grad():
            factor = grad_output / ctx.scale if ctx.scale.numel() else grad_output
            multiplied = scaled(gradient, factor, impl=ctx.impl)
        return *differentiable_once([multiplied], grad_output, anchor), *others
