"""`linear_kl`: what it means, what it checks, and which implementation it runs."""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kdkernels.checks import choose_impl, require_number, require_one_device
from kdkernels.compiling import no_compile
from kdkernels.kl.api import row_losses_of
from kdkernels.linear_kl import chunked, reference
from kdkernels.linear_kl.columns import Columns, match_columns
from kdkernels.linear_kl.heads import Head, check_head
from kdkernels.logits_loss import Divergence
from kdkernels.precision import accumulation_dtype
from kdkernels.products import default_chunk_bytes
from kdkernels.projection_gradients import Gradients
from kdkernels.reduction import row_scales, scaled, weighted_sum
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
    `torch.compile` breaks its graph around the call.

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
        chunk_bytes: size of the buffers for both sides' logits and their gradient; None for 256 MiB on a CPU and 1 GiB on a GPU.
        impl: "reference", "torch", "triton", or "auto" as in `linear_distil_loss`.

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
    return _run(
        student,
        teacher,
        functools.partial(
            match_columns,
            operation,
            weight_s,
            weight_t,
            column_map=column_map,
            vocab_size=vocab_size,
            teacher_vocab_size=teacher_vocab_size,
            divergence=divergence,
        ),
        {"temperature": float(temperature), "divergence": divergence, "beta": float(beta)},
        mask=mask,
        row_weight=row_weight,
        divisor=divisor,
        chunk_bytes=chunk_bytes,
        impl=impl,
    )


@no_compile
def _run(
    student: Head,
    teacher: Head,
    match: Callable[[], Columns],
    definition: dict[str, Any],
    *,
    mask: Tensor | None,
    row_weight: Tensor | None,
    divisor: float | Tensor | None,
    chunk_bytes: int | None,
    impl: str,
) -> Divergence:
    """Match the columns, select the counted rows, and compute."""
    kind, device = student.hidden.device.type, student.hidden.device
    dtypes = student.weight.dtype, teacher.weight.dtype
    if torch.is_autocast_enabled(kind) and torch.float64 not in dtypes:
        dtypes = (torch.get_autocast_dtype(kind),) * 2
    chosen = choose_impl(
        impl, operation="linear_kl", device=device, dtype=torch.promote_types(*dtypes)
    )
    columns = match()
    if mask is not None:
        counted = mask.nonzero().squeeze(1)
        student, teacher = student.rows(counted), teacher.rows(counted)
        row_weight = None if row_weight is None else row_weight[counted]
    rows = student.hidden.shape[0]
    exact = accumulation_dtype(dtypes[0])
    row_scale = row_scales(
        "linear_kl", rows, row_weight=row_weight, divisor=divisor, dtype=exact, device=device
    )
    with torch.autocast(kind, enabled=False):
        if chosen == "reference":
            losses = reference.losses(student, teacher, columns, **definition)
            return Divergence((row_scale * losses).sum(), rows, chosen)
        compute = functools.partial(
            chunked.losses_and_gradients,
            teacher=teacher.detach().cast(exact if torch.float64 in dtypes else dtypes[1]),
            columns=columns,
            row_scale=row_scale,
            temperature=definition["temperature"],
            chunk_bytes=default_chunk_bytes(device) if chunk_bytes is None else int(chunk_bytes),
            row_losses=functools.partial(row_losses_of(chosen), **definition),
        )
        loss = _LinearKL.apply(*student, compute, dtypes[0], row_scale, torch.is_grad_enabled())
    return Divergence(loss, rows, chosen)


class _LinearKL(torch.autograd.Function):
    """The gradients are made with the loss, while the logits are at hand."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        compute: Callable[..., tuple[Tensor, Gradients]],
        dtype: torch.dtype,
        row_scale: Tensor,
        grad_enabled: bool,
    ) -> Tensor:
        operands = Head(hidden, weight, bias)
        wanted = tuple(grad_enabled and needed for needed in ctx.needs_input_grad[:3])
        losses, gradients = compute(operands.cast(dtype), wanted=wanted, operands=operands)
        ctx.save_for_backward(*gradients)
        ctx.dtypes = [None if operand is None else operand.dtype for operand in operands]
        return weighted_sum(losses, row_scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        gradients = map(scaled, ctx.saved_tensors, itertools.repeat(grad_output), ctx.dtypes)
        return (*gradients, None, None, None, None)
