"""`topk_kl`: what it means, what it checks, and which implementation it runs."""

import torch
from torch import Tensor

from kdkernels.checks import choose_impl, require_one_device
from kdkernels.logits_loss import Divergence, OverwritingLoss
from kdkernels.loss_options import LossOptions
from kdkernels.precision import accumulation_dtype
from kdkernels.reduction import masked_scales, scales_on_device
from kdkernels.row_checks import (
    check_logits,
    check_loss_options,
    check_mask,
    check_may_overwrite,
    check_row_weight,
    check_topk,
    require_ids_in_vocabulary,
)
from kdkernels.targets import prepare_targets
from kdkernels.topk_kl import reference
from kdkernels.topk_kl.operator import soft_losses, topk_kl_operator


def topk_kl(
    logits: Tensor,
    topk_ids: Tensor,
    topk_logprobs: Tensor,
    *,
    temperature: float = 1.0,
    tail: str = "bucket",
    divergence: str = "forward_kl",
    beta: float = 0.5,
    log_partition: Tensor | None = None,
    mask: Tensor | None = None,
    row_weight: Tensor | None = None,
    divisor: float | Tensor | None = None,
    overwrite_logits: bool = False,
    impl: str = "auto",
    check: bool = True,
) -> Divergence:
    """Divergence of a student's logits from a teacher's top-k list.

    loss = Σ T² D(p, softmax(logits / T)) / rows over the counted rows, p the teacher's ids at temperature T and, by
    `tail`, one class for all others: the soft part of `linear_distil_loss`, with the same meaning of temperature (Hinton,
    Vinyals & Dean 2015, section 2: T² on value and gradient), tails, divergences, duplicates and infinities.

    Args:
        logits: [N, V] of the student.
        topk_ids: [N, K] columns that the teacher listed, -1 in unused places.
        topk_logprobs: [N, K] natural log-probabilities of the teacher at temperature 1, over its whole vocabulary.
        temperature: T, of both distributions.
        tail: "bucket", "renormalise" or "drop".
        divergence: "forward_kl", "reverse_kl" or "jsd".
        beta: β of "jsd".
        log_partition: [N] log Σ_v p_v^(1/T) over the teacher's vocabulary; needed for T ≠ 1 unless renormalised.
        mask: [N] True for the rows that count, None for all.
        row_weight: [N] factor of each row; it does not enter the number of rows.
        divisor: divides the sum in place of the number of counted rows.
        overwrite_logits: write the gradient over the logits, which are lost; saves [N, V]. They must be contiguous
            and no leaf, and nothing else may need them afterwards: an
            operation that kept them for its own gradient raises in `backward`, a later reading goes unnoticed. In a
            graph of `torch.compile`, which shares out memory itself, they are kept.
        impl: "reference", "torch", "triton", or "auto" as in `linear_distil_loss`.
        check: whether to look at the ids and count the rows, which waits for the device; with False `rows` is a tensor,
            and an id that is no column makes the loss NaN.

    Returns:
        Divergence: the scalar to differentiate, the counted rows, the implementation.

    Raises:
        KernelArgumentError: an argument has the wrong shape, dtype, device or range, or the combination has no
            meaning.

    Example:
        >>> import torch, kdkernels
        >>> logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
        >>> logprobs, ids = torch.log_softmax(logits, 1).topk(2)
        >>> result = kdkernels.topk_kl(logits, ids, logprobs)
        >>> abs(round(float(result.loss), 6)), result.rows
        (0.0, 1)
    """
    operation = "topk_kl"
    options = check_loss_options(
        operation,
        alpha=1.0,
        temperature=temperature,
        tail=tail,
        divergence=divergence,
        beta=beta,
        log_partition=log_partition,
    )
    check_logits(operation, "logits", logits)
    N = logits.shape[0]
    check_topk(operation, topk_ids, topk_logprobs, log_partition, N=N)
    check_mask(operation, mask, N)
    check_row_weight(operation, row_weight, N)
    require_one_device(
        operation, logits=logits, topk_ids=topk_ids, topk_logprobs=topk_logprobs,
        log_partition=log_partition, mask=mask, row_weight=row_weight,
    )  # fmt: skip
    if overwrite_logits:
        check_may_overwrite(operation, "logits", logits)
    chosen = choose_impl(impl, operation=operation, device=logits.device, dtype=logits.dtype)
    return _run(
        logits,
        topk_ids,
        topk_logprobs,
        log_partition,
        options=options,
        tail=tail,
        mask=mask,
        row_weight=row_weight,
        divisor=divisor,
        overwrite=overwrite_logits,
        impl=chosen,
        check=check,
    )


def _run(
    logits: Tensor,
    topk_ids: Tensor,
    topk_logprobs: Tensor,
    log_partition: Tensor | None,
    *,
    options: LossOptions,
    tail: str,
    mask: Tensor | None,
    row_weight: Tensor | None,
    divisor: float | Tensor | None,
    overwrite: bool,
    impl: str,
    check: bool,
) -> Divergence:
    operation = "topk_kl"
    exact = accumulation_dtype(logits.dtype)
    V = logits.shape[1]
    if mask is not None:
        topk_ids = topk_ids.masked_fill(~mask.unsqueeze(1), -1)
    on_device = torch.compiler.is_compiling() or not check
    duplicates = True if on_device else require_ids_in_vocabulary(operation, topk_ids, V)
    rows, row_scale = (scales_on_device if on_device else masked_scales)(
        operation,
        logits.shape[0],
        mask=mask,
        row_weight=row_weight,
        divisor=divisor,
        dtype=exact,
        device=logits.device,
    )
    if on_device and not (check and impl != "reference"):
        wrong = (topk_ids < -1) | (topk_ids >= V)
        topk_ids = topk_ids.masked_fill(wrong, -1)
        row_scale = row_scale.masked_fill(wrong.any(dim=1), torch.nan)
    with torch.autocast(logits.device.type, enabled=False):
        if impl == "reference":
            counted = logits if mask is None else logits.masked_fill(~mask.unsqueeze(1), 0.0)
            losses = reference.soft_loss(
                counted.to(exact), topk_ids, topk_logprobs,
                options=options, tail=tail, log_partition=log_partition,
            )  # fmt: skip
            if mask is not None:
                losses = losses.masked_fill(~mask, 0.0)
            return Divergence((row_scale * losses).sum(), rows, impl)
        wanted = torch.is_grad_enabled() and logits.requires_grad
        if overwrite and wanted and not torch.compiler.is_compiling():
            targets = prepare_targets(
                topk_ids,
                topk_logprobs,
                temperature=options.temperature,
                tail=tail,
                divergence=options.divergence,
                log_partition=log_partition,
                dtype=exact,
                duplicates=duplicates,
                columns=V,
            )
            row_losses = soft_losses(targets, options, impl)
            loss, _ = OverwritingLoss.apply(
                logits, row_losses, mask, row_scale, options.temperature, impl
            )
        else:
            loss, *_ = topk_kl_operator(
                logits,
                topk_ids,
                topk_logprobs,
                log_partition,
                mask,
                row_scale,
                tail,
                *options[1:],
                impl,
                check and on_device,
                duplicates,
                wanted,
            )
    return Divergence(loss, rows, impl)
