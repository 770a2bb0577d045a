"""Matrix products over a vocabulary: how many rows at once, where they lie, and how sums keep float32's precision."""

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor

HALF_PRECISION = (torch.bfloat16, torch.float16)
# Rows of logits start at multiples of this many values on a GPU: tensor cores, TMA and wide loads want 16 bytes, and
# V = 250,002 gives them 4.
ALIGNED_COLUMNS = 64
# Columns of the vocabulary that are widened to float32 at once, to stay in a core's cache.
WIDENED_COLUMNS = 1024
# Rows of logits that are widened to float32 at once on a CPU, to be added up before they leave the cache.
WIDENED_ROW_BYTES = 4 * 2**20
CPU_CHUNK_BYTES = 256 * 2**20
DEVICE_CHUNK_BYTES = 4 * 2**30
DEVICE_SHARE = 16  # of a device's memory at most this part


def default_chunk_bytes(device: torch.device, *, one_chunk: int = 0, spared: int = 0) -> int:
    """Size of the logits buffer where the caller names none: one chunk where that fits, which needs no float32 sums.

    Args:
        device: of the operands.
        one_chunk: bytes of all rows' logits.
        spared: bytes of the sums that several chunks need and one does not; on a CPU the buffer may have them.
    """
    if device.type != "cuda":
        return CPU_CHUNK_BYTES + (spared if one_chunk <= CPU_CHUNK_BYTES + spared else 0)
    total = torch.cuda.get_device_properties(device).total_memory
    return min(DEVICE_CHUNK_BYTES, total // DEVICE_SHARE)


def chunk_rows(N: int, *, row_bytes: int, chunk_bytes: int) -> int:
    """How many of N rows fit the budget, evened out over the chunks; at least one."""
    chunks = math.ceil(N / max(1, chunk_bytes // row_bytes))
    return math.ceil(N / chunks) if chunks else 1


def empty_rows(rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Room for logits [rows, columns]; on a GPU every row starts aligned, with a gap behind it that nobody reads."""
    stride = columns
    if device.type != "cpu":
        stride = -(-columns // ALIGNED_COLUMNS) * ALIGNED_COLUMNS
    return torch.empty(rows, stride, dtype=dtype, device=device)[:, :columns]


def padded_rows(rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """As `empty_rows`, with the columns behind each row that keep the next one aligned: [rows, at least `columns`]."""
    return torch.empty(
        rows, -(-columns // ALIGNED_COLUMNS) * ALIGNED_COLUMNS, dtype=dtype, device=device
    )


@contextlib.contextmanager
def sums_in_float32() -> Iterator[None]:
    """Inside, cuBLAS adds up the parts of a half-precision product in float32.

    By default it may split a long sum, such as that over the vocabulary in dH = dz W, and round each part to the
    operands' dtype. The switches hold for the whole process as long as the context does.
    """
    matmul = torch.backends.cuda.matmul
    names = ("allow_bf16_reduced_precision_reduction", "allow_fp16_reduced_precision_reduction")
    before = {
        name: (getattr(matmul, name), getattr(matmul, f"{name}_split_k", True)) for name in names
    }
    try:
        for name, (_, may_split) in before.items():
            setattr(matmul, name, False if may_split else (False, False))
        yield
    finally:
        for name, (rounded, may_split) in before.items():
            setattr(matmul, name, rounded if may_split else (rounded, False))


def dtype_of_gradient(operand: torch.dtype) -> torch.dtype:
    """In which dtype a gradient waits for `backward`: float32 for float16, which has no room for what is unscaled."""
    return torch.float32 if operand == torch.float16 else operand


def float16_scale(row_scale: Tensor, dtype: torch.dtype, *, temperature: float) -> Tensor | None:
    """What to multiply the gradient by logits with while it is in float16, and its products are not yet divided by.

    A row's gradient is row_scale · T · (probabilities and log-ratios), and row_scale is 1 / rows: below 6e-8 float16
    holds nothing, and a loss scaler's factor arrives only in `backward`. A power of two brings the largest row to 128,
    where probabilities keep all bits down to 5e-7 and leave 500 times the room above.

    Args:
        row_scale: [N] factors of the rows.
        dtype: in which the gradient is kept.
        temperature: T.

    Returns:
        A scalar on the device, without a wait for it; None where the dtype is not float16.
    """
    if dtype != torch.float16 or row_scale.numel() == 0:
        return None
    largest = row_scale.abs().amax() * max(1.0, temperature)
    # Within ±100 whatever the rows weigh, all 0 included: the scale and its inverse are then finite.
    exponent = torch.log2(largest.nan_to_num(nan=1.0, posinf=1.0)).ceil().clamp(-100, 100)
    return torch.exp2(7 - exponent)


def product_into(out: Tensor, a: Tensor, b: Tensor) -> None:
    """Write a b to `out`. [M, K], [K, N] -> [M, N], in the operands' dtype, or in float32 for half precision."""
    if out.dtype == a.dtype:
        torch.mm(a, b, out=out)
    elif a.device.type == "cuda":
        torch.mm(a, b, out_dtype=out.dtype, out=out)
    else:
        out.zero_()
        for start in range(0, a.shape[1], WIDENED_COLUMNS):
            part = slice(start, start + WIDENED_COLUMNS)
            out.addmm_(a[:, part].to(out.dtype), b[part].to(out.dtype))


def add_column_sums(total: Tensor, rows: Tensor) -> None:
    """Add the sum of each column to `total`, in its dtype. [V], [R, V]

    A CPU widens all rows of half precision before it adds them up, a second buffer of twice the size of the first; here
    it widens few at a time.
    """
    V = len(total)
    few = len(rows)
    if rows.device.type == "cpu" and rows.dtype != total.dtype:
        few = max(1, WIDENED_ROW_BYTES // (V * total.itemsize))
    for part in rows.split(few):
        total += part.sum(dim=0, dtype=total.dtype)


def plane_times_weight(out: Tensor, plane: Tensor, weight: Tensor) -> None:
    """Write plane[:, :V] weight to `out`. [R, P], [V, H] -> [R, H]

    Where a dimension is no multiple of 8, cuBLAS takes slower kernels for the whole product: the last columns go by
    themselves.
    """
    V = len(weight)
    body = V // ALIGNED_COLUMNS * ALIGNED_COLUMNS
    if body in (0, V):
        product_into(out, plane[:, :V], weight)
        return
    total = out if out.dtype == torch.float32 else torch.empty_like(out, dtype=torch.float32)
    product_into(total, plane[:, :body], weight[:body])
    rest = torch.empty_like(total)
    product_into(rest, plane[:, body:V], weight[body:])
    torch.add(total, rest, out=out)
