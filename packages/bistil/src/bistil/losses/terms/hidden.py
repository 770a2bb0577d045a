"""Hidden states: the mean squared difference between student and teacher, state by state.

L_hidden = 1/(L_S + 1) Σ_j MSE(h_S[j], h_T[n(j)] P),   n(0) = 0, n(j) = m(j - 1) + 1

with h[0] the embeddings' output and m the map of layers: TinyBERT's equations 8 and 9 (Jiao et al. 2020), as BiStil averages them
(Ansell et al. 2023, section 3). P is the projection of a narrower student, else the identity.

The states of pre-norm models (ModernBERT) are unbounded sums in which a few tokens can outweigh all others: there each token's
squared difference is divided by the mean square of the teacher's state of that token.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bistil.errors import ModelError
from bistil.losses.outputs import LossContext, ModelOutputs, at_least_float32


def hidden_loss(student: ModelOutputs, teacher: ModelOutputs, context: LossContext) -> Tensor:
    """Mean over the student's states, over real tokens and over units.

    Raises:
        ModelError: where widths do not fit.
    """
    states_s, states_t = student.activations.hidden, teacher.activations.hidden
    pairs = [(0, 0), *((i + 1, j + 1) for i, j in enumerate(context.layers))]
    relative = teacher.activations.pre_norm
    return torch.stack([_state(states_s[i], states_t[j], context, relative=relative) for i, j in pairs]).mean()  # fmt: skip


def _state(student: Tensor, teacher: Tensor, context: LossContext, *, relative: bool) -> Tensor:
    student, teacher = context.of_real_tokens(student), context.of_real_tokens(teacher)
    student, teacher = at_least_float32(student), at_least_float32(teacher)
    if context.projection is not None:
        teacher = teacher @ context.projection.to(teacher)
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
