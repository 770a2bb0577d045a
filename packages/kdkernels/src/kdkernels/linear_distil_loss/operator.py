"""`torch.ops.kdkernels.linear_distil`: the loss from hidden states to gradients as one operator, with or without a teacher."""

import torch
from torch import Tensor

from kdkernels.linear_distil_loss.implementation import losses_and_gradients_of, targets_of
from kdkernels.linear_distil_loss.rows import Rows
from kdkernels.loss_options import LossOptions
from kdkernels.operators import loss_operator, or_empty
from kdkernels.precision import accumulation_dtype
from kdkernels.products import default_chunk_bytes, dtype_of_gradient
from kdkernels.projection_gradients import bytes_of_sums
from kdkernels.reduction import weighted_sum


def _fake(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, *arguments: object
) -> tuple[Tensor, ...]:
    wanted = arguments[-3:]
    loss = hidden.new_empty((), dtype=accumulation_dtype(hidden.dtype))
    gradients = (
        operand.new_empty(operand.shape, dtype=dtype_of_gradient(operand.dtype))
        if operand is not None and want
        else hidden.new_empty(0)
        for operand, want in zip((hidden, weight, bias), wanted, strict=True)
    )
    return loss, torch.empty_like(loss), torch.empty_like(loss), *gradients


@loss_operator("linear_distil", (0, 1, 2), fake=_fake)
def linear_distil(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    row_scale: Tensor,
    topk_ids: Tensor | None,
    topk_logprobs: Tensor | None,
    log_partition: Tensor | None,
    counted: Tensor | None,
    operation: str,
    alpha: float,
    temperature: float,
    divergence: str,
    beta: float,
    tail: str,
    compute_dtype: torch.dtype,
    chunk_bytes: int | None,
    impl: str,
    check: bool,
    duplicates: bool,
    want_hidden: bool,
    want_weight: bool,
    want_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The loss, its hard and its soft part, and its gradients by hidden, weight and bias.

    Args:
        hidden: [N, H].
        weight: [V, H].
        bias: [V] or None.
        labels: [N].
        row_scale: [N] factor of each row.
        topk_ids: [N, K] or None for no soft part.
        topk_logprobs: [N, K] or None.
        log_partition: [N] or None.
        counted: [N] bool; None for all rows, whose labels and ids are then known to be columns.
        operation: the public function's name, for messages.
        alpha: weight of the soft part.
        temperature: T.
        divergence: of the soft part.
        beta: of "jsd".
        tail: what becomes of the teacher's other columns.
        compute_dtype: of the operands in the products.
        chunk_bytes: size of the logits buffer, None for the default of the device.
        impl: "torch" or "triton".
        check: whether to look at the values: counted rows are then taken out, and labels and ids checked.
        duplicates: whether an id may occur twice in a row, where nobody checks.
        want_hidden: whether the gradient by hidden is wanted.
        want_weight: whether that by weight is.
        want_bias: whether that by bias is.
    """
    V = weight.shape[0]
    options = LossOptions(alpha, temperature, divergence, beta)
    rows = Rows(hidden, labels, row_scale, topk_ids, topk_logprobs, log_partition)
    selected = None
    if counted is not None and check:
        selected = counted.nonzero().squeeze(1)
        rows = rows.select(selected)
        duplicates = rows.check(operation, V)
    elif counted is not None:
        rows = rows.mask(counted, V)
    with torch.autocast(hidden.device.type, enabled=False):
        targets = None
        if rows.topk_ids is not None and rows.topk_logprobs is not None:
            targets = targets_of(impl, rows.topk_ids.shape[1], accumulation_dtype(compute_dtype))(
                rows.topk_ids,
                rows.topk_logprobs,
                temperature=temperature,
                tail=tail,
                divergence=divergence,
                log_partition=rows.log_partition,
                duplicates=duplicates,
                columns=V,
            )
        if chunk_bytes is None:
            chunk_bytes = default_chunk_bytes(
                hidden.device,
                one_chunk=len(rows.hidden) * V * compute_dtype.itemsize,
                spared=bytes_of_sums(weight) if want_weight else 0,
            )
        compute = losses_and_gradients_of(impl, compute_dtype)
        hard_rows, soft_rows, gradients = compute(
            rows.hidden,
            weight,
            bias,
            labels=rows.labels.to(torch.int64),
            targets=targets,
            row_scale=rows.scale,
            options=options,
            wanted=(want_hidden, want_weight, want_bias),
            compute_dtype=compute_dtype,
            chunk_bytes=chunk_bytes,
        )
    by_hidden = gradients.hidden
    if counted is not None and selected is None:
        hard_rows, soft_rows = (part.masked_fill(~counted, 0.0) for part in (hard_rows, soft_rows))
        if by_hidden is not None:
            by_hidden = by_hidden.masked_fill_(~counted.unsqueeze(1), 0.0)
    elif selected is not None and by_hidden is not None:
        by_hidden = by_hidden.new_zeros(hidden.shape).index_copy_(0, selected, by_hidden)
    hard, soft = weighted_sum(hard_rows, rows.scale), weighted_sum(soft_rows, rows.scale)
    return (
        (1 - alpha) * hard + alpha * soft,
        hard,
        soft,
        or_empty(by_hidden, hidden),
        or_empty(gradients.weight, hidden),
        or_empty(gradients.bias, hidden),
    )
