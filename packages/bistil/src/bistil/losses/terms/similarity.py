"""Relations within a batch: to whom each sentence is near, and how near, in the words of a softmax over the others.

L_similarity = 1/B Σ_a KL(softmax_{b ≠ a}(cos(v_T[a], v_T[b]) / τ) ‖ softmax_{b ≠ a}(cos(v_S[a], v_S[b]) / τ))

Distillation of similarities (SEED, Fang et al. 2021, section 3.2, whose queue of earlier vectors is the batch here; as relations
of a batch: Park et al. 2019). A student may turn its whole space and keep them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bistil.losses.outputs import LossContext, ModelOutputs, at_least_float32


def similarity_loss(student: ModelOutputs, teacher: ModelOutputs, context: LossContext) -> Tensor:
    """Mean over the sentences of a batch; 0 of a batch of one or two, which have no choice of neighbours."""
    assert student.vectors is not None
    assert teacher.vectors is not None
    temperature = context.settings["similarity_temperature"]
    log_s, log_t = (
        _log_neighbours(vectors, temperature) for vectors in (student.vectors, teacher.vectors)
    )
    return F.kl_div(log_s, log_t, reduction="none", log_target=True).sum(-1).mean()


def _log_neighbours(vectors: Tensor, temperature: float) -> Tensor:
    """[B, B - 1] log-probabilities of the other sentences."""
    vectors = F.normalize(at_least_float32(vectors), dim=-1)
    cosines = vectors @ vectors.T
    count = len(cosines)
    others = ~torch.eye(count, dtype=torch.bool, device=cosines.device)
    return F.log_softmax(cosines[others].view(count, count - 1) / temperature, dim=-1)
