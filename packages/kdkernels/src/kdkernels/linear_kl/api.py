"""`linear_kl`: what it means, what it checks, and which implementation it runs."""

from typing import Any

import torch
from torch import Tensor

from kdkernels.checks import choose_impl, require_number, require_one_device
from kdkernels.linear_kl import reference
from kdkernels.linear_kl.columns import Columns, check_map, match_columns
from kdkernels.linear_kl.heads import Head, check_head
from kdkernels.linear_kl.operator import linear_kl_operator
from kdkernels.logits_loss import Divergence
from kdkernels.precision import accumulation_dtype
from kdkernels.reduction import row_scales, scales_on_device
from kdkernels.row_checks import check_divergence, check_mask, check_row_weight


def linear_kl(
    hidden_s: Tensor,
    weight_s: Tensor,
    bias_s: Tensor | None,
    hidden_t: Tensor,
    weight_t: Tensor,
    bias_t: Tensor | None,
    *,
    temperature: float = 1.0,
    divergence: str = "forward_kl",
    beta: float = 0.5,
    column_map: Tensor | None = None,
    vocab_size: int | None = None,
    teacher_vocab_size: int | None = None,
    mask: Tensor | None = None,
    row_weight: Tensor | None = None,
    divisor: float | Tensor | None = None,
    chunk_bytes: int | None = None,
    impl: str = "auto",
    check: bool = True,
) -> Divergence:
    """Divergence of a student from a teacher that runs beside it, from the hidden states of both, without [N, V].

    With z = hidden weightᵀ + bias on either side, loss = Σ T² D(p, q) / rows over the counted rows,
    p = softmax(z_t / T), q = softmax(z_s / T): "forward_kl" is KL(p ‖ q), "reverse_kl" KL(q ‖ p), "jsd"
    β KL(p ‖ m) + (1-β) KL(q ‖ m) with m = β p + (1-β) q (Agarwal et al. 2024, "On-Policy Distillation of Language
    Models"). T² scales value and gradient alike (Hinton, Vinyals & Dean 2015, section 2).

    Both softmaxes run over real columns alone: rows of a weight beyond the declared size are padding, get logits from
    nobody and gradient 0. Where the vocabularies differ, `column_map` says for every student column which teacher
    column means the same. The teacher is then its softmax over the columns that the map names, whatever it thought of
    others; the student keeps its full softmax, so columns that the teacher lacks are pushed down. That makes
    reverse_kl infinite, and it is refused.

    The gradient reaches the student's operands alone, is computed together with the loss, and is not differentiable
    again. Everything from the logits on is computed in float32 (float64 for float64): those of half-precision operands
    are not rounded, and only their gradient is, for its two products. The weight gradient is summed in float32. Under
    autocast the products are taken in its dtype. NaN in counted rows propagates; rows outside the mask take no part.
    Over no rows the loss and all gradients are exactly 0.
    In a graph of `torch.compile` the call is one operator; the graph checks values when it runs, and `rows` is a tensor.

    Args:
        hidden_s: [N, H_s] of the student; select the masked rows before the call, it is cheaper.
        weight_s: [V_s, H_s] of its output projection.
        bias_s: [V_s] or None.
        hidden_t: [N, H_t] of the teacher; the widths may differ.
        weight_t: [V_t, H_t] of its output projection.
        bias_t: [V_t] or None.
        temperature: T, of both.
        divergence: "forward_kl", "reverse_kl" or "jsd".
        beta: β of "jsd", strictly between 0 and 1.
        column_map: [vocab_size] teacher column of each student column, -1 where the teacher has none, no teacher
            column twice; None where the columns are the same.
        vocab_size: real columns of the student's head, of the teacher's too unless a map or its own size is given;
            None for all.
        teacher_vocab_size: real columns of the teacher's head.
        mask: [N] True for the rows that count, None for all.
        row_weight: [N] factor of each row; it does not enter the number of rows.
        divisor: divides the sum in place of the number of counted rows.
        chunk_bytes: size of the buffers for both sides' logits and their gradient; None for 256 MiB on a CPU, and on a GPU a sixteenth of
            its memory, at most 4 GiB.
        impl: "reference", "torch", "triton", or "auto" as in `linear_distil_loss`.
        check: whether to look at `column_map` and to take counted rows out, which waits for the device; with False rows
            that do not count are computed with the others (and add exactly 0), `rows` is a tensor, and an entry of the
            map that is no column makes the loss NaN.

    Returns:
        Divergence: the scalar to differentiate, the counted rows, the implementation.

    Raises:
        KernelArgumentError: an argument has the wrong shape, dtype, device or range, or the combination has no
            meaning.

    Example:
        >>> import torch, kdkernels
        >>> student = torch.randn(5, 8, requires_grad=True), torch.randn(20, 8, requires_grad=True), None
        >>> teacher = torch.randn(5, 12), torch.randn(20, 12), torch.randn(20)
        >>> result = kdkernels.linear_kl(*student, *teacher, temperature=2.0, divergence="jsd")
        >>> result.loss.backward()
        >>> result.rows, result.impl
        (5, 'torch')
    """
    operation = "linear_kl"
    student, teacher = Head(hidden_s, weight_s, bias_s), Head(hidden_t, weight_t, bias_t)
    autocast = torch.is_autocast_enabled(hidden_s.device.type)
    check_head(operation, "s", student, N=None, autocast=autocast)
    check_head(operation, "t", teacher, N=hidden_s.shape[0], autocast=autocast)
    require_number("temperature", temperature, operation=operation, low=0.0, strict=True)
    check_divergence(operation, divergence, beta)
    check_mask(operation, mask, hidden_s.shape[0])
    check_row_weight(operation, row_weight, hidden_s.shape[0])
    if chunk_bytes is not None:
        require_number("chunk_bytes", chunk_bytes, operation=operation, low=1)
    require_one_device(
        operation, hidden_s=hidden_s, weight_s=weight_s, bias_s=bias_s, hidden_t=hidden_t,
        weight_t=weight_t, bias_t=bias_t, column_map=column_map, mask=mask, row_weight=row_weight,
    )  # fmt: skip
    columns = match_columns(
        operation,
        weight_s,
        weight_t,
        column_map=column_map,
        vocab_size=vocab_size,
        teacher_vocab_size=teacher_vocab_size,
    )
    return _run(
        student,
        teacher,
        columns,
        {"temperature": float(temperature), "divergence": divergence, "beta": float(beta)},
        mask=mask,
        row_weight=row_weight,
        divisor=divisor,
        chunk_bytes=chunk_bytes,
        impl=impl,
        check=check,
    )


