"""The direction of the last hidden states, as DistilBERT compares it (Sanh et al. 2019).

L_cos = 1/N Σ_n (1 - cos(h_S, h_T P)_n)

over the N real tokens of a batch, with P the projection of a narrower student, else the identity.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from bistil.losses.outputs import LossContext, ModelOutputs


def cosine_loss(student: ModelOutputs, teacher: ModelOutputs, context: LossContext) -> Tensor:
    """Mean over real tokens."""
    last_s, last_t = student.activations.last, teacher.activations.last
    assert last_s is not None
    assert last_t is not None
    last_s, last_t = context.of_real_tokens(last_s), context.of_real_tokens(last_t).float()
    if context.projection is not None:
        last_t = last_t @ context.projection.to(last_t)
    return 1 - F.cosine_similarity(last_s.float(), last_t, dim=-1).mean()
