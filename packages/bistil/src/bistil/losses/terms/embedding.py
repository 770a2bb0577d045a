"""Sentence vectors: their direction and their place, as the teacher's own pooling and modules make them.

L_embedding = 1/B Σ_b [ 1 - cos(v_S, v_T) + ‖v_S - v_T‖² / ‖v_T‖² ]

with v the vectors of sentence b. The mean square is that of Reimers and Gurevych (2020, section 2); divided by the teacher's own
it does not depend on how long vectors are. Of vectors of length 1 both parts say the same, of others the second keeps their
length, which a search by dot products needs.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from bistil.errors import ModelError
from bistil.losses.outputs import LossContext, ModelOutputs, at_least_float32


def embedding_loss(student: ModelOutputs, teacher: ModelOutputs, _context: LossContext) -> Tensor:
    """Mean over the sentences of a batch.

    Raises:
        ModelError: where the vectors differ in dimension.
    """
    assert student.vectors is not None
    assert teacher.vectors is not None
    return vector_distance(student.vectors, teacher.vectors)


def vector_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """The loss above for vectors [B, D].

    Raises:
        ModelError: where they differ in dimension.
    """
    if student.shape[-1] != teacher.shape[-1]:
        raise ModelError(
            f"The student's vectors have {student.shape[-1]} dimensions and the teacher's {teacher.shape[-1]}; give both the "
            "same modules behind the encoder."
        )
    student, teacher = at_least_float32(student), at_least_float32(teacher)
    turned = 1 - F.cosine_similarity(student, teacher, dim=-1)
    moved = (student - teacher).square().sum(-1) / teacher.square().sum(-1).clamp_min(1e-12)
    return (turned + moved).mean()
