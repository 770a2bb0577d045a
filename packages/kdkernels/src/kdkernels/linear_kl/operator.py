"""`torch.ops.kdkernels.linear_kl`: from the hidden states of two models to the student's gradients as one operator."""

import torch
from torch import Tensor

from kdkernels.linear_kl.columns import Columns, check_map
from kdkernels.linear_kl.heads import Head
from kdkernels.linear_kl.implementation import losses_and_gradients_of
from kdkernels.operators import loss_operator, or_empty
from kdkernels.products import default_chunk_bytes, dtype_of_gradient
from kdkernels.reduction import weighted_sum


def _fake(
    hidden_s: Tensor, weight_s: Tensor, bias_s: Tensor | None, *arguments: object
) -> tuple[Tensor, ...]:
    row_scale, wanted = arguments[5], arguments[-3:]
    assert isinstance(row_scale, Tensor)
    gradients = (
        operand.new_empty(operand.shape, dtype=dtype_of_gradient(operand.dtype))
        if operand is not None and want
        else hidden_s.new_empty(0)
        for operand, want in zip((hidden_s, weight_s, bias_s), wanted, strict=True)
    )
    return row_scale.new_empty(()), *gradients


@loss_operator("linear_kl", (0, 1, 2), fake=_fake)
def linear_kl_operator(
    hidden_s: Tensor,
    weight_s: Tensor,
    bias_s: Tensor | None,
    hidden_t: Tensor,
    weight_t: Tensor,
    bias_t: Tensor | None,
    column_map: Tensor | None,
    mask: Tensor | None,
    row_scale: Tensor,
    columns_s: int,
    columns_t: int,
    temperature: float,
    divergence: str,
    beta: float,
    dtype_s: torch.dtype,
    dtype_t: torch.dtype,
    chunk_bytes: int | None,
    impl: str,
    check: bool,
    want_hidden: bool,
    want_weight: bool,
    want_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The loss, and its gradients by the student's hidden, weight and bias.

    Args:
        hidden_s: [N, H_s].
        weight_s: [V_s, H_s].
        bias_s: [V_s] or None.
        hidden_t: [N, H_t].
        weight_t: [V_t, H_t].
        bias_t: [V_t] or None.
        column_map: [columns_s] or None.
        mask: [N] True for the rows that count, None for all.
        row_scale: [N] factor of each row.
        columns_s: real columns of the student's head.
        columns_t: real columns of the teacher's head.
        temperature: T.
        divergence: "forward_kl", "reverse_kl" or "jsd".
        beta: of "jsd".
        dtype_s: of the student's operands in the products.
        dtype_t: of the teacher's.
        chunk_bytes: size of the logits buffers, None for the default of the device.
        impl: "torch" or "triton".
        check: whether to look at the values: the counted rows are then taken out, and the map is checked.
        want_hidden: whether the gradient by hidden is wanted.
        want_weight: whether that by weight is.
        want_bias: whether that by bias is.
    """
    columns = Columns(columns_s, columns_t, column_map)
    if check:
        check_map("linear_kl", columns, divergence)
    student, teacher = Head(hidden_s, weight_s, bias_s), Head(hidden_t, weight_t, bias_t)
    selected = None
    if mask is not None and check:
        selected = mask.nonzero().squeeze(1)
        student, teacher = student.rows(selected), teacher.rows(selected)
        row_scale = row_scale[selected]
    elif mask is not None:
        student, teacher = student.without(~mask), teacher.without(~mask)
    with torch.autocast(hidden_s.device.type, enabled=False):
        compute = losses_and_gradients_of(
            impl,
            dtypes=(dtype_s, dtype_t),
            temperature=temperature,
            divergence=divergence,
            beta=beta,
        )
        losses, gradients = compute(
            student.cast(dtype_s),
            teacher.cast(dtype_t),
            columns,
            row_scale=row_scale,
            wanted=(want_hidden, want_weight, want_bias),
            operands=student,
            chunk_bytes=default_chunk_bytes(hidden_s.device)
            if chunk_bytes is None
            else chunk_bytes,
        )
    by_hidden = gradients.hidden
    if mask is not None and selected is None:
        losses = losses.masked_fill(~mask, 0.0)
        if by_hidden is not None:
            by_hidden = by_hidden.masked_fill_(~mask.unsqueeze(1), 0.0)
    elif selected is not None and by_hidden is not None:
        by_hidden = by_hidden.new_zeros(hidden_s.shape).index_copy_(0, selected, by_hidden)
    return (
        weighted_sum(losses, row_scale),
        or_empty(by_hidden, hidden_s),
        or_empty(gradients.weight, hidden_s),
        or_empty(gradients.bias, hidden_s),
    )
