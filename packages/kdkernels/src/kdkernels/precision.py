"""In which precision sums are kept, and how a CPU takes products of half-precision operands."""

import contextlib
from collections.abc import Iterator

import torch


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Of everything after the logits or scores: float64 for float64, float32 for all other dtypes."""
    return torch.float64 if dtype == torch.float64 else torch.float32


@contextlib.contextmanager
def products_of(dtype: torch.dtype, device: torch.device) -> Iterator[None]:
    """On a CPU, let float32 products of values that came from bfloat16 run on its bfloat16 units.

    Scores and logits lose nothing: the values are exact and sums stay in float32. A gradient rounds as it would between
    bfloat16 layers. The switch holds for the whole process as long as the context does.
    """
    precision = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # torch makes it when it is imported
    before = precision.fp32_precision
    if dtype != torch.bfloat16 or device.type != "cpu":
        yield
        return
    precision.fp32_precision = "bf16"
    try:
        yield
    finally:
        precision.fp32_precision = before
