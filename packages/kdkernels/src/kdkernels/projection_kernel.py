# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# (what triton compiles is no typed Python)

"""Logits as they leave the tensor cores, so that no row is read again to learn its softmax.

A product of hidden [R, H] and weight [V, H] whose blocks [ROWS, COLUMNS] end, in float32, in

    x_v = (hidden · weight_v + bias_v) / T - base,   block sum = Σ_v exp x_v,   block maximum = max_v x_v

with one base a row, and in what is kept of them: x in float16, which has 11 bits for the distance to the base where bfloat16
has 8 for the logit (the sum is then that of x as kept), or exp x in bfloat16. All in powers of two: x is stored over log 2. A
base from which a row's maximum turns out to lie far is replaced and the row's blocks are made again, by a launch that does
nothing where no row needs it: nobody waits for the device.

Imports triton: reached only once impl="triton" has been chosen.
"""

import os
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from kdkernels.divergence_kernel import LOG2_E
from kdkernels.tuning import LARGE_SHARED_MEMORY, launch_options

# Triton's interpreter multiplies the bit patterns of bfloat16; the same products in float32 are exact.
INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")
# How far above its base, in powers of two, a row's maximum may lie. bfloat16 reaches to 2^127, and a gradient that
# stands among the exponentials is up to 2^84 times larger.
HIGHEST = tl.constexpr(56.0)
LOWEST = tl.constexpr(-56.0)
SAMPLED_COLUMNS = 256


class RowSums(NamedTuple):
    """Σ exp x of R rows, by blocks of columns, x = z / T over log 2 less the base."""

    base: Tensor  # [R]
    sums: Tensor  # [R, blocks]
    columns: int  # of a block


def sampled_base(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, *, temperature: float = 1.0
) -> Tensor:
    """A logit of each row over T and log 2: the largest of some columns. [R, H], [V, H], [V] -> [R]"""
    some = torch.mm(hidden, weight[:SAMPLED_COLUMNS].t())
    if bias is not None:
        some += bias[:SAMPLED_COLUMNS]
    largest = some.amax(dim=1).float().mul_(LOG2_E.value / temperature)
    return largest.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)


