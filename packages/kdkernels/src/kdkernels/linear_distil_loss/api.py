"""`linear_distil_loss`: what it means, what it checks, and which implementation it runs."""

from typing import NamedTuple

import torch
from torch import Tensor

from kdkernels.checks import (
    KernelArgumentError,
    choose_impl,
    require_floating,
    require_number,
    require_one_device,
    require_shape,
)
from kdkernels.linear_distil_loss import reference
from kdkernels.linear_distil_loss.implementation import look_at
from kdkernels.linear_distil_loss.operator import linear_distil
from kdkernels.linear_distil_loss.rows import Rows, weight_of_rows
from kdkernels.loss_options import LossOptions
from kdkernels.precision import accumulation_dtype
from kdkernels.reduction import row_scales, scales_on_device
from kdkernels.row_checks import (
    check_labels,
    check_loss_options,
    check_row_weight,
    check_topk,
)


class DistilLoss(NamedTuple):
    """A distillation loss and its parts."""

    loss: Tensor
    """(1-alpha)·hard + alpha·soft, a scalar to differentiate."""
    hard: Tensor
    """The mean cross-entropy with the labels, detached."""
    soft: Tensor
    """The mean divergence from the teacher times T², detached."""
    rows: int | Tensor
    """How many rows counted; a tensor on the device with `check=False` and inside a compiled graph."""
    impl: str
    """The implementation that ran."""


