"""A pretended GPU: tensors on it are apart from those on the CPU, and nothing else about it is special.

A tensor on the pretended GPU wraps a real CPU tensor, so that real arithmetic happens and results can be compared with the CPU's.
Where a tensor on the GPU meets one on the CPU, as a forgotten `.to(device)` makes them meet, `DeviceMismatchError` is raised, as
CUDA would refuse it. The code under test asks torch for CUDA as it always does::

    with pretended_gpu():
        model.to("cuda")                    # the parameters stay the objects they were, as on a real GPU
        model(ids.to("cuda"))               # real numbers come out
        model(ids)                          # DeviceMismatchError

Not pretended: kernels, streams, autocast to half precision, speed. Tensors on the GPU say that their device is `meta`: the
CPU build of torch goes backward through no other foreign device.
"""

from __future__ import annotations

import contextlib
import importlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

Outcome = TypeVar("Outcome")
GPU = torch.device("meta", 1)  # `meta` without a number is what it always is
# For `pytest.mark.parametrize("kind", DEVICES)`; see `on_cpu_and_gpu`.
DEVICES = ("pretended", pytest.param("cuda", marks=pytest.mark.gpu))
_COPY = torch.ops.aten.copy_.default
_BETWEEN_DEVICES = (_COPY, torch.ops.aten._to_copy.default)
# CUDA takes indices on the CPU for a tensor that is not there.
_INDEXING = (
    torch.ops.aten.index.Tensor,
    torch.ops.aten.index_put.default,
    torch.ops.aten.index_put_.default,
    torch.ops.aten._index_put_impl_.default,
)
# What torch.cuda answers while the pretended GPU is there.
_ANSWERS: dict[str, Any] = {
    "is_available": True,
    "is_initialized": False,
    "is_bf16_supported": True,
    "current_device": 0,
    "get_device_name": "pretended GPU",
    "get_device_capability": (9, 0),
    "get_rng_state": torch.zeros(0, dtype=torch.uint8),
    "get_rng_state_all": [],
    "memory_allocated": 0,
    "max_memory_allocated": 0,
    **dict.fromkeys(
        ("_lazy_init", "empty_cache", "manual_seed", "manual_seed_all", "reset_peak_memory_stats",
         "set_device", "set_rng_state", "set_rng_state_all", "synchronize")
    ),
}  # fmt: skip


class DeviceMismatchError(RuntimeError):
    """A tensor on the GPU and one on the CPU in one operation."""


class GpuTensor(Tensor):
    """A tensor on the pretended GPU, with its numbers in `content`."""

    content: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, content: Tensor) -> GpuTensor:
        """Wrap a tensor on the CPU."""
        made: GpuTensor = Tensor._make_wrapper_subclass(
            cls,
            content.size(),
            strides=content.stride(),
            storage_offset=content.storage_offset(),
            dtype=content.dtype,
            device=GPU,
        )
        made.content = content
        return made

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(op, args, kwargs or {})

    def __repr__(self, **_: Any) -> str:
        return f"on the GPU: {self.content!r}"


def on_gpu(thing: Tensor | nn.Module) -> bool:
    """Whether a tensor, or all parameters and buffers of a module, are on the GPU, pretended or real."""
    tensors = [thing] if isinstance(thing, Tensor) else [*thing.parameters(), *thing.buffers()]
    return all(tensor.is_cuda or isinstance(tensor, GpuTensor) for tensor in tensors)


@contextlib.contextmanager
def device(kind: str) -> Iterator[None]:
    """One of `DEVICES`: the real GPU, or two pretended ones, of which a process without a launcher must use one."""
    _skip_without(kind)
    with pretended_gpu(2) if kind == "pretended" else contextlib.nullcontext():
        yield


def _skip_without(kind: str) -> None:
    if kind == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")


@contextlib.contextmanager
def no_gpu() -> Iterator[None]:
    """Torch says that there is no CUDA, whatever the machine has: the CPU's results, to compare with."""
    with mock.patch.object(torch.cuda, "is_available", return_value=False), _asked_anew():
        yield


