"""Translations: both sides' vectors to the teacher's vector of the source (Reimers and Gurevych 2020, section 2).

L_parallel = d(v_S(source), v_T(source)) + d(v_S(target), v_T(source))

with d the distance of `bistil.losses.terms.embedding`. The target language is drawn to where the teacher puts the source, which it
knows better.
"""

from __future__ import annotations

from torch import Tensor

from bistil.losses.outputs import LossContext, ModelOutputs
from bistil.losses.terms.embedding import vector_distance


def parallel_loss(student: ModelOutputs, teacher: ModelOutputs, _context: LossContext) -> Tensor:
    """Mean over the pairs of a batch; the student's vectors [2B, D] are the sources' and behind them the targets'.

    Raises:
        ModelError: where the vectors differ in dimension.
    """
    assert student.vectors is not None
    assert teacher.vectors is not None
    sources, targets = student.vectors.chunk(2)
    return vector_distance(sources, teacher.vectors) + vector_distance(targets, teacher.vectors)
