"""The maps as the papers write them: whole, S×S, with plain autograd. To be read, and to test against."""

import math

import torch
from torch import Tensor

from kdkernels.attention_maps.arguments import Comparison
from kdkernels.precision import accumulation_dtype


def _in_compute_dtype(tensor: Tensor) -> Tensor:
    """The tensor in the dtype that maps are computed in: float64 stays, everything else becomes float32."""
    return tensor.to(accumulation_dtype(tensor.dtype))


def visible_entries(
    comparison: Comparison, *, batch: int, length: int, device: torch.device
) -> Tensor:
    """Which entries (query, key) of a map exist: bool [B, 1, S, S]."""
    visible = torch.ones(batch, length, length, dtype=torch.bool, device=device)
    mask = comparison.mask
    if mask is not None:
        visible = mask if mask.dim() == 3 else mask[:, :, None] & mask[:, None, :]
    if comparison.reach is not None:
        position = torch.arange(length, device=device)
        visible = visible & ((position[:, None] - position[None, :]).abs() <= comparison.reach)
    return visible[:, None]


def log_softmax_map(q: Tensor, k: Tensor, *, scale: float, visible: Tensor) -> Tensor:
    """Log softmax over the visible keys of scale · q kᵀ; [B, h, S, S], 0 where an entry does not exist."""
    scores = scale * (_in_compute_dtype(q) @ _in_compute_dtype(k).transpose(-1, -2))
    log_map = torch.log_softmax(scores.masked_fill(~visible, -math.inf), dim=-1)
    return log_map.masked_fill(~visible, 0.0)


def mean_over(total: Tensor, count: Tensor | float, divisor: float | Tensor | None) -> Tensor:
    """Σ / divisor, or Σ / count; the mean over nothing is 0, with gradient 0."""
    if divisor is not None:
        return total / torch.as_tensor(divisor, dtype=total.dtype, device=total.device).reshape(())
    return total / torch.as_tensor(count, dtype=total.dtype, device=total.device).clamp(min=1)
