"""Self-attention relations of the last layer: multi-head self-attention relation distillation of MiniLMv2 (Wang et al. 2021, section 3).

L_rel = 1/3 Σ_{X in Q, K, V} 1/(A_r · S) Σ_{a, t} KL(R_T[a, t] ‖ R_S[a, t]),   R = softmax(X_a X_aᵀ / √d_r)

The vectors of all attention heads stand side by side and are cut anew into A_r relation heads of width d_r, so that numbers of
heads and widths of student and teacher need not agree.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bistil.errors import ModelError
from bistil.losses.outputs import LossContext, ModelOutputs
from kdkernels import relation_kl


def relations_loss(student: ModelOutputs, teacher: ModelOutputs, context: LossContext) -> Tensor:
    """Mean of the relations of queries, of keys and of values.

    Raises:
        ModelError: where an architecture does not tell them, or relation heads do not divide the widths.
    """
    last_s = student.activations.attention[student.layers - 1]
    last_t = teacher.activations.attention[teacher.layers - 1]
    vectors = [(getattr(last_s, part), getattr(last_t, part)) for part in ("queries", "keys", "values")]  # fmt: skip
    if any(one is None for pair in vectors for one in pair):
        raise ModelError(
            "Relations are made of queries, keys and values, which cannot be reached in this architecture; "
            "leave the weight of relations at 0."
        )
    pairs = [(_side_by_side(one), _side_by_side(other)) for one, other in vectors]
    widths = [one.shape[-1] for pair in pairs for one in pair]
    heads = _relation_heads(context.settings["relation_heads"], vectors[0][0].shape[1], widths)
    return torch.stack([relation_kl(one, other, heads).loss for one, other in pairs]).mean()


def _side_by_side(vectors: Tensor) -> Tensor:
    """[B, h, S, d] as [B, S, h · d]."""
    return vectors.transpose(1, 2).flatten(2)


def _relation_heads(asked: int | None, attention_heads: int, widths: Sequence[int]) -> int:
    """As many as asked for; else four times the student's attention heads where that divides both widths, else as many."""
    heads = asked or 4 * attention_heads
    if asked is None and any(width % heads for width in widths):
        heads = attention_heads
    for width in widths:
        if width % heads:
            raise ModelError(
                f"{heads} relation heads do not divide the width {width}; choose a divisor."
            )
    return heads
