# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# (what triton compiles is no typed Python)

"""A gradient times the scalar that comes into `backward`, which is mostly 1: the device looks, and nobody waits for it.

Imports triton: reached only on a device that the kernels run on.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 4096
BLOCKS = 16


def multiply_in_place(gradient: Tensor, factor: Tensor) -> Tensor:
    """The gradient, contiguous, times one element of any dtype, in float32; nothing is read or written for a factor of 1."""
    if gradient.numel():
        _multiply_kernel[(triton.cdiv(gradient.numel(), BLOCK * BLOCKS),)](
            gradient, factor, gradient.numel(), BLOCK=BLOCK, BLOCKS=BLOCKS, num_warps=8
        )
        torch.autograd.graph.increment_version(gradient)
    return gradient


@triton.jit
def _multiply_kernel(gradient, factor, size, BLOCK: tl.constexpr, BLOCKS: tl.constexpr):
    scale = tl.load(factor).to(tl.float32)
    if scale != 1.0:
        first = tl.program_id(0).to(tl.int64) * BLOCK * BLOCKS
        for block in range(BLOCKS):
            place = first + block * BLOCK + tl.arange(0, BLOCK)
            value = tl.load(gradient + place, mask=place < size).to(tl.float32) * scale
            tl.store(gradient + place, value.to(gradient.dtype.element_ty), mask=place < size)
