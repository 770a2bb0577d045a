"""The teacher's predictions as logits: the mean squared difference over the vocabulary at masked positions.

L_logits_mse = 1/(N · V) Σ_n Σ_v (z_S - z_T)²_n,v

Kim et al. (2021) compare it with the divergence, to which it is what a high temperature leads: T² KL(p_T ‖ p_S) comes near half
of this for T → ∞, but for the mean of each row of logits. Gurgurov et al. (2025) find it ahead for small multilingual encoders.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from bistil.losses.outputs import LossContext, ModelOutputs, at_least_float32
from teacherzoo import SplitHead

_BYTES = 256 * 2**20  # of the differences that are there at a time


def logits_mse_loss(student: ModelOutputs, teacher: ModelOutputs, context: LossContext) -> Tensor:
    """Sum over masked positions, divided by `context.divisor` and by the size of the vocabulary, in float32.

    Positions are taken a few at a time, whose differences [n, V] the backward pass makes again: no more of them is there at once.
    """
    pieces = student.decoder.weight.shape[0]
    at_once = max(1, _BYTES // (4 * pieces))
    rows = zip(student.masked_rows.split(at_once), teacher.masked_rows.split(at_once), strict=True)
    sums: list[Any] = [
        checkpoint(_sum_of_squares, few_s, few_t, student.decoder, teacher.decoder, use_reentrant=False, preserve_rng_state=False)
        for few_s, few_t in rows
    ]  # fmt: skip
    return torch.stack(sums).sum() / (context.divisor * pieces)


def _sum_of_squares(
    student: Tensor, teacher: Tensor, decoder_s: SplitHead, decoder_t: SplitHead
) -> Tensor:
    with torch.autocast(student.device.type, enabled=False):
        return (_logits(student, decoder_s) - _logits(teacher, decoder_t)).square().sum()


def _logits(rows: Tensor, decoder: SplitHead) -> Tensor:
    """[n, V] of rows [n, H']."""
    rows, weight = at_least_float32(rows), at_least_float32(decoder.weight)
    logits = rows @ weight.T
    return logits if decoder.bias is None else logits + decoder.bias
