# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# (what triton compiles is no typed Python)

"""Dense divergences in Triton, one program a row: a sweep over both rows for their partitions, and one to the gradient.

log Z = log Σ exp(z / T) of a row takes one sweep by the online softmax, or none where the products that made the logits left
sums (`projection_kernel`). With g = ∂D/∂(log q) and G = Σ_v g_v, as `divergences` derives them,
∂(T² D)/∂z_v = T (g_v - q_v G). For the forward KL G is -1, and terms and gradient take one sweep; the other divergences
take one for G before. The last sweep begins at the end, whose columns may still be in the cache.

Bytes of a pair of logits in half precision: 4 read a sweep and 2 written, 10 for the forward KL and 14 for the others; 6 and 10
where the sums are there. A gradient needs at least 4 read, unless a row stays on the chip, and 2 written.

Imports triton: reached only once impl="triton" has been chosen.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kdkernels.divergence_kernel import (
    DIVERGENCE_NUMBERS,
    LOG2_E,
    LOG_2,
    divergence_terms,
    load_block,
    log2_sum,
    online_softmax_update,
    store_block,
)
from kdkernels.tuning import launch_options


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
    """As `chunked.row_losses`, for float32, float16 and bfloat16."""
    losses = torch.zeros(len(student), dtype=torch.float32, device=student.device)
    student = student if student.stride(1) == 1 else student.contiguous()
    teacher = teacher if teacher.stride(1) == 1 else teacher.contiguous()
    launch(
        student, teacher, losses, row_scale=row_scale, columns=student.shape[1], scale=LOG2_E.value / temperature,
        temperature=temperature, divergence=divergence, beta=beta, gradient=gradient,
    )  # fmt: skip
    if gradient is not None:
        # Autograd sees no write of a kernel; who kept the logits for a backward pass must hear of it.
        torch.autograd.graph.increment_version(gradient)
    return losses


def launch(
    student: Tensor,
    teacher: Tensor,
    losses: Tensor,
    *,
    row_scale: Tensor,
    columns: int,
    scale: float,
    temperature: float,
    divergence: str,
    beta: float,
    gradient: Tensor | None,
    sums: tuple[Tensor, Tensor] | None = None,
) -> None:
    """Write T² D of each row to `losses`, and the gradient.

    Args:
        student: [N, V or more] logits.
        teacher: [N, V or more] logits.
        losses: [N]
        row_scale: [N].
        columns: V.
        scale: what times the logits is z / T over log 2.
        temperature: T.
        divergence: "forward_kl", "reverse_kl" or "jsd".
        beta: the teacher's share in the mixture of "jsd".
        gradient: [N, P] to write to, 0 from V on; may be the student's memory. None for no gradient.
        sums: of the powers of two of each row, by blocks of columns, [N, blocks] of student and of teacher.
    """
    if len(student) == 0:
        return
    of_student, of_teacher = sums or (losses, losses)
    blocks = (1, 1) if sums is None else (of_student.shape[1], of_teacher.shape[1])
    _divergence_kernel[(len(student),)](
        student, student.stride(0), teacher, teacher.stride(0),
        losses if gradient is None else gradient, 0 if gradient is None else gradient.stride(0),
        of_student, of_teacher, *blocks, row_scale.contiguous(), losses,
        columns, columns if gradient is None else gradient.shape[1], scale, temperature, beta,
        SUMS=sums is not None, GRADIENT=gradient is not None, DIVERGENCE=DIVERGENCE_NUMBERS[divergence],
        BLOCKS=triton.next_power_of_2(max(blocks)),
        **options_of(student, columns, divergence),
    )  # fmt: skip


def options_of(logits: Tensor, columns: int, divergence: str) -> dict[str, int]:
    """The table's, with blocks that leave a thread enough registers."""
    options = launch_options(
        "divergences", logits.device, columns=columns, itemsize=logits.element_size()
    )
    aligned = logits.stride(0) * logits.element_size() % 16 == 0
    if divergence == "jsd" or logits.element_size() > 2 or not aligned:
        options["BLOCK_V"] = max(16, options["BLOCK_V"] // 2)
    return options


@triton.jit
def _log2_partitions(z_s, z_t, V, scale, BLOCK_V: tl.constexpr, STAGES: tl.constexpr):
    """Log Σ exp(z / T) of two rows over log 2, in one sweep."""
    max_s = tl.full([BLOCK_V], -float("inf"), tl.float32)
    max_t = tl.full([BLOCK_V], -float("inf"), tl.float32)
    sum_s = tl.zeros([BLOCK_V], tl.float32)
    sum_t = tl.zeros([BLOCK_V], tl.float32)
    lane = tl.arange(0, BLOCK_V)
    edge = V // BLOCK_V * BLOCK_V  # the columns of whole blocks; what remains takes a mask
    for start in tl.range(0, edge, BLOCK_V, num_stages=STAGES):
        x_s = load_block(z_s, start + lane, V, scale, False)
        x_t = load_block(z_t, start + lane, V, scale, False)
        max_s, sum_s = online_softmax_update(x_s, max_s, sum_s)
        max_t, sum_t = online_softmax_update(x_t, max_t, sum_t)
    max_s, sum_s = online_softmax_update(load_block(z_s, edge + lane, V, scale, True), max_s, sum_s)
    max_t, sum_t = online_softmax_update(load_block(z_t, edge + lane, V, scale, True), max_t, sum_t)
    _, log_s = log2_sum(max_s, sum_s)
    _, log_t = log2_sum(max_t, sum_t)
    return log_s, log_t


@triton.jit
def _log2_of_sums(sums, blocks, BLOCKS: tl.constexpr):
    block = tl.arange(0, BLOCKS)
    return tl.log2(tl.sum(tl.load(sums + block, mask=block < blocks, other=0.0), axis=0))


@triton.jit
def _terms(
    z_s, z_t, column, V, scale, log_s, log_t, beta, DIVERGENCE: tl.constexpr, MASKED: tl.constexpr
):  # fmt: skip
    """Log q over log 2, terms and gradients by log q of one block of columns; the last two 0 beyond the row."""
    log2_q = load_block(z_s, column, V, scale, MASKED) - log_s
    log2_p = load_block(z_t, column, V, scale, MASKED) - log_t
    if DIVERGENCE == 0:
        p = tl.exp2(log2_p)
        terms = tl.where(p == 0, 0.0, p * (log2_p - log2_q)) * LOG_2
        grad_log_q = -p
    else:
        terms, grad_log_q = divergence_terms(log2_p * LOG_2, log2_q * LOG_2, beta, DIVERGENCE)
    if MASKED:
        terms = tl.where(column < V, terms, 0.0)
        grad_log_q = tl.where(column < V, grad_log_q, 0.0)
    return log2_q, terms, grad_log_q


@triton.jit
def _divergence_kernel(
    student,  # [N, V]
    student_stride,
    teacher,  # [N, V]
    teacher_stride,
    gradient,  # [N, P], may be the student's memory
    gradient_stride,
    sums_s,  # [N, blocks_s]
    sums_t,  # [N, blocks_t]
    blocks_s,
    blocks_t,
    row_scale,  # [N]
    losses,  # [N]
    V,
    P,
    scale,
    T,
    beta,
    SUMS: tl.constexpr,
    GRADIENT: tl.constexpr,
    DIVERGENCE: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK_V: tl.constexpr,
    STAGES: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)  # int64: row times stride passes 2^31
    z_s = student + row * student_stride
    z_t = teacher + row * teacher_stride
    grad_row = gradient + row * gradient_stride
    if SUMS:
        log_s = _log2_of_sums(sums_s + row * blocks_s, blocks_s, BLOCKS)
        log_t = _log2_of_sums(sums_t + row * blocks_t, blocks_t, BLOCKS)
    else:
        log_s, log_t = _log2_partitions(z_s, z_t, V, scale, BLOCK_V, STAGES)
    lane = tl.arange(0, BLOCK_V)
    edge = V // BLOCK_V * BLOCK_V
    loss = tl.zeros([BLOCK_V], tl.float32)
    grad_sum = tl.full([], -1.0, tl.float32)  # G of the forward KL
    if DIVERGENCE != 0 or not GRADIENT:
        grad_sums = tl.zeros([BLOCK_V], tl.float32)
        for start in tl.range(0, edge, BLOCK_V, num_stages=STAGES):
            _, terms, grad_log_q = _terms(
                z_s, z_t, start + lane, V, scale, log_s, log_t, beta, DIVERGENCE, False
            )
            loss += terms
            grad_sums += grad_log_q
        _, terms, grad_log_q = _terms(
            z_s, z_t, edge + lane, V, scale, log_s, log_t, beta, DIVERGENCE, True
        )
        loss += terms
        grad_sum = tl.sum(grad_sums + grad_log_q, axis=0)
    if GRADIENT:
        factor = tl.load(row_scale + row) * T  # T² / T: the logits enter divided by T
        for start in range(edge, P, BLOCK_V):
            log2_q, terms, grad_log_q = _terms(
                z_s, z_t, start + lane, V, scale, log_s, log_t, beta, DIVERGENCE, True
            )
            if DIVERGENCE == 0:
                loss += terms
            grad = (grad_log_q - tl.exp2(log2_q) * grad_sum) * factor
            store_block(grad_row, start + lane, grad, V, P, True)
        for back in tl.range(0, edge, BLOCK_V, num_stages=STAGES):
            column = edge - BLOCK_V - back + lane
            log2_q, terms, grad_log_q = _terms(
                z_s, z_t, column, V, scale, log_s, log_t, beta, DIVERGENCE, False
            )
            if DIVERGENCE == 0:
                loss += terms
            grad = (grad_log_q - tl.exp2(log2_q) * grad_sum) * factor
            store_block(grad_row, column, grad, V, P, False)
    tl.store(losses + row, tl.sum(loss, axis=0) * T * T)