def _run(
    student: Head,
    teacher: Head,
    columns: Columns,
    definition: dict[str, Any],
    *,
    mask: Tensor | None,
    row_weight: Tensor | None,
    divisor: float | Tensor | None,
    chunk_bytes: int | None,
    impl: str,
    check: bool,
) -> Divergence:
    """Select the counted rows, where values may be looked at, and compute."""
    operation = "linear_kl"
    kind, device = student.hidden.device.type, student.hidden.device
    dtypes = student.weight.dtype, teacher.weight.dtype
    if torch.is_autocast_enabled(kind) and torch.float64 not in dtypes:
        dtypes = (torch.get_autocast_dtype(kind),) * 2
    chosen = choose_impl(
        impl, operation=operation, device=device, dtype=torch.promote_types(*dtypes)
    )
    exact = accumulation_dtype(dtypes[0])
    on_device = torch.compiler.is_compiling() or not check
    rows: int | Tensor
    if not on_device:
        check_map(operation, columns, definition["divergence"])
        if mask is not None:
            counted = mask.nonzero().squeeze(1)
            student, teacher = student.rows(counted), teacher.rows(counted)
            row_weight = None if row_weight is None else row_weight[counted]
            mask = None
        rows = student.hidden.shape[0]
        row_scale = row_scales(
            operation, rows, row_weight=row_weight, divisor=divisor, dtype=exact, device=device
        )
    else:
        rows, row_scale = scales_on_device(
            operation, student.hidden.shape[0],
            mask=mask, row_weight=row_weight, divisor=divisor, dtype=exact, device=device,
        )  # fmt: skip
        if columns.source is not None and (chosen == "reference" or not check):
            columns, row_scale = _without_wrong_columns(columns, row_scale)
    with torch.autocast(kind, enabled=False):
        if chosen == "reference":
            if mask is not None:
                student, teacher = student.without(~mask), teacher.without(~mask)
            losses = reference.losses(student, teacher, columns, **definition)
            if mask is not None:
                losses = losses.masked_fill(~mask, 0.0)
            return Divergence((row_scale * losses).sum(), rows, chosen)
        wants = (
            torch.is_grad_enabled() and operand is not None and operand.requires_grad
            for operand in student
        )
        loss, *_ = linear_kl_operator(
            *student,
            *teacher.detach(),
            columns.source,
            mask,
            row_scale,
            columns.student,
            columns.teacher,
            definition["temperature"],
            definition["divergence"],
            definition["beta"],
            dtypes[0],
            exact if torch.float64 in dtypes else dtypes[1],
            None if chunk_bytes is None else int(chunk_bytes),
            chosen,
            check and on_device,
            *wants,
        )
    return Divergence(loss, rows, chosen)


def _without_wrong_columns(columns: Columns, row_scale: Tensor) -> tuple[Columns, Tensor]:
    """A map of which nobody may see the values: an entry that is no column makes the loss NaN."""
    assert columns.source is not None
    wrong = (columns.source < -1) | (columns.source >= columns.teacher)
    source = columns.source.masked_fill(wrong, -1)
    return columns._replace(source=source), row_scale.masked_fill(wrong.any(), torch.nan)
