"""Distillation losses from hidden states to a vocabulary, without the logits."""

from importlib.metadata import version as _version

from kdkernels.attention_maps.map_loss import MapLoss
from kdkernels.attention_mse.api import attention_mse
from kdkernels.checks import KernelArgumentError
from kdkernels.kl.api import kl
from kdkernels.linear_cross_entropy.api import CrossEntropy, linear_cross_entropy
from kdkernels.linear_distil_loss.api import DistilLoss, linear_distil_loss
from kdkernels.linear_kl.api import linear_kl
from kdkernels.logits_loss import Divergence
from kdkernels.modules import (
    AttentionMse,
    Kl,
    LinearCrossEntropy,
    LinearDistilLoss,
    LinearKl,
    RelationKl,
    TopkKl,
)
from kdkernels.relation_kl.api import relation_kl
from kdkernels.topk_kl.api import topk_kl

__all__ = [
    "AttentionMse",
    "CrossEntropy",
    "DistilLoss",
    "Divergence",
    "KernelArgumentError",
    "Kl",
    "LinearCrossEntropy",
    "LinearDistilLoss",
    "LinearKl",
    "MapLoss",
    "RelationKl",
    "TopkKl",
    "__version__",
    "attention_mse",
    "kl",
    "linear_cross_entropy",
    "linear_distil_loss",
    "linear_kl",
    "relation_kl",
    "topk_kl",
]

__version__ = _version("kdkernels")
