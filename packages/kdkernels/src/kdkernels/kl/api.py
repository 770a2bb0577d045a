"""`kl`: what it means, what it checks, and which implementation it runs."""

import torch
from torch import Tensor

from kdkernels.checks import (
    KernelArgumentError,
    choose_impl,
    require_number,
    require_one_device,
    require_shape,
)
from kdkernels.kl import reference
from kdkernels.kl.operator import kl_operator, row_losses
from kdkernels.logits_loss import Divergence, OverwritingLoss
from kdkernels.precision import accumulation_dtype
from kdkernels.reduction import masked_scales, scales_on_device
from kdkernels.row_checks import (
    check_divergence,
    check_logits,
    check_mask,
    check_may_overwrite,
    check_row_weight,
)


def kl(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 1.0,
    divergence: str = "forward_kl",
    beta: float = 0.5,
    mask: Tensor | None = None,
    row_weight: Tensor | None = None,
    divisor: float | Tensor | None = None,
    overwrite_logits: bool = False,
    impl: str = "auto",
    check: bool = True,
) -> Divergence:
    """Divergence of a student's logits from a teacher's, over the same columns.

    loss = Σ T² D(p, q) / rows over the counted rows, p = softmax(teacher / T), q = softmax(student / T):
    "forward_kl" is KL(p ‖ q), "reverse_kl" KL(q ‖ p), "jsd" β KL(p ‖ m) + (1-β) KL(q ‖ m) with m = β p + (1-β) q
    (Agarwal et al. 2024, "On-Policy Distillation of Language Models"). T² scales value and gradient alike (Hinton,
    Vinyals & Dean 2015, "Distilling the Knowledge in a Neural Network", section 2).

    A column with logit -inf has probability 0 and no term on the side that weighs it: where p = 0 in KL(p ‖ q), where
    q = 0 in KL(q ‖ p). Where only the other side is 0 the divergence is infinite and says so. NaN propagates. The
    teacher gets no gradient. Computed in float32 (float64 for float64), row block by row block.

    Args:
        student: [N, V] logits.
        teacher: [N, V] logits over the same columns; give columns that are padding the logit -inf on both sides.
        temperature: T, of both.
        divergence: "forward_kl", "reverse_kl" or "jsd".
        beta: β of "jsd", strictly between 0 and 1.
        mask: [N] True for the rows that count, None for all.
        row_weight: [N] factor of each row; it does not enter the number of rows.
        divisor: divides the sum in place of the number of counted rows.
        overwrite_logits: write the gradient over the student's logits, which are lost; saves [N, V]. They must be
            contiguous and no leaf, and nothing else may need them afterwards: an
            operation that kept them for its own gradient raises in `backward`, a later reading goes unnoticed. In a
            graph of `torch.compile`, which shares out memory itself, they are kept.
        impl: "reference", "torch", "triton", or "auto" as in `linear_distil_loss`.
        check: whether to count the rows, which waits for the device; with False `rows` is a tensor.

    Returns:
        Divergence: the scalar to differentiate, the counted rows, the implementation.

    Raises:
        KernelArgumentError: an argument has the wrong shape, dtype, device or range.

    Example:
        >>> import torch, kdkernels
        >>> student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 0.0]])
        >>> float(kdkernels.kl(student, teacher).loss)
        0.0
    """
    operation = "kl"
    require_number("temperature", temperature, operation=operation, low=0.0, strict=True)
    check_divergence(operation, divergence, beta)
    check_logits(operation, "student", student)
    check_logits(operation, "teacher", teacher)
    require_shape("teacher", teacher, tuple(student.shape), axes="[N, V]", operation=operation)
    check_mask(operation, mask, student.shape[0])
    check_row_weight(operation, row_weight, student.shape[0])
    require_one_device(
        operation, student=student, teacher=teacher, mask=mask, row_weight=row_weight
    )
    chosen = choose_impl(impl, operation=operation, device=student.device, dtype=student.dtype)
    if overwrite_logits:
        check_may_overwrite(operation, "student", student)
        # The reference overwrites nothing; within torch.func, tensors have no memory to ask for.
        overwrites = chosen != "reference" and not torch.compiler.is_compiling()
        if overwrites and teacher.data_ptr() == student.data_ptr():
            raise KernelArgumentError(
                "kl: overwrite_logits=True with teacher and student in the same memory; pass a copy of one"
            )
    return _run(
        student,
        teacher,
        temperature=temperature,
        divergence=divergence,
        beta=beta,
        mask=mask,
        row_weight=row_weight,
        divisor=divisor,
        overwrite=overwrite_logits,
        impl=chosen,
        check=check,
    )


def _run(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float,
    divergence: str,
    beta: float,
    mask: Tensor | None,
    row_weight: Tensor | None,
    divisor: float | Tensor | None,
    overwrite: bool,
    impl: str,
    check: bool,
) -> Divergence:
    exact = accumulation_dtype(student.dtype)
    on_device = torch.compiler.is_compiling() or not check
    rows, row_scale = (scales_on_device if on_device else masked_scales)(
        "kl",
        student.shape[0],
        mask=mask,
        row_weight=row_weight,
        divisor=divisor,
        dtype=exact,
        device=student.device,
    )
    with torch.autocast(student.device.type, enabled=False):
        if impl == "reference":
            left_out = torch.zeros_like(row_scale, dtype=torch.bool) if mask is None else ~mask
            losses = reference.losses(
                student.to(exact).masked_fill(left_out.unsqueeze(1), 0.0),
                teacher.to(exact).masked_fill(left_out.unsqueeze(1), 0.0),
                temperature=temperature,
                divergence=divergence,
                beta=beta,
            )
            return Divergence((row_scale * losses).sum(), rows, impl)
        teacher = teacher.detach()
        wanted = torch.is_grad_enabled() and student.requires_grad
        definition = (float(temperature), divergence, float(beta), impl)
        if overwrite and wanted and not torch.compiler.is_compiling():
            losses_of = row_losses(teacher, *definition)
            loss, _ = OverwritingLoss.apply(student, losses_of, mask, row_scale, temperature, impl)
        else:
            loss, *_ = kl_operator(student, teacher, mask, row_scale, *definition, wanted)
    return Divergence(loss, rows, impl)