def on_cpu_and_gpu(
    kind: str, run: Callable[[Path], Outcome], folder: Path, *, trains: bool
) -> tuple[Outcome, Outcome]:
    """What comes of a program on the CPU and on the GPU, on which it must train, if it does; without dropout.

    Args:
        kind: one of `DEVICES`.
        run: the program, told a path of its own, where nothing is yet.
        folder: for both paths.
        trains: whether a Trainer goes backward in it, as every one of its losses must do on the GPU.
    """
    _skip_without(kind)  # before the CPU has run it for nothing
    # A real GPU draws other random numbers.
    with mock.patch.object(nn.Dropout, "forward", lambda _module, states: states):
        with no_gpu():
            expected = run(folder / "cpu")
        with device(kind), backward_devices() as losses:
            outcome = run(folder / "gpu")
    assert all(losses), f"{losses.count(False)} of {len(losses)} losses are on the CPU"
    assert bool(losses) == trains
    return expected, outcome


@contextlib.contextmanager
def backward_devices() -> Iterator[list[bool]]:
    """A list that says of every loss that a Trainer goes backward from whether it is on the GPU."""
    from accelerate import Accelerator

    seen: list[bool] = []
    backward = Accelerator.backward

    def noting(self: Any, loss: Tensor, **options: Any) -> None:
        seen.append(on_gpu(loss))
        backward(self, loss, **options)

    with mock.patch.object(Accelerator, "backward", noting):
        yield seen


@contextlib.contextmanager
def pretended_gpu(count: int = 1) -> Iterator[None]:
    """Torch says that CUDA is there, and `cuda` means the pretended GPU.

    Args:
        count: how many GPUs are visible; all names mean the one.
    """
    with contextlib.ExitStack() as stack:
        for name, answer in {**_ANSWERS, "device_count": count}.items():
            for module in (torch.cuda, torch.cuda.random):
                if hasattr(module, name):
                    stack.enter_context(mock.patch.object(module, name, _always(answer)))
        optimizer = importlib.import_module("torch.optim.optimizer")
        fused = _always(["cpu", "cuda", "meta"])
        stack.enter_context(
            mock.patch.object(optimizer, "_get_fused_kernels_supported_devices", fused)
        )
        stack.enter_context(mock.patch.object(torch, "autocast", _Autocast))
        for name in ("is_autocast_enabled", "get_autocast_dtype"):
            asked = _of_cpu(getattr(torch, name))
            stack.enter_context(mock.patch.object(torch, name, asked))
        # Inference tensors have no version counter, which wrapped views of parameters need.
        stack.enter_context(mock.patch.object(torch._C, "_InferenceMode", _no_grad))
        stack.enter_context(mock.patch.object(nn.Module, "_apply", _apply))
        stack.enter_context(_asked_anew())
        stack.enter_context(_Functions())
        stack.enter_context(_Dispatch())
        yield


@contextlib.contextmanager
def _asked_anew() -> Iterator[None]:
    """What transformers remembers of the device is forgotten on the way in and out."""
    _forget()
    try:
        yield
    finally:
        _forget()


def _forget() -> None:
    remembered = sys.modules.get("transformers.utils.import_utils")
    for name, function in vars(remembered).items() if remembered else ():
        if re.search("cuda|bf16|fp16|tf32|accelerator", name) and hasattr(function, "cache_clear"):
            function.cache_clear()


def _always(answer: Any) -> Any:
    return lambda *_, **__: answer


def _of_cpu(asked: Callable[..., Any]) -> Callable[..., Any]:
    """The same question about a type of device, put about the CPU for ours."""
    return lambda *types: asked(*map(_cpu_for_ours, types))


def _cpu_for_ours(device_type: str) -> str:
    return "cpu" if device_type in ("cuda", GPU.type) else device_type


def _no_grad(mode: bool) -> Any:
    return torch.no_grad() if mode else contextlib.nullcontext()


