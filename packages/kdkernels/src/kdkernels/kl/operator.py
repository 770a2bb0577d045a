"""`torch.ops.kdkernels.kl`: the divergence of logits at hand and their gradient as one operator."""

from collections.abc import Callable

import torch
from torch import Tensor

from kdkernels.kl import chunked
from kdkernels.logits_loss import fake_outputs, loss_and_gradient
from kdkernels.operators import loss_operator


def _fake(student: Tensor, *arguments: object) -> tuple[Tensor, ...]:
    return fake_outputs(student, want_gradient=bool(arguments[-1]))


@loss_operator("kl", (0,), fake=_fake, rescaled=True)
def kl_operator(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None,
    row_scale: Tensor,
    temperature: float,
    divergence: str,
    beta: float,
    impl: str,
    want_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss, what its gradient is multiplied with (empty for 1), and its gradient by the student's logits.

    Args:
        student: [N, V] logits.
        teacher: [N, V] logits.
        mask: [N] True for the rows that count, None for all.
        row_scale: [N] factor of each row.
        temperature: T.
        divergence: "forward_kl", "reverse_kl" or "jsd".
        beta: of "jsd".
        impl: "torch" or "triton".
        want_gradient: whether the gradient is wanted.
    """
    gradient = student.new_empty(student.shape) if want_gradient else None
    with torch.autocast(student.device.type, enabled=False):
        return loss_and_gradient(
            student,
            gradient,
            row_losses(teacher, temperature, divergence, beta, impl),
            mask,
            row_scale,
            temperature,
        )


def row_losses(
    teacher: Tensor, temperature: float, divergence: str, beta: float, impl: str
) -> Callable[..., Tensor]:
    """From (logits, gradient, row_scale) to the divergence of each row, by an implementation."""

    def losses(z: Tensor, gradient: Tensor | None, row_scale: Tensor) -> Tensor:
        return row_losses_of(impl)(
            z,
            teacher,
            row_scale=row_scale,
            temperature=temperature,
            divergence=divergence,
            beta=beta,
            gradient=gradient,
        )

    return losses


def row_losses_of(impl: str) -> Callable[..., Tensor]:
    """The row losses of an implementation. Triton is imported here and nowhere else."""
    if impl == "triton":
        from kdkernels.kl import kernel

        return kernel.row_losses
    return chunked.row_losses
