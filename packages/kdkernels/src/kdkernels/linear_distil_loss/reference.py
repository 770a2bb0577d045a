"""The linear distillation loss as its definition reads, with the logits in memory and autograd for the gradient."""

import torch
from torch import Tensor

from kdkernels.loss_options import LossOptions
from kdkernels.precision import accumulation_dtype
from kdkernels.topk_kl.reference import soft_loss


def losses(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    topk_ids: Tensor | None,
    topk_logprobs: Tensor | None,
    *,
    options: LossOptions,
    tail: str,
    log_partition: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Hard = -log softmax(z)[label] and soft = T² D(teacher, softmax(z / T)) of each row, z = h Wᵀ + b.

    Args:
        hidden: [N, H].
        weight: [V, H].
        bias: [V] or None.
        labels: [N], every one a column.
        topk_ids: [N, K], -1 in unused places, or None for no soft part.
        topk_logprobs: [N, K] at temperature 1.
        options: divergence and temperature of the soft part.
        tail: what becomes of the teacher's other columns.
        log_partition: [N] at the temperature, or None.

    Returns:
        hard [N] and soft [N], in float32 (float64 for float64 operands), differentiable.
    """
    exact = accumulation_dtype(hidden.dtype)
    logits = hidden.to(exact) @ weight.to(exact).t()  # [N, V]
    if bias is not None:
        logits = logits + bias.to(exact)
    hard = -torch.log_softmax(logits, dim=1).gather(1, labels.unsqueeze(1)).squeeze(1)
    if topk_ids is None or topk_logprobs is None:
        return hard, torch.zeros_like(hard)
    soft = soft_loss(
        logits, topk_ids, topk_logprobs, options=options, tail=tail, log_partition=log_partition
    )
    return hard, soft
