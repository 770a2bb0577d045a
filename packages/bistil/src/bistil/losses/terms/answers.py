"""The answers of a classifier or reranker: divergence of its distributions over the labels (Hinton et al. 2015, section 2).

L_answers = T² · 1/N Σ_n KL(softmax(z_T / T)_n ‖ softmax(z_S / T)_n)

over rows n: texts, the tokens of token classifiers, both ends of an answer. One label alone, as rerankers have, and labels that
do not exclude one another are as many coins: Σ_c KL(Bernoulli(σ(z_T / T)_c) ‖ Bernoulli(σ(z_S / T)_c)).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bistil.losses.outputs import LossContext, ModelOutputs


def answers_loss(student: ModelOutputs, teacher: ModelOutputs, context: LossContext) -> Tensor:
    """Mean over rows, and over the two ends of an answer."""
    temperature = context.settings["temperature"]
    divergences = []
    for name, logits in student.answers.items():
        scaled = logits.float() / temperature, teacher.answers[name].float() / temperature
        divergence = _of_coins(*scaled) if name == "independent" else _of_choices(*scaled)
        divergences.append(temperature**2 * divergence)
    return torch.stack(divergences).mean()


def _of_choices(student: Tensor, teacher: Tensor) -> Tensor:
    """Of softmaxes [N, C]; minus infinity, on both sides, where there is no choice."""
    log_p, log_q = teacher.log_softmax(-1), student.log_softmax(-1)
    apart = (log_p - log_q).masked_fill(torch.isneginf(log_p), 0)
    return (log_p.exp() * apart).sum(-1).mean()


def _of_coins(student: Tensor, teacher: Tensor) -> Tensor:
    """Of sigmoids [N, C]."""
    heads = teacher.sigmoid()
    cross, entropy = (
        F.binary_cross_entropy_with_logits(z, heads, reduction="none") for z in (student, teacher)
    )
    return (cross - entropy).sum(-1).mean()
