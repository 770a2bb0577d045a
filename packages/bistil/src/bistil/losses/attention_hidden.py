"""BiStil's two terms: how far a student's attention and hidden states are from its teacher's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from bistil.encoders.capture import Activations, Attention, capture_activations
from bistil.errors import ModelError
from kdkernels import attention_mse

__all__ = ["Activations", "Matching", "capture_activations", "matching_loss"]


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
) -> Matching:
    """Mean over layers of MSE(A_s, A_t), and over states of MSE(h_s, h_t), padding left out.

    Attention is compared over the pairs of real tokens inside the window, through `kdkernels.attention_mse`, which holds no
    map; where a family's maps are all there is (DeBERTa-v2 and v3), over those. States 0 (embeddings) to L_s of the student
    meet the teacher's states 0 and `layers[i] + 1`. The states of pre-norm models (ModernBERT) are unbounded sums in which
    a few tokens can outweigh all others: there each token's squared difference is divided by the mean square of the
    teacher's state of that token.

    Args:
        student: heard of the student, whose layers are 0 to L_s - 1.
        teacher: heard of the teacher under the same tokens, without gradient.
        layers: for each student layer the teacher layer that it copies.
        attention_mask: [B, S], nonzero at real tokens; None where all are.
        projection: [H_t, H_s] that teacher states are multiplied by; needed where the widths differ.

    Raises:
        ModelError: where head counts or widths do not fit.
    """
    mask = None if attention_mask is None else attention_mask.bool()
    if mask is not None and bool(mask.all()):
        mask = None
    attention = [
        _attention_term(student.attention[mine], teacher.attention[its], mask)
        for mine, its in enumerate(layers)
    ]
    pairs = [(0, 0), *((mine + 1, its + 1) for mine, its in enumerate(layers))]
    hidden = [
        _hidden_term(
            student.hidden[mine], teacher.hidden[its], mask, projection, relative=teacher.pre_norm
        )
        for mine, its in pairs
    ]
    return Matching(torch.stack(attention).mean(), torch.stack(hidden).mean())


def _attention_term(student: Attention, teacher: Attention, mask: Tensor | None) -> Tensor:
    if student.queries is None or student.keys is None:
        return _map_term(student, teacher, mask)
    if teacher.queries is None or teacher.keys is None:
        raise ModelError(
            "The student attends by queries and keys, the teacher by more; choose a student of the teacher's family."
        )
    require_same_heads(student.queries.shape[1], teacher.queries.shape[1])
    return attention_mse(
        student.queries,
        student.keys,
        teacher.queries,
        teacher.keys,
        mask,
        window=teacher.window,
        scale_s=student.scale,
        scale_t=teacher.scale,
    ).loss


def _map_term(student: Attention, teacher: Attention, mask: Tensor | None) -> Tensor:
    if student.maps is None or teacher.maps is None:
        raise ModelError(
            "The student attends by more than queries and keys, the teacher does not; choose a student of the "
            "teacher's family."
        )
    require_same_heads(student.maps.shape[1], teacher.maps.shape[1])
    squares = (_exact(student.maps) - _exact(teacher.maps)).square()
    if mask is None:
        return squares.mean()
    pairs = (mask[:, :, None] & mask[:, None, :])[:, None]
    return (squares * pairs).sum() / (pairs.sum() * squares.shape[1])


def require_same_heads(student: int, teacher: int) -> None:
    """Refuse numbers of attention heads that differ.

    Raises:
        ModelError: naming both.
    """
    if student != teacher:
        raise ModelError(
            f"Attention maps are compared head by head, but the student has {student} heads and the teacher {teacher}; "
            "make the student from this teacher, or match by relations instead."
        )


def _hidden_term(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None,
    projection: Tensor | None,
    *,
    relative: bool,
) -> Tensor:
    if mask is not None:
        student, teacher = student[mask], teacher[mask]
    student, teacher = _exact(student), _exact(teacher)
    if projection is not None:
        teacher = teacher @ projection.to(teacher)
    if student.shape != teacher.shape:
        raise ModelError(
            f"The student's states are {student.shape[-1]} wide and the teacher's {teacher.shape[-1]}; "
            "give a projection from one to the other."
        )
    difference = student - teacher
    if relative:
        difference = difference * teacher.square().mean(-1, keepdim=True).rsqrt()
    # Beside a zero of no size, backward keeps one tensor; beside the teacher's states, two.
    return F.mse_loss(difference, difference.new_zeros(()).expand_as(difference))


def _exact(tensor: Tensor) -> Tensor:
    """At least float32: half precision would round the differences."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