def linear_distil_loss(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    topk_ids: Tensor,
    topk_logprobs: Tensor,
    *,
    alpha: float,
    temperature: float = 1.0,
    tail: str = "bucket",
    divergence: str = "forward_kl",
    beta: float = 0.5,
    log_partition: Tensor | None = None,
    row_weight: Tensor | None = None,
    ignore_index: int = -100,
    divisor: float | Tensor | None = None,
    chunk_bytes: int | None = None,
    impl: str = "auto",
    check: bool = True,
) -> DistilLoss:
    """Hard cross-entropy and top-k distillation from hidden states, in one pass over the vocabulary.

    With z = hidden weightᵀ + bias, loss = (1-alpha)·hard + alpha·soft, each part the sum over counted rows divided
    by their number (or by `divisor`):

    - hard = -log softmax(z)[label];
    - soft = T² D(p, q), with q = softmax(z / T) over the whole vocabulary and p the teacher at temperature T:
      log p_k = topk_logprobs_k / T - log_partition. T² scales value and gradient alike (Hinton, Vinyals & Dean 2015,
      "Distilling the Knowledge in a Neural Network", section 2).

    A teacher that is its k most probable ids is MergeDistill's (Khanuja, Johnson & Talukdar 2021); logits by chunks are
    Liger Kernel's fused linear cross-entropy (Hsu et al. 2024), with gradients in float32 and a soft part.

    The divergence D (Σₖ over the row's ids; r = 1 - Σₖ pₖ and s = 1 - Σₖ qₖ, both without cancellation):

    - "forward_kl", KL(p ‖ q) = Σₖ pₖ (log pₖ - log qₖ) + r (log r - log s);
    - "reverse_kl", KL(q ‖ p) = Σₖ qₖ (log qₖ - log pₖ) + s (log s - log r), with r held at 2⁻²⁴ or above; an id
      recorded with probability 0 makes it infinite;
    - "jsd", β KL(p ‖ m) + (1-β) KL(q ‖ m) with m = β p + (1-β) q, likewise over the K ids and the rest; 0 < β < 1
      (the generalised Jensen-Shannon divergence of Agarwal et al. 2024, "On-Policy Distillation of Language Models").

    The tail says what becomes of the mass r that the teacher gave to no listed id:

    - "bucket" (exact up to how r spreads): the rest of the vocabulary is one more class. A student equal to the
      teacher scores 0.
    - "renormalise": the teacher is pₖ / Σ pₖ, the rest gets nothing, the student keeps its full partition. Needs no
      `log_partition`. Loses the teacher's doubt: the optimum puts no mass outside the top-k. Not for reverse_kl.
    - "drop": the term of the rest is left out. Loses the zero: the value can be negative and a student equal to the
      teacher scores nothing in particular. forward_kl only.

    A row counts if its label is not `ignore_index`; other rows take no part, whatever they hold. A counted row without
    ids has soft = 0. An id that occurs twice in a row stands for the sum of its probabilities. Probabilities that sum
    to more than 1 leave r = 0, and so does a row that lists the whole vocabulary. NaN and infinities in counted rows
    propagate by the formulae. Over no rows the loss and all gradients are exactly 0. Results do not vary from run to
    run.

    The gradient is computed together with the loss, so `backward` only scales it; it is not differentiable again.
    Where the loss is scaled (a loss scaler, gradient accumulation), the scaled weight gradient is a copy: give
    `divisor` instead. Logits are rounded to the operands' dtype and all else is computed in float32 (float64 for
    float64); every gradient is summed in float32. The gradient by the logits passes through the operands' dtype; in
    float16, whose smallest number is 6e-8, it is kept times a power of two, and the gradients by float16 operands wait
    in float32 for the factor of a loss scaler. Under autocast the products are taken in its dtype while the gradients
    keep the dtype of their operands. In a graph of `torch.compile` the call is one operator; the graph checks values when
    it runs, and `rows` is a tensor.

    Keep the call outside of what `torch.utils.checkpoint` wraps: recomputed in the backward pass, it makes its
    gradients twice, six products in place of three, and holds no logits that checkpointing could save. Under FSDP call
    it inside the forward of the module whose parameters are gathered with the weight; a DTensor is refused.

    Args:
        hidden: [N, H] hidden states; select the masked rows before the call, it is cheaper.
        weight: [V, H] of the output projection.
        bias: [V] or None.
        labels: [N] columns, or `ignore_index`.
        topk_ids: [N, K] columns that the teacher listed, -1 in unused places.
        topk_logprobs: [N, K] natural log-probabilities of the teacher at temperature 1, over its whole vocabulary.
        alpha: weight of the soft part, from 0 to 1.
        temperature: T, of both distributions in the soft part.
        tail: "bucket", "renormalise" or "drop".
        divergence: "forward_kl", "reverse_kl" or "jsd".
        beta: β of "jsd".
        log_partition: [N] log Σ_v p_v^(1/T) over the teacher's vocabulary; needed for T ≠ 1 unless renormalised.
        row_weight: [N] factor of each row; it does not enter the number of rows.
        ignore_index: the label of rows that do not count.
        divisor: divides the sums in place of the number of counted rows (the global number under gradient
            accumulation or data parallelism).
        chunk_bytes: size of the logits buffer; None for 256 MiB on a CPU (more in bfloat16, where the buffer takes no
            more than the float32 sums of several chunks would), and on a GPU a sixteenth of its memory, at most 4 GiB.
        impl: "reference", "torch", "triton", or "auto": triton for float32, float16 and bfloat16 on an NVIDIA device
            of compute capability 8.0 or more where it is installed, torch elsewhere.
        check: whether to look at labels and ids, and to take counted rows out; both wait for the device. With False
            nothing does, as CUDA graphs need it: rows that do not count are computed with the others (and add exactly 0),
            `rows` is a tensor, and a label or id that is no column makes the loss NaN.

    Returns:
        DistilLoss: the scalar to differentiate, its detached parts, the counted rows, the implementation.

    Raises:
        KernelArgumentError: an argument has the wrong shape, dtype, device or range, or the combination has no
            meaning.

    Example:
        >>> import torch, kdkernels
        >>> hidden, weight = torch.randn(3, 8, requires_grad=True), torch.randn(20, 8, requires_grad=True)
        >>> ids, logprobs = torch.tensor([[1, 2], [7, 3], [4, -1]]), torch.log(torch.tensor([[0.6, 0.3]] * 3))
        >>> labels = torch.tensor([1, 7, -100])
        >>> result = kdkernels.linear_distil_loss(hidden, weight, None, labels, ids, logprobs, alpha=0.5)
        >>> result.loss.backward()
        >>> result.rows, result.impl
        (2, 'torch')
    """
    operation = "linear_distil_loss"
    options = check_loss_options(
        operation,
        alpha=alpha,
        temperature=temperature,
        tail=tail,
        divergence=divergence,
        beta=beta,
        log_partition=log_partition,
    )
    check_operands(operation, hidden, weight, bias, labels, row_weight)
    check_topk(operation, topk_ids, topk_logprobs, log_partition, N=hidden.shape[0])
    require_one_device(
        operation, hidden=hidden, topk_ids=topk_ids, topk_logprobs=topk_logprobs,
        log_partition=log_partition,
    )  # fmt: skip
    return run(
        operation,
        Rows(
            hidden,
            labels,
            weight_of_rows(row_weight, labels),
            topk_ids,
            topk_logprobs,
            log_partition,
        ),
        weight,
        bias,
        options=options,
        tail=tail,
        ignore_index=ignore_index,
        divisor=divisor,
        chunk_bytes=chunk_bytes,
        impl=impl,
        check=check,
    )


