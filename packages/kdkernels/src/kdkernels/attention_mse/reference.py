"""`attention_mse` with both maps in memory: the specification."""

import torch
from torch import Tensor

from kdkernels.attention_maps.arguments import Comparison
from kdkernels.attention_maps.reference import log_softmax_map, mean_over, visible_entries


def attention_mse_reference(
    q_s: Tensor, k_s: Tensor, q_t: Tensor, k_t: Tensor, comparison: Comparison
) -> tuple[Tensor, Tensor]:
    """Mean over existing entries (b, h, i, j) of (A_s − A_t)², A = softmax(scale · q kᵀ)."""
    batch, heads, length, _ = q_s.shape
    visible = visible_entries(comparison, batch=batch, length=length, device=q_s.device)
    with torch.autocast(q_s.device.type, enabled=False):
        student = log_softmax_map(q_s, k_s, scale=comparison.scale_s, visible=visible).exp()
        teacher = log_softmax_map(q_t, k_t, scale=comparison.scale_t, visible=visible).exp()
        squares = (student - teacher.detach()).square() * visible
        counted = heads * visible.sum()
        return mean_over(squares.sum(), counted, comparison.divisor), counted
