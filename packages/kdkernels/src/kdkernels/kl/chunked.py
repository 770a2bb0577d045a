"""Dense divergences a block of rows at a time, loss and gradient by the student's logits in one visit.

With g = ∂D/∂(log q) and G = Σ_v g_v, as `divergences` derives them, ∂(T² D)/∂z_v = T (g_v - q_v G).
"""

import torch
from torch import Tensor

from kdkernels.divergences import divergence_terms
from kdkernels.precision import accumulation_dtype

# The working set is a handful of [rows, V] tensors of this size.
CPU_BLOCK_BYTES = 4 * 2**20
DEVICE_BLOCK_BYTES = 128 * 2**20


def row_losses(
    student: Tensor,
    teacher: Tensor,
    *,
    row_scale: Tensor,
    temperature: float,
    divergence: str,
    beta: float,
    gradient: Tensor | None,
) -> Tensor:
    """T² D of each row; the gradient of Σ row_scale · loss by `student` is written to `gradient`.

    Args:
        student: [N, V] logits.
        teacher: [N, V] logits.
        row_scale: [N].
        temperature: T.
        divergence: "forward_kl", "reverse_kl" or "jsd".
        beta: the teacher's share in the mixture of "jsd".
        gradient: [N, V] to write to, may be `student` itself; None for no gradient.

    Returns:
        [N] in float32 (float64 for float64 logits).
    """
    N, V = student.shape
    exact = accumulation_dtype(student.dtype)
    losses = torch.zeros(N, dtype=exact, device=student.device)
    budget = CPU_BLOCK_BYTES if student.device.type == "cpu" else DEVICE_BLOCK_BYTES
    block = max(1, budget // (V * exact.itemsize))
    for start in range(0, N, block):
        rows = slice(start, min(start + block, N))
        log_q = _log_softmax(student[rows], temperature, exact)  # [R, V]
        log_p = _log_softmax(teacher[rows], temperature, exact)  # [R, V]
        if divergence == "forward_kl":
            loss, grad = _forward_kl(log_p, log_q)
        else:
            terms, grad_log_q = divergence_terms(divergence, log_p, log_q, beta=beta)
            loss = terms.sum(dim=1)
            grad = grad_log_q - log_q.exp_() * grad_log_q.sum(dim=1, keepdim=True)
        losses[rows] = loss * temperature**2
        if gradient is not None:
            # T² / T: the logits enter divided by T
            factor = (row_scale[rows].to(exact) * temperature).unsqueeze(1)
            gradient[rows] = grad.mul_(factor)
    return losses


def _log_softmax(z: Tensor, temperature: float, dtype: torch.dtype) -> Tensor:
    """Log-probabilities of rows at a temperature."""
    return torch.log_softmax(z if temperature == 1 else z.to(dtype) / temperature, 1, dtype=dtype)


def _forward_kl(log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    """KL(p ‖ q) of each row [R], and q - p [R, V], for G = -1; both operands are lost."""
    p = log_p.exp()
    # A class without mass counts nothing, whatever the logarithms are.
    loss = torch.linalg.vecdot(p, log_p.sub_(log_q).masked_fill_(p == 0, 0.0))
    return loss, log_q.exp_().sub_(p)
