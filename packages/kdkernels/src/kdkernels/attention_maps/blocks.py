"""Block sizes of the attention-map kernels, and the widths of heads that they take.

Chosen from what Triton 3.9 compiles for compute capability 9.0: no register is spilled at any width of the table, and a
block takes at most 66 KiB of shared memory on 8.0 and 9.0, which every device from 8.0 on has. A wider head keeps whole
vectors of all four operands on the chip: float32 heads of 1,024 values would take 384 KiB, more than any device has.
`tests/test_attention_kernels_compile.py` holds this. Not tuned for speed.
"""

import torch
from torch import Tensor

# Bytes of a value → widest head → (query rows, keys, warps, stages).
BLOCKS: dict[int, dict[int, tuple[int, int, int, int]]] = {
    2: {64: (64, 64, 4, 2), 128: (64, 32, 4, 2)},
    4: {16: (64, 64, 4, 2), 64: (16, 32, 4, 1)},
}


def blocks_for(value_bytes: int, width: int) -> tuple[int, int, int, int]:
    """The block sizes for heads of up to `width` values; `too_wide` has refused what has none."""
    return next(blocks for most, blocks in BLOCKS[value_bytes].items() if width <= most)


def too_wide(*sides: Tensor) -> str | None:
    """Why the kernels do not take vectors of these widths, to follow "impl='triton' "; None where they do.

    Args:
        sides: queries or vectors [B, h, S, d] of student and teacher; the wider dtype and the wider head decide.
    """
    widest = max(sides, key=lambda side: side.element_size())
    most = max(BLOCKS.get(widest.element_size(), {}), default=0)
    width = max(side.shape[-1] for side in sides)
    if width <= most:
        return None
    listed = " and ".join(
        f"{max(BLOCKS[dtype.itemsize])} values in {str(dtype).removeprefix('torch.')}"
        for dtype in (torch.bfloat16, torch.float16, torch.float32)
    )
    return (
        f"takes heads of at most {listed}, for which its tiles fit a device's shared memory; got heads of "
        f"{width} values in {str(widest.dtype).removeprefix('torch.')}: use more and narrower heads, or ask for impl='torch'"
    )
