"""`torch.ops.kdkernels.map_loss`: the comparison of two maps and its gradients as one operator."""

from collections.abc import Callable

import torch
from torch import Tensor

from kdkernels.attention_maps.arguments import Comparison, widest
from kdkernels.attention_maps.map_sums import MapSums
from kdkernels.operators import loss_operator
from kdkernels.precision import accumulation_dtype


def _fake(
    q_s: Tensor, k_s: Tensor, q_t: Tensor, k_t: Tensor, *arguments: object
) -> tuple[Tensor, ...]:
    dtype = accumulation_dtype(widest(q_s, k_s, q_t, k_t))
    loss = q_s.new_empty((), dtype=dtype)
    counted = q_s.new_empty((), dtype=torch.int64)
    if arguments[-1]:
        return loss, counted, _room(q_s, dtype), _room(k_s, dtype)
    return loss, counted, q_s.new_empty(0), k_s.new_empty(0)


@loss_operator("map_loss", (0, 1), fake=_fake)
def map_loss_operator(
    q_s: Tensor,
    k_s: Tensor,
    q_t: Tensor,
    k_t: Tensor,
    mask: Tensor | None,
    divisor: Tensor | None,
    divergence: str,
    reach: int | None,
    scale_s: float,
    scale_t: float,
    chunk_bytes: int | None,
    impl: str,
    check: bool,
    want_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The mean of the comparison, what it runs over, and its gradients by q_s and k_s.

    Args:
        q_s: [B, h, S, d_s].
        k_s: [B, h, S, d_s].
        q_t: [B, h, S, d_t].
        k_t: [B, h, S, d_t].
        mask: bool [B, S] or [B, S, S], or None.
        divisor: what the sum is divided by in place of the count, one number.
        divergence: "mse" or "kl".
        reach: how far apart query and key may be.
        scale_s: the student's factor from products to scores.
        scale_t: the teacher's.
        chunk_bytes: bytes of one tile of scores.
        impl: "torch" or "triton".
        check: whether to look at the mask, and to take padding out.
        want_gradient: whether the gradients are wanted.
    """
    comparison = Comparison(
        divergence=divergence,
        mask=mask,
        reach=reach,
        scale_s=scale_s,
        scale_t=scale_t,
        divisor=divisor,
        chunk_bytes=chunk_bytes,
        check=check,
    )
    sums = map_sums_of(impl)(q_s, k_s, q_t, k_t, comparison, gradient=want_gradient)
    counted, number = sums.counted, _number(sums, divisor)
    if isinstance(counted, int):
        counted = torch.full((), counted, device=q_s.device)
    loss = sums.total if sums.is_mean else sums.total / number
    if not want_gradient:
        return loss, counted, q_s.new_empty(0), k_s.new_empty(0)
    factor = 1.0 if sums.is_mean else comparison.gradient_factor / number
    return loss, counted, _scaled_like(sums.dq, q_s, factor), _scaled_like(sums.dk, k_s, factor)


def map_sums_of(impl: str) -> Callable[..., MapSums]:
    """The sums of an implementation. Triton is imported here and nowhere else."""
    if impl == "triton":
        from kdkernels.attention_maps import kernel

        return kernel.map_sums
    from kdkernels.attention_maps import chunked

    return chunked.map_sums


def _number(sums: MapSums, divisor: Tensor | None) -> Tensor | int:
    """What the sum is divided by, 1 in place of a count of 0; a tensor is on the device, in the sum's dtype."""
    if divisor is not None:
        return divisor.to(sums.total).reshape(())
    if isinstance(sums.counted, int):
        return max(sums.counted, 1)
    return sums.counted.clamp(min=1).to(sums.total)


def _scaled_like(gradient: Tensor, operand: Tensor, factor: Tensor | float) -> Tensor:
    """The factor times the gradient in room for it: the gradient itself, changed in place, where it was written there."""
    if (
        gradient.dtype == _kept_dtype(operand, gradient.dtype)
        and gradient.stride() == operand.stride()
    ):
        return gradient if isinstance(factor, float) and factor == 1 else gradient.mul_(factor)
    return torch.mul(gradient, factor, out=_room(operand, gradient.dtype))


def _room(operand: Tensor, dtype: torch.dtype) -> Tensor:
    """For a gradient taken in some dtype, laid out as the operand."""
    return torch.empty_like(operand, dtype=_kept_dtype(operand, dtype))


def _kept_dtype(operand: Tensor, dtype: torch.dtype) -> torch.dtype:
    """The operand's where that has float32's range."""
    return operand.dtype if operand.dtype == torch.bfloat16 else dtype
