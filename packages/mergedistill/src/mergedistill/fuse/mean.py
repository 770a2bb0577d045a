"""The weighted mean of models, tensor by tensor, a few megabytes of each in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from mergedistill.errors import FuseError
from mergedistill.fuse.models import FLOATS
from vocabmerge.encoder_folder.weight_files import StoredTensor

if TYPE_CHECKING:
    import torch


def mean_of(tensors: Sequence[StoredTensor], weights: Sequence[float]) -> StoredTensor:
    """θ = Σ_i w_i θ_i, read from the models' files when it is written, in their precision.

    It is added up in float32 (float64 where the tensors are) as θ_r + Σ_i w_i (θ_i - θ_r) with the model r of the largest
    weight, so that models that agree, and a weight of one, give the very bits that went in. What is no float is the same
    in all models and stays.

    Args:
        tensors: one of each model.
        weights: as many, that sum to one.
    """
    if tensors[0].dtype not in FLOATS:
        return tensors[0]
    return replace(tensors[0], read=partial(_mean_bytes, tuple(tensors), tuple(weights)))


def values_of(tensor: StoredTensor, start: int = 0, stop: int | None = None) -> torch.Tensor:
    """The values between two bytes of a stored tensor of floats, flat; of the whole one in its shape."""
    import torch

    dtypes = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}  # fmt: skip
    content = bytearray(tensor.read(start, tensor.size if stop is None else stop))
    if not content:
        return torch.empty(tensor.shape, dtype=dtypes[tensor.dtype])
    values = torch.frombuffer(content, dtype=dtypes[tensor.dtype])
    return values.view(tensor.shape) if stop is None else values


def as_bytes(values: torch.Tensor) -> bytes:
    """What stands in a file for some values."""
    import torch

    content: bytes = values.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    return content


def _mean_bytes(
    tensors: tuple[StoredTensor, ...], weights: tuple[float, ...], start: int, stop: int
) -> bytes:
    import torch

    blocks = [values_of(tensor, start, stop) for tensor in tensors]
    dtype = torch.float64 if tensors[0].dtype == "F64" else torch.float32
    reference = max(range(len(weights)), key=lambda index: weights[index])
    base = blocks[reference].to(dtype)
    total = base.clone()
    for weight, block in zip(weights, blocks, strict=True):
        if weight and block is not blocks[reference]:
            total += weight * (block.to(dtype) - base)
    if not bool(torch.isfinite(total).all()):
        raise FuseError(
            f"{tensors[0].name}: a value of one of the models is not finite, or too large for {tensors[0].dtype}; "
            "fuse models whose weights are numbers."
        )
    return as_bytes(total.to(blocks[0].dtype))
