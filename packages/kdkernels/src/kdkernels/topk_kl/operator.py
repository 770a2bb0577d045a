"""`torch.ops.kdkernels.topk_kl`: the loss of logits at hand and their gradient as one operator."""

from collections.abc import Callable

import torch
from torch import Tensor

from kdkernels.logits_loss import fake_outputs, loss_and_gradient
from kdkernels.loss_options import LossOptions
from kdkernels.operators import loss_operator
from kdkernels.precision import accumulation_dtype
from kdkernels.row_checks import require_ids_in_vocabulary
from kdkernels.targets import Targets, prepare_targets
from kdkernels.topk_kl import chunked


def _fake(logits: Tensor, *arguments: object) -> tuple[Tensor, ...]:
    return fake_outputs(logits, want_gradient=bool(arguments[-1]))


@loss_operator("topk_kl", (0,), fake=_fake, rescaled=True)
def topk_kl_operator(
    logits: Tensor,
    topk_ids: Tensor,
    topk_logprobs: Tensor,
    log_partition: Tensor | None,
    mask: Tensor | None,
    row_scale: Tensor,
    tail: str,
    temperature: float,
    divergence: str,
    beta: float,
    impl: str,
    check: bool,
    duplicates: bool,
    want_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss, what its gradient is multiplied with (empty for 1), and its gradient by the logits.

    Args:
        logits: [N, V].
        topk_ids: [N, K], -1 in rows that do not count.
        topk_logprobs: [N, K].
        log_partition: [N] or None.
        mask: [N] True for the rows that count, None for all.
        row_scale: [N] factor of each row.
        tail: what becomes of the teacher's other columns.
        temperature: T.
        divergence: "forward_kl", "reverse_kl" or "jsd".
        beta: of "jsd".
        impl: "torch" or "triton".
        check: whether to look whether the ids are columns.
        duplicates: whether an id may occur twice in a row, where nobody checks.
        want_gradient: whether the gradient is wanted.
    """
    if check:
        duplicates = require_ids_in_vocabulary("topk_kl", topk_ids, logits.shape[1])
    with torch.autocast(logits.device.type, enabled=False):
        targets = prepare_targets(
            topk_ids,
            topk_logprobs,
            temperature=temperature,
            tail=tail,
            divergence=divergence,
            log_partition=log_partition,
            dtype=accumulation_dtype(logits.dtype),
            duplicates=duplicates,
            columns=logits.shape[1],
        )
        return loss_and_gradient(
            logits,
            logits.new_empty(logits.shape) if want_gradient else None,
            soft_losses(targets, LossOptions(1.0, temperature, divergence, beta), impl),
            mask,
            row_scale,
            temperature,
        )


def soft_losses(targets: Targets, options: LossOptions, impl: str) -> Callable[..., Tensor]:
    """From (logits, gradient, row_scale) to the soft loss of each row, by an implementation."""

    def row_losses(z: Tensor, gradient: Tensor | None, row_scale: Tensor) -> Tensor:
        return row_losses_of(impl)(
            z, labels=None, targets=targets, row_scale=row_scale, options=options, gradient=gradient
        )[1]

    return row_losses


def row_losses_of(impl: str) -> Callable[..., tuple[Tensor, Tensor]]:
    """The row losses of an implementation. Triton is imported here and nowhere else."""
    if impl == "triton":
        from kdkernels.topk_kl import kernel

        return kernel.row_losses
    return chunked.row_losses
