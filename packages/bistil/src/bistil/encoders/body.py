"""The body of a model: the tensors that a sparse fine-tuning may change, under the names they have in every head's company."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn


def body_of(model: nn.Module) -> nn.Module:
    """The encoder without its head: of a `…ForMaskedLM`, of a task's model, or the model itself."""
    encoder = getattr(model, "encoder", None)
    if not hasattr(model, "base_model") and isinstance(encoder, nn.Module):
        return encoder
    body: nn.Module = getattr(model, "base_model", model)
    return body


def body_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Name to parameter of the body, in the model's order, each once; a pooler belongs to a head."""
    return {
        name: parameter
        for name, parameter in body_of(model).named_parameters()
        if not name.startswith("pooler.")
    }


def norm_names(model: nn.Module) -> set[str]:
    """Names, in the body, of the parameters of its normalisation layers."""
    return {
        f"{place}.{name}" if place else name
        for place, module in body_of(model).named_modules()
        if "Norm" in type(module).__name__
        for name, _ in module.named_parameters(recurse=False)
    }


def embedding_name(model: Any) -> str:
    """Name, in the body, of the tensor with one row per piece of the vocabulary."""
    weight = body_of(model).get_input_embeddings().weight  # type: ignore[operator]  # transformers' models have it
    return next(name for name, parameter in body_parameters(model).items() if parameter is weight)


def tensor_bytes(tensor: Tensor) -> memoryview:
    """A tensor's bytes, last dimension fastest; no copy of what lies so in main memory."""
    if not tensor.numel():
        return memoryview(b"")
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data


def tensor_digest(tensor: Tensor) -> str:
    """BLAKE2b of `tensor_bytes`, 8 bytes as hexadecimal digits."""
    return hashlib.blake2b(tensor_bytes(tensor), digest_size=8).hexdigest()


def body_digests(model: nn.Module) -> dict[str, str]:
    """`tensor_digest` of every tensor of the body."""
    return {name: tensor_digest(tensor) for name, tensor in body_parameters(model).items()}


def digest_of_all(digests: Mapping[str, str]) -> str:
    """One digest of a body, from those of its tensors."""
    lines = "\n".join(f"{name} {digest}" for name, digest in sorted(digests.items()))
    return hashlib.blake2b(lines.encode(), digest_size=8).hexdigest()


def copies(
    parameters: Mapping[str, Tensor], names: Iterable[str] | None = None
) -> dict[str, Tensor]:
    """Detached copies of some tensors."""
    return {
        name: parameters[name].detach().clone() for name in (parameters if names is None else names)
    }
