"""`relation_kl`: what it takes, and which implementation it runs."""

import math

from torch import Tensor

from kdkernels.attention_maps.arguments import (
    Comparison,
    require_mask,
    require_options,
    require_sides,
)
from kdkernels.attention_maps.map_loss import MapLoss, map_loss
from kdkernels.checks import KernelArgumentError, require_shape
from kdkernels.relation_kl.reference import relation_kl_reference


def relation_kl(
    x_s: Tensor,
    x_t: Tensor,
    heads: int,
    mask: Tensor | None = None,
    *,
    divisor: float | Tensor | None = None,
    chunk_bytes: int | None = None,
    impl: str = "auto",
    check: bool = True,
) -> MapLoss:
    """KL(teacher ‖ student) of self-relation maps, neither of which is ever in memory.

    The vectors of each token (its queries, its keys or its values, all heads side by side) are split anew into `heads`
    relation heads of width d; R = softmax(x xᵀ / √d). The loss is the mean over sequences, relation heads and real
    query tokens of Σⱼ R_t (log R_t − log R_s). MiniLMv2 (Wang et al. 2021, "Multi-Head Self-Attention Relation
    Distillation for Compressing Pretrained Transformers") adds it up for queries, keys and values.

    Computes in float32 (float64 for float64 inputs) whatever the autocast state. The gradient reaches x_s through both
    of its roles, is taken in the forward pass, and cannot be differentiated again. Padding given as a mask [B, S] is
    not read at all; NaN elsewhere makes the loss NaN.

    Args:
        x_s: student vectors [B, S, D_s].
        x_t: teacher vectors [B, S, D_t]; the widths may differ, and `heads` divides both.
        heads: number of relation heads.
        mask: bool [B, S], True at real tokens; or bool [B, S, S], True where query and key meet; None for no padding.
        divisor: divides the sum in place of heads · (number of query tokens that see any key).
        chunk_bytes: bytes of one tile of scores for impl "torch", of which three are held; unless given, 4 MiB on a
            CPU and 64 MiB elsewhere.
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
        >>> values_t, values_s = torch.randn(2, 16, 24), torch.randn(2, 16, 12, requires_grad=True)
        >>> kdkernels.relation_kl(values_s, values_t, 6).loss.backward()
        >>> values_s.grad.shape
        torch.Size([2, 16, 12])
    """
    operation = "relation_kl"
    require_sides(operation, {"x_s": x_s}, {"x_t": x_t}, mask)
    require_shape("x_s", x_s, [None] * 3, axes="[B, S, D_s]", operation=operation)
    batch, length, _ = x_s.shape
    require_shape("x_t", x_t, [batch, length, None], axes="[B, S, D_t] as x_s", operation=operation)
    require_mask(operation, mask, batch=batch, length=length)
    require_options(operation, window=None, divisor=divisor, chunk_bytes=chunk_bytes)
    split_s, split_t = _split("x_s", x_s, heads), _split("x_t", x_t, heads)
    comparison = Comparison(
        divergence="kl",
        mask=mask,
        reach=None,
        scale_s=1 / math.sqrt(split_s.shape[3]),
        scale_t=1 / math.sqrt(split_t.shape[3]),
        divisor=divisor,
        chunk_bytes=chunk_bytes,
        check=check,
    )
    sides = (split_s, split_s, split_t, split_t)  # a map of the vectors with themselves
    return map_loss(operation, *sides, comparison, reference=relation_kl_reference, impl=impl)


def _split(name: str, x: Tensor, heads: int) -> Tensor:
    """[B, S, D] as [B, h, S, D / h]."""
    if heads < 1 or x.shape[2] % heads or not x.shape[2]:
        raise KernelArgumentError(
            f"relation_kl: heads must divide the width of {name}, {x.shape[2]}; got {heads!r}"
        )
    return x.unflatten(2, (heads, -1)).transpose(1, 2)
