"""The text itself: cross-entropy at masked positions, as a masked LM is pretrained (Devlin et al. 2019, section 3.1).

L_mlm = - 1/N Σ_n log q_n[y_n]

with q_n the student's distribution over the vocabulary at masked position n and y_n the piece that stood there.
"""

from __future__ import annotations

from torch import Tensor

from bistil.losses.outputs import LossContext, ModelOutputs
from kdkernels import linear_cross_entropy


def masked_lm_loss(
    student: ModelOutputs, _teacher: ModelOutputs | None, context: LossContext
) -> Tensor:
    """Sum over masked positions, divided by `context.divisor`; no logits are held."""
    decoder, labels = student.decoder, context.labels
    assert labels is not None
    return linear_cross_entropy(
        student.masked_rows, decoder.weight, decoder.bias, labels, divisor=context.divisor
    ).loss
