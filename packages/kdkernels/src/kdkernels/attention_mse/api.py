"""`attention_mse`: what it takes, and which implementation it runs."""

import math

from torch import Tensor

from kdkernels.attention_maps.arguments import (
    Comparison,
    require_mask,
    require_options,
    require_sides,
)
from kdkernels.attention_maps.map_loss import MapLoss, map_loss
from kdkernels.attention_mse.reference import attention_mse_reference
from kdkernels.checks import KernelArgumentError, require_shape


def attention_mse(
    q_s: Tensor,
    k_s: Tensor,
    q_t: Tensor,
    k_t: Tensor,
    mask: Tensor | None = None,
    *,
    window: int | None = None,
    scale_s: float | None = None,
    scale_t: float | None = None,
    divisor: float | Tensor | None = None,
    chunk_bytes: int | None = None,
    impl: str = "auto",
    check: bool = True,
) -> MapLoss:
    """Mean squared difference of the student's and the teacher's attention maps, neither of which is ever in memory.

    A = softmax(scale · q kᵀ) over the keys that exist; the loss is the mean of (A_s − A_t)² over all entries
    (sequence, head, query, key) inside padding and window: the attention term of BiStil (Ansell et al. 2023, "Distilling
    Efficient Language-Specific Models for Cross-Lingual Transfer"), as TinyBERT compares scores (Jiao et al. 2020). Queries and keys are those that attention multiplies: after
    rotary embedding where the model has one. Models may then run on any attention kernel.

    Computes in float32 (float64 for float64 inputs) whatever the autocast state. The gradient reaches q_s and k_s, is
    taken in the forward pass, and cannot be differentiated again. Padding given as a mask [B, S] is not read at all;
    NaN elsewhere makes the loss NaN.

    Args:
        q_s: student queries [B, h, S, d_s].
        k_s: student keys [B, h, S, d_s].
        q_t: teacher queries [B, h, S, d_t]; as many heads, of any width.
        k_t: teacher keys [B, h, S, d_t].
        mask: bool [B, S], True at real tokens; or bool [B, S, S], True where query and key meet; None for no padding.
        window: width of local attention: positions further apart than window // 2 do not meet. None for global.
        scale_s: factor of the student's scores; 1/√d_s unless given.
        scale_t: factor of the teacher's scores; 1/√d_t unless given.
        divisor: divides the sum of squares in place of the number of entries.
        chunk_bytes: bytes of one tile of scores for impl "torch", of which two are held; unless given, 4 MiB on a CPU
            and 64 MiB elsewhere.
        impl: "reference" (holds both maps), "torch", "triton" (for heads of at most 128
            values in half precision, 64 in float32), or "auto": triton where it runs, else torch.
        check: whether impl "torch" may look at a padding mask, which waits for the device, to take padding out; with
            False it is masked instead, and costs what real tokens do.

    Returns:
        MapLoss: the scalar to differentiate, in float32 (float64 for float64 inputs); what the mean runs over; the
            implementation. Where nothing is counted, the loss is 0 with gradient 0.

    Raises:
        KernelArgumentError: a shape, dtype, mask or option that does not fit.

    Example:
        >>> import torch, kdkernels
        >>> q_t, k_t = torch.randn(2, 4, 16, 8), torch.randn(2, 4, 16, 8)
        >>> q_s, k_s = q_t.clone().requires_grad_(), k_t.clone().requires_grad_()
        >>> result = kdkernels.attention_mse(q_s, k_s, q_t, k_t)
        >>> result.loss.item(), int(result.counted), result.impl
        (0.0, 2048, 'torch')
    """
    operation = "attention_mse"
    require_sides(operation, {"q_s": q_s, "k_s": k_s}, {"q_t": q_t, "k_t": k_t}, mask)
    require_shape("q_s", q_s, [None] * 4, axes="[B, h, S, d]", operation=operation)
    batch, heads, length, width_s = q_s.shape
    require_shape("k_s", k_s, q_s.shape, axes="[B, h, S, d_s] as q_s", operation=operation)
    shape_t = [batch, heads, length, None]
    require_shape("q_t", q_t, shape_t, axes="[B, h, S, d_t] as q_s", operation=operation)
    require_shape("k_t", k_t, q_t.shape, axes="[B, h, S, d_t] as q_t", operation=operation)
    width_t = q_t.shape[3]
    if not width_s or not width_t:
        raise KernelArgumentError(
            f"{operation}: queries and keys must have at least one value a head; got {width_s} and {width_t}"
        )
    require_mask(operation, mask, batch=batch, length=length)
    require_options(operation, window=window, divisor=divisor, chunk_bytes=chunk_bytes)
    comparison = Comparison(
        divergence="mse",
        mask=mask,
        reach=None if window is None else int(window) // 2,
        scale_s=1 / math.sqrt(width_s) if scale_s is None else float(scale_s),
        scale_t=1 / math.sqrt(width_t) if scale_t is None else float(scale_t),
        divisor=divisor,
        chunk_bytes=chunk_bytes,
        check=check,
    )
    return map_loss(
        operation, q_s, k_s, q_t, k_t, comparison, reference=attention_mse_reference, impl=impl
    )
