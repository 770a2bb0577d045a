"""Attention scores before the softmax: the mean squared difference between student and teacher, layer by layer.

L_scores = 1/L_S Σ_i MSE(s_S Q_S[i] K_S[i]ᵀ, s_T Q_T[m(i)] K_T[m(i)]ᵀ)

over all heads and over the pairs of real tokens inside the window, with s the factor that the softmax is given (1/√d) and m(i)
the teacher's layer that became the student's layer i. TinyBERT compares these in place of maps and finds that it converges
faster (Jiao et al. 2020, equation 7 and the remark behind it). A map is the same where all scores of a query are moved by one
number; this term does not allow for it. Heads correspond as in `bistil.losses.terms.attention`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from bistil.encoders.capture import Attention
from bistil.errors import ModelError
from bistil.losses.outputs import LossContext, ModelOutputs, at_least_float32
from bistil.losses.terms.attention import require_same_heads


def scores_loss(student: ModelOutputs, teacher: ModelOutputs, context: LossContext) -> Tensor:
    """Mean over the student's layers, over heads and over pairs of real tokens inside the window, in float32.

    One difference [B, h, S, S] is there at a time; the backward pass makes it again.

    Raises:
        ModelError: where head counts do not fit, or scores are more than products of queries and keys.
    """
    return context.mean_over_layers(_layer, student, teacher)


def _layer(student: Attention, teacher: Attention, real: Tensor | None) -> Tensor:
    operands = (student.queries, student.keys, teacher.queries, teacher.keys)
    if any(operand is None for operand in operands):
        raise ModelError(
            "Scores are compared as products of queries and keys, and in this architecture they are more than that; compare "
            "attention maps, and leave the weight of scores at 0."
        )
    q_s, k_s, q_t, k_t = (at_least_float32(operand) for operand in operands if operand is not None)
    require_same_heads(q_s.shape[1], q_t.shape[1])
    visible = _visible(q_s, real, teacher.window)
    squares: Tensor = checkpoint(
        _sum_of_squares, q_s * student.scale, k_s, q_t * teacher.scale, k_t, visible,
        use_reentrant=False, preserve_rng_state=False,
    )  # fmt: skip
    return squares / (q_s.shape[1] * visible.expand(len(q_s), 1, -1, -1).sum()).clamp(min=1)


def _visible(queries: Tensor, real: Tensor | None, window: int | None) -> Tensor:
    """Which pairs (query, key) count: bool [B or 1, 1, S, S]."""
    length, device = queries.shape[2], queries.device
    visible = torch.ones(1, length, length, dtype=torch.bool, device=device)
    if real is not None:
        visible = real[:, :, None] & real[:, None, :]
    if window is not None:
        position = torch.arange(length, device=device)
        visible = visible & ((position[:, None] - position).abs() <= window // 2)
    return visible[:, None]


def _sum_of_squares(q_s: Tensor, k_s: Tensor, q_t: Tensor, k_t: Tensor, visible: Tensor) -> Tensor:
    with torch.autocast(q_s.device.type, enabled=False):
        difference = q_s @ k_s.mT - q_t @ k_t.mT
        return difference.masked_fill(~visible, 0).square().sum()
