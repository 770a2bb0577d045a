"""BiStil's two terms as one function of what was captured: attention maps and hidden states, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from bistil.encoders.capture import Activations
from bistil.losses.outputs import LossContext, ModelOutputs, real_tokens
from bistil.losses.terms.attention import attention_loss
from bistil.losses.terms.hidden import hidden_loss


class Matching(NamedTuple):
    """Two scalars to differentiate.

    Attributes:
        attention: mean over layers of the mean squared difference of attention maps.
        hidden: mean over states, the embeddings' among them, of the mean squared difference.
    """

    attention: Tensor
    hidden: Tensor


def matching_loss(
    student: Activations,
    teacher: Activations,
    *,
    layers: Sequence[int],
    attention_mask: Tensor | None,
    projection: Tensor | None = None,
    heads: Sequence[Sequence[int]] | None = None,
) -> Matching:
    """The two terms of phase 1 (Ansell et al. 2023, section 3), for a training loop of your own.

    L_attn = 1/L_S Σ_i MSE(A_S[i], A_T[m(i)]) and L_hidden = 1/(L_S + 1) Σ_j MSE(h_S[j], h_T[n(j)] P), where m(i) is
    `layers[i]`, n(0) = 0 and n(j) = m(j - 1) + 1; padding is left out. See `bistil.losses.terms.attention` and `.hidden`.

    Args:
        student: captured of the student, whose layers are 0 to L_s - 1.
        teacher: captured of the teacher under the same tokens, without gradient.
        layers: for each student layer the teacher layer that it copies.
        attention_mask: [B, S], nonzero at real tokens; None where all are.
        projection: P [H_t, H_s], by which teacher states are multiplied; needed where the widths differ.
        heads: for each student layer the teacher's heads that it keeps; needed where their numbers differ.

    Returns:
        Both terms, each a scalar.

    Raises:
        ModelError: where head counts or widths do not fit.

    Example:
        >>> import torch
        >>> from transformers import BertConfig, BertForMaskedLM
        >>> from bistil import capture_activations, student_of
        >>> config = BertConfig(vocab_size=50, hidden_size=8, num_hidden_layers=4, num_attention_heads=2, intermediate_size=16)
        >>> teacher = BertForMaskedLM(config).eval()
        >>> student, ids = student_of(teacher, [1, 3]), torch.arange(12).reshape(2, 6)
        >>> with capture_activations(student) as seen_s, capture_activations(teacher, layers=[1, 3]) as seen_t:
        ...     _ = student(ids)
        ...     with torch.no_grad():
        ...         _ = teacher(ids)
        >>> loss = matching_loss(seen_s, seen_t, layers=[1, 3], attention_mask=None)
        >>> (loss.attention + loss.hidden).backward()
    """
    context = LossContext(
        layers=layers, real=real_tokens(attention_mask), projection=projection, heads=heads
    )
    student_outputs, teacher_outputs = ModelOutputs(activations=student), ModelOutputs(activations=teacher)  # fmt: skip
    return Matching(
        attention_loss(student_outputs, teacher_outputs, context),
        hidden_loss(student_outputs, teacher_outputs, context),
    )
