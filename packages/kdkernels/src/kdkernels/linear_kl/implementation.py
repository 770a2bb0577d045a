"""Which code makes `linear_kl`'s losses and gradients from hidden states."""

import functools
from collections.abc import Callable
from typing import Any

import torch

from kdkernels.kl.operator import row_losses_of
from kdkernels.linear_kl import chunked
from kdkernels.products import HALF_PRECISION


def losses_and_gradients_of(
    impl: str,
    *,
    dtypes: tuple[torch.dtype, torch.dtype],
    temperature: float,
    divergence: str,
    beta: float,
) -> Callable[..., Any]:
    """What computes as `chunked.losses_and_gradients`, without its row losses. Imports triton for impl="triton".

    Args:
        impl: "torch" or "triton".
        dtypes: of the student's and the teacher's products.
        temperature: T.
        divergence: "forward_kl", "reverse_kl" or "jsd".
        beta: the teacher's share in the mixture of "jsd".
    """
    if impl == "triton" and all(dtype in HALF_PRECISION for dtype in dtypes):
        from kdkernels.linear_kl import kernel

        return functools.partial(
            kernel.losses_and_gradients,
            temperature=temperature,
            divergence=divergence,
            beta=beta,
        )
    row_losses = functools.partial(
        row_losses_of(impl), temperature=temperature, divergence=divergence, beta=beta
    )
    return functools.partial(
        chunked.losses_and_gradients, temperature=temperature, row_losses=row_losses
    )
