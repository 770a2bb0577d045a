"""Which code makes losses and gradients from hidden states: the lean formulation, or products that end in a softmax."""

import functools
from collections.abc import Callable
from typing import Any

import torch

from kdkernels.linear_distil_loss import chunked
from kdkernels.products import HALF_PRECISION
from kdkernels.topk_kl.operator import row_losses_of


def losses_and_gradients_of(impl: str, compute_dtype: torch.dtype) -> Callable[..., Any]:
    """What computes as `chunked.losses_and_gradients`, without its row losses. Imports triton for impl="triton"."""
    if impl == "triton" and compute_dtype in HALF_PRECISION:
        from kdkernels.linear_distil_loss import kernel

        return kernel.losses_and_gradients
    return functools.partial(chunked.losses_and_gradients, row_losses=row_losses_of(impl))
