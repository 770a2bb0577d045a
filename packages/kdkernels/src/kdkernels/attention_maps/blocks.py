"""Block sizes of the attention-map kernels, and the widths of heads that they take.

Every table is what Triton compiles without a spilled register: `BLOCKS` for compute capability 8.0 and more, with at most
99 KiB of shared memory a block, which every such device has; the others for 9.0 and 10.0, which have 227 KiB. A wider head keeps
whole vectors of all four operands on the chip: float32 heads of 1,024 values would take 384 KiB, more than any device has.
`tests/test_kernels_compile.py` holds this. Measured on an H100 are `WHOLE_BLOCKS` alone, as the
fastest of eight to twelve for heads of 64 values in bfloat16 and float32, of three for 128 in bfloat16.
"""

import functools

import torch
from torch import Tensor

from kdkernels.tuning import LARGE_SHARED_MEMORY

Block = tuple[int, int, int, int]  # query rows, keys, warps, stages
Table = dict[torch.dtype, dict[int, tuple[Block, Block]]]

# Dtype, the most demanding first → widest head → blocks of the kernel of query rows, and of the kernel of keys. Products of
# float16 with a gradient are taken in float32, where it would vanish otherwise.
BLOCKS: Table = {
    torch.float32: {16: ((64, 32, 4, 2), (32, 64, 8, 2)), 64: ((16, 32, 4, 1), (32, 16, 4, 2))},
    torch.float16: {64: ((64, 16, 4, 2), (32, 64, 4, 2)), 128: ((16, 32, 4, 1), (32, 32, 4, 1))},
    torch.bfloat16: {64: ((64, 32, 4, 2), (32, 64, 4, 2)), 128: ((64, 32, 4, 2), (32, 64, 4, 2))},
}
LARGE_BLOCKS: Table = {
    torch.float32: {64: ((128, 32, 8, 1), (32, 128, 8, 1))},
    torch.float16: {64: ((128, 32, 8, 1), (32, 128, 8, 1)), 128: ((64, 16, 4, 1), (32, 64, 4, 1))},
    torch.bfloat16: {64: ((128, 32, 4, 2), (32, 64, 4, 3)), 128: ((64, 32, 4, 2), (32, 64, 4, 2))},
}
# Where no mask, no window and no end of a sequence cuts a block, so that registers hold more of it.
WHOLE_BLOCKS: Table = {
    torch.float32: {64: ((128, 64, 8, 1), (64, 128, 8, 1))},
    torch.float16: {
        64: ((128, 64, 8, 1), (64, 128, 8, 1)),
        128: ((128, 32, 8, 1), (32, 128, 8, 1)),
    },
    torch.bfloat16: {
        64: ((128, 128, 8, 2), (64, 128, 8, 2)),
        128: ((64, 64, 4, 2), (64, 64, 4, 2)),
    },
}
_WHOLE = 128  # divides the lengths that `WHOLE_BLOCKS` are for


def blocks_for(*sides: Tensor, masked: bool) -> tuple[Block, Block]:
    """The block sizes of both kernels.

    Args:
        sides: vectors [B, h, S, d] of student and teacher; `too_wide` has refused those that have none.
        masked: whether a mask or a window leaves entries out.
    """
    device, length = sides[0].device, sides[0].shape[2]
    table = BLOCKS
    if device.type == "cuda" and _major_capability(device) in LARGE_SHARED_MEMORY:
        table = LARGE_BLOCKS if masked or length % _WHOLE else WHOLE_BLOCKS
    rows = next(table[dtype] for dtype in table if any(side.dtype == dtype for side in sides))
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


@functools.cache
def _major_capability(device: torch.device) -> int:
    return torch.cuda.get_device_capability(device)[0]


def _width(*sides: Tensor) -> int:
    return max(side.shape[-1] for side in sides)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