def project(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    base: Tensor,
    plane: Tensor,
    *,
    exponentials: bool,
    temperature: float = 1.0,
    columns: int | None = None,
) -> RowSums:
    """Write x or exp x of R rows to `plane`.

    Args:
        hidden: [R, H].
        weight: [W, H].
        bias: [W] or None.
        base: [R] a logit of each row over T and log 2, as a rule not far from the row's largest.
        plane: [R, P] to write to; -inf or 0 in the columns from V on.
        exponentials: whether exp x is kept, or x.
        temperature: T.
        columns: V, None for W.
    """
    R, H = hidden.shape
    V = len(weight) if columns is None else columns
    by_descriptors = _takes_descriptors(hidden, weight)
    options = options_of(hidden.device, V, by_descriptors=by_descriptors)
    blocks = triton.cdiv(plane.shape[1], options["COLUMNS"])
    sums = torch.empty(R, blocks, dtype=torch.float32, device=hidden.device)
    tops = torch.empty_like(sums)
    again = torch.zeros(1, dtype=torch.int32, device=hidden.device)
    settled = torch.empty_like(base)
    tiles = triton.cdiv(R, options["ROWS"]) * blocks
    common = {"H": H, "BIAS": bias is not None, "EXPONENTIALS": exponentials, **options}
    shape = (sums, tops, R, V, blocks, LOG2_E.value / temperature)

    def by_pointers(base_now: Tensor, programs: int, *, again_only: bool) -> None:
        _pointers_kernel[(programs,)](
            hidden, hidden.stride(0), weight, weight.stride(0), weight if bias is None else bias, plane, plane.stride(0), again, base_now, base, *shape,
            AGAIN=again_only, **common,
        )  # fmt: skip

    if by_descriptors:
        of_hidden, of_weight, of_plane = (
            TensorDescriptor.from_tensor(tensor, [options[rows], options[columns]])
            for tensor, rows, columns in (
                (hidden, "ROWS", "WIDTH"), (weight, "COLUMNS", "WIDTH"), (plane, "ROWS", "COLUMNS"),
            )
        )  # fmt: skip
        _descriptors_kernel[(min(tiles, _processors(hidden.device)),)](
            of_hidden, of_weight, weight if bias is None else bias, of_plane, base, *shape, **common
        )  # fmt: skip
    else:
        by_pointers(base, tiles, again_only=False)
    _settle_kernel[(R,)](
        tops, blocks, base, settled, again, BLOCK=triton.next_power_of_2(blocks), num_warps=4
    )
    if by_descriptors:
        common["ROWS"] = max(16, options["ROWS"] // 2)  # pointers take registers
    by_pointers(settled, min(tiles, _processors(hidden.device)), again_only=True)
    return RowSums(settled, sums, options["COLUMNS"])


def options_of(device: torch.device, columns: int, *, by_descriptors: bool) -> dict[str, int]:
    """The table's, with narrower blocks where pointers take registers, and shared memory may be scarce."""
    options = launch_options("projection", device, columns=columns)
    if not by_descriptors:
        options["COLUMNS"] = max(16, options["COLUMNS"] // 2)
    return options


def _takes_descriptors(hidden: Tensor, weight: Tensor) -> bool:
    """Whether the device copies blocks of matrices by itself, and the matrices lie so that it can."""
    return copies_blocks(hidden.device) and all(
        x.stride(1) == 1 and x.stride(0) * x.element_size() % 16 == 0 and x.data_ptr() % 16 == 0
        for x in (hidden, weight)
    )


def copies_blocks(device: torch.device) -> bool:
    """Whether it copies blocks of matrices by itself, and has the shared memory for the table's."""
    if device.type != "cuda":
        return True
    return torch.cuda.get_device_capability(device)[0] in LARGE_SHARED_MEMORY


def _processors(device: torch.device) -> int:
    """How many blocks run at once where each takes a multiprocessor."""
    if device.type != "cuda":
        return 2
    return torch.cuda.get_device_properties(device).multi_processor_count


@triton.jit
def _settle_kernel(tops, blocks, base, settled, again, BLOCK: tl.constexpr):
    """The row's maximum takes the place of a base that it is far from, and `again` hears of it."""
    row = tl.program_id(0).to(tl.int64)
    block = tl.arange(0, BLOCK)
    top = tl.max(
        tl.load(tops + row * blocks + block, mask=block < blocks, other=-float("inf")), axis=0
    )
    old = tl.load(base + row)
    far = (top > HIGHEST) | ((top < LOWEST) & (top > -float("inf")))
    tl.store(settled + row, tl.where(far, old + top, old))
    tl.store(again, 1, mask=far)


@triton.jit
def _product(a, b, z):
    if INTERPRETED:
        return z + tl.dot(a.to(tl.float32), b.to(tl.float32))
    else:
        return tl.dot(a, b, z)


@triton.jit
def _softmax_of_block(
    z, bias, base, sums, tops, rows, word, there, block, R, blocks, scale,
    BIAS: tl.constexpr, EXPONENTIALS: tl.constexpr, TOPS: tl.constexpr,
):  # fmt: skip
    """What is kept of a block of logits [ROWS, COLUMNS]; its sums and maxima are stored."""
    if BIAS:
        z += tl.load(bias + word, mask=there, other=0.0).to(tl.float32)[None, :]
    x = z * scale - tl.load(base + rows, mask=rows < R, other=0.0)[:, None]
    x = tl.where(there[None, :], x, -float("inf"))
    kept = x
    if not EXPONENTIALS:
        # Summed is what is kept: logits rounded one way under a partition of others make no distribution, and of a sure student
        # and a sure teacher the difference would be all rounding.
        kept = x.to(tl.float16).to(tl.float32)
    e = tl.exp2(kept)
    place = rows * blocks + block  # a plane of 2^31 blocks fits no device
    tl.store(sums + place, tl.sum(e, axis=1), mask=rows < R)
    if TOPS:
        tl.store(tops + place, tl.max(x, axis=1), mask=rows < R)
    if EXPONENTIALS:
        return e
    else:
        return kept


@triton.jit(do_not_specialize=["R", "V", "blocks"])
def _descriptors_kernel(
    hidden,  # [R, H], as descriptors
    weight,  # [V, H]
    bias,  # [V]
    plane,  # [R, P]
    base,  # [R]
    sums,  # [R, blocks]
    tops,  # [R, blocks]
    R,
    V,
    blocks,
    scale,  # 1 / (T log 2)
    H: tl.constexpr,
    BIAS: tl.constexpr,
    EXPONENTIALS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """All blocks by as many programs as there are processors; the copies of the next block begin while one ends."""
    row_blocks = tl.cdiv(R, ROWS)
    for tile in tl.range(tl.program_id(0), row_blocks * blocks, tl.num_programs(0), flatten=True):
        # Neighbours share the block of the weight, and the hidden states stay in the cache.
        row_block = tile % row_blocks
        block = tile // row_blocks
        z = tl.zeros([ROWS, COLUMNS], tl.float32)
        for start in range(0, H, WIDTH):
            a = hidden.load([row_block * ROWS, start])
            b = weight.load([block * COLUMNS, start])
            z = _product(a, b.T, z)
        rows = row_block * ROWS + tl.arange(0, ROWS)
        columns = block * COLUMNS + tl.arange(0, COLUMNS)
        there = columns < V
        kept = _softmax_of_block(
            z, bias, base, sums, tops, rows, columns, there, block, R, blocks, scale, BIAS, EXPONENTIALS, True
        )  # fmt: skip
        plane.store([row_block * ROWS, block * COLUMNS], kept.to(plane.dtype))


@triton.jit(do_not_specialize=["R", "V", "blocks"])
def _pointers_kernel(
    hidden,  # [R, H]
    hidden_stride,
    weight,  # [W, H]
    weight_stride,
    bias,  # [W]
    plane,  # [R, P]
    plane_stride,
    again,  # [1]
    base,  # [R]
    first_base,  # [R] of the first launch
    sums,  # [R, blocks]
    tops,  # [R, blocks]
    R,
    V,
    blocks,
    scale,  # 1 / (T log 2)
    H: tl.constexpr,
    BIAS: tl.constexpr,
    EXPONENTIALS: tl.constexpr,
    AGAIN: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """The same on other devices, or for other matrices; with AGAIN for the rows whose base has changed."""
    row_blocks = tl.cdiv(R, ROWS)
    tiles = row_blocks * blocks
    if AGAIN:
        tiles = tl.where(tl.load(again) != 0, tiles, 0)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        row_block = tile % row_blocks
        block = tile // row_blocks
        rows = row_block * ROWS + tl.arange(0, ROWS)
        columns = block * COLUMNS + tl.arange(0, COLUMNS)
        needed = True
        if AGAIN:
            now = tl.load(base + rows, mask=rows < R, other=0.0)
            before = tl.load(first_base + rows, mask=rows < R, other=0.0)
            needed = tl.sum((now != before).to(tl.int32), axis=0) > 0
        if needed:
            there = columns < V
            word = tl.minimum(columns, V - 1).to(tl.int64)
            k = tl.arange(0, WIDTH)
            h = hidden + (rows % R).to(tl.int64)[:, None] * hidden_stride + k[None, :]
            w = weight + word[None, :] * weight_stride + k[:, None]
            z = tl.zeros([ROWS, COLUMNS], tl.float32)
            for start in range(0, H, WIDTH):
                inside = start + k < H
                a = tl.load(h, mask=inside[None, :], other=0.0)
                b = tl.load(w, mask=inside[:, None], other=0.0)
                z = _product(a, b, z)
                h += WIDTH
                w += WIDTH
            kept = _softmax_of_block(
                z, bias, base, sums, tops, rows, word, there, block, R, blocks, scale,
                BIAS, EXPONENTIALS, not AGAIN,
            )  # fmt: skip
            target = plane + rows.to(tl.int64)[:, None] * plane_stride + columns[None, :]
            tl.store(
                target,
                kept.to(plane.dtype.element_ty),
                mask=(rows < R)[:, None] & (columns < plane_stride)[None, :],
            )
