"""Counting the floating-point operations of a forward pass. One multiply-add is TWO operations."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def count_flops(encoder: nn.Module, *, length: int) -> int:
    """Operations of one example of `length` sub-words, as torch dispatches them: matrix products, attention included.

    Attention counts as full S×S products also where a window masks most of them, because that is what runs. Additions,
    norms, activations and look-ups are not counted; tools that count a multiply-add once (fvcore, thop) say half.

    Args:
        encoder: any module called with `input_ids` `[1, length]`.
        length: sub-words, special ones included.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    device = next(encoder.parameters()).device
    row = torch.zeros(1, length, dtype=torch.long, device=device)
    counter = FlopCounterMode(display=False)
    # The fused attention of the CPU is invisible to the counter; the plain one is made of products that it sees.
    learning = [weight for weight in encoder.parameters() if weight.requires_grad]
    try:
        for weight in (
            learning
        ):  # the counter looks for the gradients of what modules are given, as in DeBERTa-v2
            weight.requires_grad_(False)
        with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), counter:
            encoder(input_ids=row, attention_mask=torch.ones_like(row))
    finally:
        for weight in learning:
            weight.requires_grad_(True)
    return int(counter.get_total_flops())
