"""Attention maps: the mean squared difference between student and teacher, layer by layer.

L_attn = 1/L_S Σ_i MSE(A_S[i], A_T[m(i)])

with A = softmax(Q Kᵀ / √d) of all heads, and m(i) the teacher's layer that became the student's layer i: TinyBERT's equation 7
(Jiao et al. 2020) on the probabilities, as BiStil compares them (Ansell et al. 2023, section 3). A head of a student that keeps
some heads is compared with the one that it was.
"""

from __future__ import annotations

from torch import Tensor

from bistil.counted import counted
from bistil.encoders.capture import Attention
from bistil.errors import ModelError
from bistil.losses.outputs import LossContext, ModelOutputs, at_least_float32
from kdkernels import attention_mse


def attention_loss(student: ModelOutputs, teacher: ModelOutputs, context: LossContext) -> Tensor:
    """Mean over the student's layers, over heads and over pairs of real tokens inside the window.

    `kdkernels.attention_mse` holds no map; where a family's maps are all there is (DeBERTa-v2 and v3), those are compared.

    Raises:
        ModelError: where head counts or kinds of attention do not fit.
    """
    return context.mean_over_layers(_layer, student, teacher)


def _layer(student: Attention, teacher: Attention, real: Tensor | None) -> Tensor:
    if student.queries is None or student.keys is None:
        return _maps(student, teacher, real)
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
        real,
        window=teacher.window,
        scale_s=student.scale,
        scale_t=teacher.scale,
    ).loss


def _maps(student: Attention, teacher: Attention, real: Tensor | None) -> Tensor:
    if student.maps is None or teacher.maps is None:
        raise ModelError(
            "The student attends by more than queries and keys, the teacher does not; choose a student of the "
            "teacher's family."
        )
    require_same_heads(student.maps.shape[1], teacher.maps.shape[1])
    squares = (at_least_float32(student.maps) - at_least_float32(teacher.maps)).square()
    if real is None:
        return squares.mean()
    pairs = (real[:, :, None] & real[:, None, :])[:, None]
    return (squares * pairs).sum() / (pairs.sum() * squares.shape[1])


def require_same_heads(student: int, teacher: int) -> None:
    """Refuse numbers of attention heads that differ.

    Raises:
        ModelError: naming both.
    """
    if student != teacher:
        raise ModelError(
            f"Attention is compared head by head, but the student has {counted(student, 'head')} and the teacher {teacher}; "
            "say which of them it keeps, make the student from this teacher, or leave these terms out by weight 0."
        )
