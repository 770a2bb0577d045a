"""`relation_kl` with both maps in memory: the specification."""

import torch
from torch import Tensor

from kdkernels.attention_maps.arguments import Comparison
from kdkernels.attention_maps.reference import log_softmax_map, mean_over, visible_entries


def relation_kl_reference(
    q_s: Tensor, k_s: Tensor, q_t: Tensor, k_t: Tensor, comparison: Comparison
) -> tuple[Tensor, Tensor]:
    """Mean over heads and query rows of Σⱼ R_t (log R_t − log R_s), R = softmax(scale · q kᵀ); each [B, h, S, d]."""
    batch, heads, length, _ = q_s.shape
    visible = visible_entries(comparison, batch=batch, length=length, device=q_s.device)
    with torch.autocast(q_s.device.type, enabled=False):
        student = log_softmax_map(q_s, k_s, scale=comparison.scale_s, visible=visible)
        teacher = log_softmax_map(q_t, k_t, scale=comparison.scale_t, visible=visible).detach()
        divergence = (teacher.exp() * visible * (teacher - student)).sum()
        counted = heads * visible.any(-1).sum()
        return mean_over(divergence, counted, comparison.divisor), counted