def check_operands(
    operation: str,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    row_weight: Tensor | None,
) -> None:
    """Refuse operands that do not fit together."""
    require_shape("hidden", hidden, (None, None), axes="[N, H]", operation=operation)
    N, H = hidden.shape
    require_shape("weight", weight, (None, H), axes="[V, H]", operation=operation)
    require_floating("hidden", hidden, operation=operation)
    require_floating("weight", weight, operation=operation)
    if weight.shape[0] == 0:
        raise KernelArgumentError(
            f"{operation}: weight must have at least one column; got [0, {H}]"
        )
    if bias is not None:
        require_shape("bias", bias, (weight.shape[0],), axes="[V]", operation=operation)
        require_floating("bias", bias, operation=operation)
    check_labels(operation, labels, N)
    check_row_weight(operation, row_weight, N)
    require_one_device(
        operation, hidden=hidden, weight=weight, bias=bias, labels=labels, row_weight=row_weight
    )
    if hidden.dtype != weight.dtype and not torch.is_autocast_enabled(hidden.device.type):
        raise KernelArgumentError(
            f"{operation}: hidden and weight must have one dtype outside autocast; "
            f"got {hidden.dtype} and {weight.dtype}"
        )


def run(
    operation: str,
    rows: Rows,
    weight: Tensor,
    bias: Tensor | None,
    *,
    options: LossOptions,
    tail: str,
    ignore_index: int,
    divisor: float | Tensor | None,
    chunk_bytes: int | None,
    impl: str,
    check: bool,
) -> DistilLoss:
    """Settle which rows count and what each weighs, and compute; without a top-k there is no soft part."""
    if chunk_bytes is not None:
        require_number("chunk_bytes", chunk_bytes, operation=operation, low=1)
    device, dtype = rows.hidden.device, rows.hidden.dtype
    if torch.is_autocast_enabled(device.type) and dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device.type)
    chosen = choose_impl(impl, operation=operation, device=device, dtype=dtype)
    rows, counted, number, duplicates = _counted_rows(
        operation,
        rows,
        V=weight.shape[0],
        ignore_index=ignore_index,
        divisor=divisor,
        dtype=accumulation_dtype(dtype),
        check=check,
        impl=chosen,
    )
    with torch.autocast(device.type, enabled=False):
        if chosen == "reference":
            return _reference(rows, weight, bias, counted, number, options, tail)
        wants = (
            torch.is_grad_enabled() and x is not None and x.requires_grad
            for x in (rows.hidden, weight, bias)
        )
        loss, hard, soft, *_ = linear_distil(
            rows.hidden,
            weight,
            bias,
            *rows[1:],
            counted,
            operation,
            *options,
            tail,
            dtype,
            None if chunk_bytes is None else int(chunk_bytes),
            chosen,
            check,
            duplicates,
            *wants,
        )
    return DistilLoss(loss, hard, soft, number, chosen)


def _counted_rows(
    operation: str,
    rows: Rows,
    *,
    V: int,
    ignore_index: int,
    divisor: float | Tensor | None,
    dtype: torch.dtype,
    check: bool,
    impl: str,
) -> tuple[Rows, Tensor | None, int | Tensor, bool]:
    """Take the counted rows out and check them; where nobody may look at values, say which they are.

    Returns:
        The rows with their factors, which of them count (None for all), how many do, and whether an id may occur twice.
    """
    device = rows.labels.device
    if check and not torch.compiler.is_compiling():
        twice = look_at(impl, rows.labels, rows.topk_ids, ignore_index=ignore_index, V=V)
        if twice is not None:
            labelled = len(rows.labels)
            scale = row_scales(
                operation,
                labelled,
                row_weight=rows.scale,
                divisor=divisor,
                dtype=dtype,
                device=device,
            )
            return rows._replace(scale=scale), None, labelled, twice
    counted = rows.labels != ignore_index
    if torch.compiler.is_compiling() or not check:
        number, scale = scales_on_device(
            operation,
            len(counted),
            mask=counted,
            row_weight=rows.scale,
            divisor=divisor,
            dtype=dtype,
            device=device,
        )
        return rows._replace(scale=scale), counted, number, True
    selected = counted.nonzero().squeeze(1)
    if len(selected) < len(counted):
        rows = rows.select(selected)
    duplicates = rows.check(operation, V)
    scale = row_scales(
        operation, len(selected), row_weight=rows.scale, divisor=divisor, dtype=dtype, device=device
    )
    return rows._replace(scale=scale), None, len(selected), duplicates


def _reference(
    rows: Rows,
    weight: Tensor,
    bias: Tensor | None,
    counted: Tensor | None,
    number: int | Tensor,
    options: LossOptions,
    tail: str,
) -> DistilLoss:
    if counted is not None:
        rows = rows.mask(counted, weight.shape[0])
    hard_rows, soft_rows = reference.losses(
        rows.hidden, weight, bias, rows.labels.to(torch.int64), rows.topk_ids, rows.topk_logprobs,
        options=options, tail=tail, log_partition=rows.log_partition,
    )  # fmt: skip
    if counted is not None:
        hard_rows, soft_rows = (part.masked_fill(~counted, 0.0) for part in (hard_rows, soft_rows))
    hard, soft = (rows.scale * hard_rows).sum(), (rows.scale * soft_rows).sum()
    loss = (1 - options.alpha) * hard + options.alpha * soft
    return DistilLoss(loss, hard.detach(), soft.detach(), number, "reference")