class _Autocast(torch.autocast):
    def __init__(self, device_type: str, *args: Any, **named: Any) -> None:
        super().__init__(_cpu_for_ours(device_type), *args, **named)


class _Functions(TorchFunctionMode):
    """Says `meta` where the code says `cuda`, which a CPU build of torch refuses before any dispatch."""

    def __torch_function__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if op is torch.device:
            return op(*args, **kwargs)
        if op is Tensor.cuda:
            return args[0].to(GPU)
        if op is Tensor.tolist:
            return op(args[0].cpu())
        if op is Tensor.data_ptr and isinstance(args[0], GpuTensor):
            return op(args[0].content)
        args = tuple(_renamed(argument) for argument in args)
        if "device" in kwargs:
            kwargs["device"] = _renamed(kwargs["device"])
        # Made from Python values on `meta`, a tensor would have none.
        if op in (torch.tensor, torch.as_tensor):
            where = kwargs.pop("device", None)
            made = op(*args, **kwargs)
            return made if where is None else made.to(where)
        if op is Tensor.new_tensor:
            like, values = args
            where = kwargs.pop("device", like.device)
            made = torch.tensor(values, dtype=kwargs.pop("dtype", like.dtype), **kwargs)
            return made.to(where)
        return op(*args, **kwargs)


def _renamed(argument: Any) -> Any:
    cuda = isinstance(argument, str | torch.device) and str(argument).split(":")[0] == "cuda"
    return GPU if cuda else argument


class _Dispatch(TorchDispatchMode):
    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(op, args, kwargs or {})


def _run(op: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    any_on_gpu = any(isinstance(tensor, GpuTensor) for tensor in tensors)
    where = kwargs.get("device")
    if any_on_gpu and op not in _BETWEEN_DEVICES:
        _refuse_mismatch(op, args, tensors)
    plain_args, plain_kwargs = tree_map_only(
        GpuTensor, lambda tensor: tensor.content, (args, kwargs)
    )
    if where is None:
        to_gpu = isinstance(args[0], GpuTensor) if op is _COPY else any_on_gpu
    else:
        to_gpu = where == GPU
        plain_kwargs["device"] = torch.device("cpu") if to_gpu else where
    made = op(*plain_args, **plain_kwargs)
    if not to_gpu:
        return made
    wrapped = tree_map_only(Tensor, GpuTensor, made)
    return return_and_correct_aliasing(op, args, kwargs, wrapped) if any_on_gpu else wrapped


def _refuse_mismatch(op: Any, args: Any, tensors: list[Tensor]) -> None:
    if op in _INDEXING and isinstance(args[0], GpuTensor):
        tensors = [args[0], *args[2:3]]
    # A tensor of no dimension counts as a number.
    strangers = [tensor for tensor in tensors if not isinstance(tensor, GpuTensor) and tensor.dim()]
    if strangers:
        raise DeviceMismatchError(
            f"{op}: expected all tensors on one device, got some on the GPU and on the CPU one of shape "
            f"{list(strangers[0].shape)}; move it with `.to(device)`."
        )


def _apply(self: nn.Module, convert: Any, recurse: bool = True) -> nn.Module:
    """As torch moves a module to CUDA: parameters stay the objects they were, hooks included."""
    if recurse:
        for child in self.children():
            child._apply(convert)
    for parameter in self._parameters.values():
        if parameter is not None:
            _move(parameter, convert)
    for name, buffer in self._buffers.items():
        if buffer is not None:
            self._buffers[name] = convert(buffer)
    return self


def _move(parameter: nn.Parameter, convert: Any) -> None:
    with torch.no_grad():
        moved = convert(parameter)
    if moved is parameter:
        return
    hooks, gradient = parameter._backward_hooks, parameter.grad
    parameter._backward_hooks = None
    parameter.grad = None
    torch.utils.swap_tensors(parameter, nn.Parameter(moved.detach(), parameter.requires_grad))
    parameter._backward_hooks = hooks
    if gradient is not None:
        parameter.grad = convert(gradient)
