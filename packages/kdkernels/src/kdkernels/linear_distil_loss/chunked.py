"""The linear distillation loss without its logits: a chunk of rows at a time, from hidden state to gradient.

    for each chunk of rows h:                                                  # [R, H]
        z = h Wᵀ + b                              into one buffer              # [R, V]
        loss, dz = rows(z), ∂Σ row_scale · loss / ∂z    over the logits, in place    # [R], [R, V]
        dh = dz W;   dW += dzᵀ h;   db += Σ dz                                 # [R, H], [V, H], [V]

Three products, as the plain formula has, and nothing of size [N, V] unless the byte budget allows it. Liger Kernel (Hsu
et al. 2024, fused linear cross-entropy) chunks likewise, by a rule made for decoders; here the chunk is a byte budget.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from kdkernels.loss_options import LossOptions
from kdkernels.precision import accumulation_dtype
from kdkernels.products import (
    add_column_sums,
    chunk_rows,
    dtype_of_gradient,
    empty_rows,
    float16_scale,
    product_into,
    sums_in_float32,
)
from kdkernels.projection_gradients import Gradients, WeightGradient, unscaled
from kdkernels.targets import Targets

RowLosses = Callable[..., tuple[Tensor, Tensor]]


@sums_in_float32()
def losses_and_gradients(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    labels: Tensor | None,
    targets: Targets | None,
    row_scale: Tensor,
    options: LossOptions,
    wanted: tuple[bool, bool, bool],
    compute_dtype: torch.dtype,
    chunk_bytes: int,
    row_losses: RowLosses,
) -> tuple[Tensor, Tensor, Gradients]:
    """Hard and soft loss of each row, and the gradients of Σ row_scale · ((1-alpha)·hard + alpha·soft).

    Args:
        hidden: [N, H].
        weight: [V, H].
        bias: [V] or None.
        labels: [N], every one a column.
        targets: of the soft loss, or None.
        row_scale: [N].
        options: what the loss is.
        wanted: whether the gradient by hidden, weight and bias is wanted.
        compute_dtype: of the operands in the matrix products, whose sums are in float32.
        chunk_bytes: size of the logits buffer; one row is the least.
        row_losses: what turns a chunk of logits into losses and gradient.

    Returns:
        hard [N], soft [N], gradients in the dtypes of their operands, in float32 for float16.
    """
    N, V = hidden.shape[0], weight.shape[0]
    h, W = hidden.to(compute_dtype), weight.to(compute_dtype)
    b = None if bias is None else bias.to(compute_dtype)
    rows = chunk_rows(N, row_bytes=V * compute_dtype.itemsize, chunk_bytes=chunk_bytes)
    buffer = empty_rows(rows, V, compute_dtype, hidden.device)
    scale = float16_scale(row_scale, compute_dtype, temperature=options.temperature)
    row_scale = row_scale if scale is None else row_scale * scale
    exact = accumulation_dtype(hidden.dtype)
    grad_hidden = torch.empty_like(h, dtype=dtype_of_gradient(compute_dtype)) if wanted[0] else None
    grad_weight = WeightGradient(weight, chunks=math.ceil(N / rows)) if wanted[1] else None
    grad_bias = torch.zeros(V, dtype=exact, device=hidden.device) if wanted[2] else None
    hard, soft = torch.zeros(2, N, dtype=exact, device=hidden.device)
    for start in range(0, N, rows):
        stop = min(start + rows, N)
        h_chunk, logits = h[start:stop], buffer[: stop - start]
        if b is None:
            torch.mm(h_chunk, W.t(), out=logits)
        else:
            torch.addmm(b, h_chunk, W.t(), out=logits)
        hard[start:stop], soft[start:stop] = row_losses(
            logits,
            labels=None if labels is None else labels[start:stop],
            targets=None if targets is None else Targets(*(part[start:stop] for part in targets)),
            row_scale=row_scale[start:stop],
            options=options,
            gradient=logits if any(wanted) else None,
        )
        grad_logits = logits  # overwritten by the row losses
        if grad_hidden is not None:
            product_into(grad_hidden[start:stop], grad_logits, W)
        if grad_weight is not None:
            grad_weight.add(grad_logits, h_chunk)
        if grad_bias is not None:
            add_column_sums(grad_bias, grad_logits)
    sums = (grad_hidden, None if grad_weight is None else grad_weight.sum, grad_bias)
    return hard, soft, unscaled(sums, (hidden, weight, bias), scale)
