"""`relation_kl` with both maps in memory: the specification."""

import torch
from torch import Tensor

from kdkernels.attention_maps.arguments import Comparison
from kdkernels.attention_maps.reference import log_softmax_map, mean_over, visible_entries


def relation_kl_reference(
    x_s: Tensor, x_t: Tensor, comparison: Comparison
) -> tuple[Tensor, Tensor]:
    """Mean over heads and query rows of Σⱼ R_t (log R_t − log R_s), R = softmax(scale · x xᵀ); x is [B, h, S, d]."""
    batch, heads, length, _ = x_s.shape
    visible = visible_entries(comparison, batch=batch, length=length, device=x_s.device)
    with torch.autocast(x_s.device.type, enabled=False):
        student = log_softmax_map(x_s, x_s, scale=comparison.scale_s, visible=visible)
        teacher = log_softmax_map(x_t, x_t, scale=comparison.scale_t, visible=visible).detach()
        divergence = (teacher.exp() * visible * (teacher - student)).sum()
        counted = heads * visible.any(-1).sum()
        return mean_over(divergence, counted, comparison.divisor), counted
