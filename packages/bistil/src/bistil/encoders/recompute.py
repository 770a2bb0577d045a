"""Letting go of what cheap modules computed, to compute it again in the backward pass, bit for bit."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from bistil.encoders.capture import encoder_of, family_of

_ACTIVATIONS = ("torch.nn.modules.activation", "transformers.activations")


@contextlib.contextmanager
def recomputing(model: nn.Module) -> Iterator[None]:
    """Run a forward pass that keeps, for backward, what norms and activations read, and not what they returned.

    A norm and an activation keep their input for their own gradient; the layer behind them keeps their output too. That
    one is let go here and made again from the other when the backward pass asks, under the same autocast. So are the
    values of attention, at the price of the one product that costs least of all: the square of the width. Gradients are
    the same bits.

    `torch.utils.checkpoint` (Chen et al. 2016) does not serve: it runs a whole module again in the backward pass, when
    `capture_activations` has ended and its attention function is no longer set, and attention is the dearest part of it.

    Args:
        model: an encoder, or what holds one.
    """
    made: dict[StorageWeakRef, _Made] = {}
    encoder, family = encoder_of(model), family_of(model)
    values = () if family.value == family.query else (f".{family.value}",)
    with contextlib.ExitStack() as stack:
        for name, module in encoder.named_modules():
            kind = type(module)
            cheap = kind.__name__.endswith(family.norm) or kind.__module__ in _ACTIVATIONS
            if cheap or name.endswith(values):
                hook = module.register_forward_hook(functools.partial(_note, made), prepend=True)
                stack.callback(hook.remove)
        stack.enter_context(
            torch.autograd.graph.saved_tensors_hooks(functools.partial(_pack, made), _unpack)
        )
        yield


@dataclass(frozen=True)
class _Made:
    """How a tensor came to be.

    Attributes:
        make: makes it again.
        version: of the tensor; a later one was changed in place.
    """

    make: Callable[[], Tensor]
    version: int


def _note(
    made: dict[StorageWeakRef, _Made], module: nn.Module, inputs: tuple[Tensor], output: Tensor
) -> None:
    device, read = output.device.type, _pack(made, inputs[0])
    autocast = functools.partial(
        torch.autocast,
        device,
        dtype=torch.get_autocast_dtype(device),
        enabled=torch.is_autocast_enabled(device),
    )

    def make() -> Tensor:
        with torch.no_grad(), autocast():
            again: Tensor = module.forward(_unpack(read))
        return again

    # A weak reference keeps the storage's address from being given out again, and nothing of its bytes.
    made[StorageWeakRef(output.untyped_storage())] = _Made(make, output._version)


def _pack(made: dict[StorageWeakRef, _Made], tensor: Tensor) -> Any:
    how = made.get(StorageWeakRef(tensor.untyped_storage()))
    if how is None or how.version != tensor._version:
        return tensor.detach()  # with its history, an output would hold itself
    return functools.partial(
        _again, how.make, tensor.shape, tensor.stride(), tensor.storage_offset()
    )


def _again(make: Callable[[], Tensor], *layout: Any) -> Tensor:
    return make().as_strided(*layout)


def _unpack(kept: Any) -> Tensor:
    tensor: Tensor = kept() if callable(kept) else kept
    return tensor
