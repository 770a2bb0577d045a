"""Block sizes of the attention-map kernels, and the widths of heads that they take.

Chosen from what Triton 3.9 compiles for compute capability 9.0: no register is spilled at any width of the table, and a
block takes at most 99 KiB of shared memory on 8.0 and 9.0, which every device from 8.0 on has. A wider head keeps whole
vectors of all four operands on the chip: float32 heads of 1,024 values would take 384 KiB, more than any device has.
`tests/test_kernels_compile.py` holds this. Not tuned for speed.
"""

import torch
from torch import Tensor

# Dtype, the most demanding first → widest head → (query rows, keys, warps, stages). Products of float16 with a gradient
# are taken in float32, where it would vanish otherwise.
BLOCKS: dict[torch.dtype, dict[int, tuple[int, int, int, int]]] = {
    torch.float32: {16: (64, 32, 4, 2), 64: (16, 32, 4, 1)},
    torch.float16: {64: (64, 32, 8, 2), 128: (16, 32, 4, 1)},
    torch.bfloat16: {64: (64, 64, 4, 2), 128: (64, 32, 4, 2)},
}


def blocks_for(*sides: Tensor) -> tuple[int, int, int, int]:
    """The block sizes for vectors [B, h, S, d] of student and teacher; `too_wide` has refused what has none."""
    rows = next(BLOCKS[dtype] for dtype in BLOCKS if any(side.dtype == dtype for side in sides))
    width = _width(*sides)
    return next(blocks for most, blocks in rows.items() if width <= most)


def too_wide(*sides: Tensor) -> str | None:
    """Why the kernels do not take vectors of these widths, to follow "impl='triton' "; None where they do.

    Args:
        sides: queries or vectors [B, h, S, d] of student and teacher; the more demanding dtype and the wider head decide.
    """
    dtypes = {side.dtype for side in sides}
    decides = next((dtype for dtype in BLOCKS if dtype in dtypes), sides[0].dtype)
    width = _width(*sides)
    if width <= max(BLOCKS.get(decides, {}), default=0):
        return None
    listed = " and ".join(f"{max(BLOCKS[dtype])} values in {_name(dtype)}" for dtype in BLOCKS)
    return (
        f"takes heads of at most {listed}, for which its tiles fit a device's shared memory; got heads of "
        f"{width} values in {_name(decides)}: use more and narrower heads, or ask for impl='torch'"
    )


def _width(*sides: Tensor) -> int:
    return max(side.shape[-1] for side in sides)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
