"""The teacher's predictions: divergence over the vocabulary at masked positions (Hinton et al. 2015, section 2; DistilBERT).

L_logits = T² · 1/N Σ_n KL(softmax(z_T / T) ‖ softmax(z_S / T))

The factor T² keeps gradients at the size that they have for T = 1.
"""

from __future__ import annotations

from torch import Tensor

from bistil.losses.outputs import LossContext, ModelOutputs
from kdkernels import linear_kl


def logits_loss(student: ModelOutputs, teacher: ModelOutputs, context: LossContext) -> Tensor:
    """Sum over masked positions, divided by `context.divisor`; no logits are held."""
    return linear_kl(
        student.masked_rows,
        student.decoder.weight,
        student.decoder.bias,
        teacher.masked_rows,
        teacher.decoder.weight,
        teacher.decoder.bias,
        temperature=context.settings["temperature"],
        divisor=context.divisor,
    ).loss
