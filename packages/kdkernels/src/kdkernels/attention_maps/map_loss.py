"""From sums over two maps to a loss with a gradient, whichever implementation sums."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from kdkernels.attention_maps.arguments import Comparison, widest
from kdkernels.attention_maps.blocks import too_wide
from kdkernels.attention_maps.operator import map_loss_operator
from kdkernels.checks import choose_impl


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
        loss, counted = _lean_loss(q_s, k_s, q_t, k_t, comparison, chosen)
    return MapLoss(loss, counted, chosen)


def _lean_loss(
    q_s: Tensor, k_s: Tensor, q_t: Tensor, k_t: Tensor, comparison: Comparison, impl: str
) -> tuple[Tensor, Tensor]:
    """The mean of the comparison, and what it runs over; differentiable once, by q_s and k_s.

    The gradient is taken in the forward pass, where it is needed at all: its memory is that of q_s and k_s.
    """
    divisor, budget = comparison.divisor, comparison.chunk_bytes
    if divisor is not None and not isinstance(divisor, Tensor):
        divisor = torch.full((), float(divisor), dtype=torch.float64, device=q_s.device)
    loss, counted, *_ = map_loss_operator(
        q_s,
        k_s,
        q_t,
        k_t,
        comparison.mask,
        divisor,
        comparison.divergence,
        comparison.reach,
        comparison.scale_s,
        comparison.scale_t,
        None if budget is None else int(budget),
        impl,
        comparison.check,
        torch.is_grad_enabled() and (q_s.requires_grad or k_s.requires_grad),
    )
    return loss, counted
