"""Which code makes losses and gradients from hidden states: the lean formulation, or products that end in a softmax."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kdkernels.linear_distil_loss import chunked
from kdkernels.products import HALF_PRECISION
from kdkernels.targets import Targets, prepare_targets
from kdkernels.topk_kl.operator import row_losses_of


def losses_and_gradients_of(impl: str, compute_dtype: torch.dtype) -> Callable[..., Any]:
    """What computes as `chunked.losses_and_gradients`, without its row losses. Imports triton for impl="triton"."""
    if impl == "triton" and compute_dtype in HALF_PRECISION:
        from kdkernels.linear_distil_loss import kernel

        return kernel.losses_and_gradients
    return functools.partial(chunked.losses_and_gradients, row_losses=row_losses_of(impl))


def targets_of(impl: str, K: int, dtype: torch.dtype) -> Callable[..., Targets]:
    """What computes as `targets.prepare_targets`, in `dtype`. Imports triton for impl="triton"."""
    if impl == "triton":
        from kdkernels import targets_kernel

        if targets_kernel.MOST_IDS >= K:
            return targets_kernel.prepare_targets
    return functools.partial(prepare_targets, dtype=dtype)


def look_at(
    impl: str, labels: Tensor, ids: Tensor | None, *, ignore_index: int, V: int
) -> bool | None:
    """Whether a row has an id twice, where all rows count and all is fine by one look; else None. Imports triton likewise."""
    if impl != "triton":
        return None
    from kdkernels import targets_kernel

    if ids is not None and ids.shape[1] > targets_kernel.MOST_IDS:
        return None
    seen = targets_kernel.look(labels, ids, ignore_index=ignore_index, V=V)
    return seen.twice if seen.all_count and seen.fine else None
