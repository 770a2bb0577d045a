"""`linear_distil_loss`: what it means, what it checks, and which implementation it runs."""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kdkernels.checks import (
    KernelArgumentError,
    choose_impl,
    require_floating,
    require_number,
    require_one_device,
    require_shape,
)
from kdkernels.compiling import no_compile
from kdkernels.linear_distil_loss import chunked, reference
from kdkernels.loss_options import LossOptions
from kdkernels.precision import accumulation_dtype
from kdkernels.products import default_chunk_bytes
from kdkernels.projection_gradients import Gradients
from kdkernels.reduction import row_scales, scaled, weighted_sum
from kdkernels.row_checks import (
    check_labels,
    check_loss_options,
    check_row_weight,
    check_topk,
    require_ids_in_vocabulary,
    require_labels_in_vocabulary,
)
from kdkernels.targets import prepare_targets
from kdkernels.topk_kl.api import row_losses_of


class DistilLoss(NamedTuple):
    """A distillation loss and its parts."""

    loss: Tensor
    """(1-alpha)·hard + alpha·soft, a scalar to differentiate."""
    hard: Tensor
    """The mean cross-entropy with the labels, detached."""
    soft: Tensor
    """The mean divergence from the teacher times T², detached."""
    rows: int
    """How many rows counted."""
    impl: str
    """The implementation that ran."""


@no_compile
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
    keep the dtype of their operands. `torch.compile` breaks its graph around the call.

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
        chunk_bytes: size of the logits buffer; None for 256 MiB on a CPU and 1 GiB on a GPU.
        impl: "reference", "torch", "triton", or "auto": triton for float32, float16 and bfloat16 on an NVIDIA device
            of compute capability 8.0 or more where it is installed, torch elsewhere.

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
        hidden,
        weight,
        bias,
        labels,
        TopkArguments(topk_ids, topk_logprobs, tail, log_partition),
        options=options,
        row_weight=row_weight,
        ignore_index=ignore_index,
        divisor=divisor,
        chunk_bytes=chunk_bytes,
        impl=impl,
    )


class TopkArguments(NamedTuple):
    """The teacher's side of a call."""

    ids: Tensor
    logprobs: Tensor
    tail: str
    log_partition: Tensor | None

    def select(self, counted: Tensor) -> "TopkArguments":
        """The same for some rows."""
        return TopkArguments(
            self.ids[counted],
            self.logprobs[counted],
            self.tail,
            None if self.log_partition is None else self.log_partition[counted],
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
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    topk: TopkArguments | None,
    *,
    options: LossOptions,
    row_weight: Tensor | None,
    ignore_index: int,
    divisor: float | Tensor | None,
    chunk_bytes: int | None,
    impl: str,
) -> DistilLoss:
    """Select the counted rows, settle the targets, and compute; without `topk` there is no soft part."""
    if chunk_bytes is not None:
        require_number("chunk_bytes", chunk_bytes, operation=operation, low=1)
    kind = hidden.device.type
    compute_dtype = hidden.dtype
    if torch.is_autocast_enabled(kind) and hidden.dtype != torch.float64:
        compute_dtype = torch.get_autocast_dtype(kind)
    chosen = choose_impl(impl, operation=operation, device=hidden.device, dtype=compute_dtype)
    V = weight.shape[0]
    counted = (labels != ignore_index).nonzero().squeeze(1)
    rows = len(counted)
    if rows < len(labels):
        hidden, labels = hidden.index_select(0, counted), labels[counted]
        row_weight = None if row_weight is None else row_weight[counted]
        topk = None if topk is None else topk.select(counted)
    labels = labels.to(torch.int64)
    require_labels_in_vocabulary(operation, labels, V)
    duplicates = topk is not None and require_ids_in_vocabulary(operation, topk.ids, V)
    exact = accumulation_dtype(compute_dtype)
    row_scale = row_scales(
        operation, rows, row_weight=row_weight, divisor=divisor, dtype=exact, device=hidden.device
    )
    with torch.autocast(kind, enabled=False):
        if chosen == "reference":
            return _reference(hidden, weight, bias, labels, topk, row_scale, options)
        targets = None
        if topk is not None:
            targets = prepare_targets(
                topk.ids,
                topk.logprobs,
                temperature=options.temperature,
                tail=topk.tail,
                divergence=options.divergence,
                log_partition=topk.log_partition,
                dtype=exact,
                duplicates=duplicates,
                columns=V,
            )
        compute = functools.partial(
            chunked.losses_and_gradients,
            labels=labels,
            targets=targets,
            row_scale=row_scale,
            options=options,
            compute_dtype=compute_dtype,
            chunk_bytes=default_chunk_bytes(hidden.device) if chunk_bytes is None else chunk_bytes,
            row_losses=row_losses_of(chosen),
        )
        loss, hard, soft = _LinearDistilLoss.apply(
            hidden, weight, bias, compute, row_scale, options.alpha, torch.is_grad_enabled()
        )
    return DistilLoss(loss, hard, soft, rows, chosen)


def _reference(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    topk: TopkArguments | None,
    row_scale: Tensor,
    options: LossOptions,
) -> DistilLoss:
    ids, logprobs, tail, log_partition = topk or (None, None, "bucket", None)
    hard_rows, soft_rows = reference.losses(
        hidden, weight, bias, labels, ids, logprobs,
        options=options, tail=tail, log_partition=log_partition,
    )  # fmt: skip
    hard, soft = (row_scale * hard_rows).sum(), (row_scale * soft_rows).sum()
    loss = (1 - options.alpha) * hard + options.alpha * soft
    return DistilLoss(loss, hard.detach(), soft.detach(), len(labels), "reference")


class _LinearDistilLoss(torch.autograd.Function):
    """The gradients are made with the loss, while the logits are at hand."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        compute: Callable[..., tuple[Tensor, Tensor, Gradients]],
        row_scale: Tensor,
        alpha: float,
        grad_enabled: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        wanted = tuple(grad_enabled and needed for needed in ctx.needs_input_grad[:3])
        hard_rows, soft_rows, gradients = compute(hidden, weight, bias, wanted=wanted)
        ctx.save_for_backward(*gradients)
        ctx.dtypes = [
            None if operand is None else operand.dtype for operand in (hidden, weight, bias)
        ]
        hard, soft = weighted_sum(hard_rows, row_scale), weighted_sum(soft_rows, row_scale)
        ctx.mark_non_differentiable(hard, soft)
        return (1 - alpha) * hard + alpha * soft, hard, soft

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        gradients = map(scaled, ctx.saved_tensors, itertools.repeat(grad_output), ctx.dtypes)
        return (*gradients, None, None, None, None)
