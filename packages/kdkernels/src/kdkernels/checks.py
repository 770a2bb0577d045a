"""What is checked before an operation computes, and how it chooses its implementation.

Checks happen once, at the edge, in each operation's `api.py`. An explicit choice of implementation is kept or
refused, never replaced.
"""

import importlib.util
import math
import os
import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from kdkernels.compiling import constant

IMPLS = ("auto", "reference", "torch", "triton")
TRITON_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
TRITON_CAPABILITY = (8, 0)


class KernelArgumentError(ValueError):
    """An argument that no implementation can honour; the message says what was expected and what to do."""


@constant
def choose_impl(
    impl: str,
    *,
    operation: str,
    device: torch.device,
    dtype: torch.dtype,
    unsuited: str | None = None,
) -> str:
    """Name the implementation to run: the one asked for, or the rule behind "auto".

    "auto" is "triton" for float32, float16 and bfloat16 tensors that the operation's kernel takes, on an NVIDIA device
    of compute capability 8.0 or more where triton is installed, and "torch" everywhere else; it is never "reference".

    Args:
        impl: "auto", "reference", "torch" or "triton".
        operation: the public function's name, for the message.
        device: where the operands are.
        dtype: of the operands.
        unsuited: why the kernel does not take these operands, to follow "impl='triton' "; None where it does.

    Returns:
        "reference", "torch" or "triton".

    Raises:
        KernelArgumentError: the name is unknown, "triton" is asked for where it cannot run, or a transform of torch.func is at
            work, which the reference alone bears.
    """
    require_choice("impl", impl, IMPLS, operation=operation)
    if impl != "reference":
        _require_no_transform(operation)
    if impl == "auto":
        usable = dtype in TRITON_DTYPES and unsuited is None and runs_triton(device)
        return "triton" if usable else "torch"
    if impl == "triton":
        _require_triton(operation, device, dtype, unsuited)
    return impl


class _Probe(torch.autograd.Function):
    """Of the form without `setup_context`, which transforms of torch.func refuse before it runs."""

    @staticmethod
    def forward(ctx: object) -> None:
        """Do nothing."""


def _require_no_transform(operation: str) -> None:
    try:
        _Probe.apply()
    except RuntimeError as error:
        raise KernelArgumentError(
            f"{operation}: transforms of torch.func (grad, vmap, jvp and others) cannot pass through the implementations 'torch' and "
            "'triton', which make the gradient with the loss; ask for impl='reference' there, or call backward()"
        ) from error


def runs_triton(device: torch.device) -> bool:
    """Whether it is a GPU that the kernels run on, and triton is installed."""
    return device.type == "cuda" and _triton_is_installed() and _unsuited_device(device) is None


def require_choice(name: str, value: str, allowed: Sequence[str], *, operation: str) -> None:
    """Refuse an option outside its list."""
    if value not in allowed:
        listed = ", ".join(map(repr, allowed))
        raise KernelArgumentError(f"{operation}: {name} must be one of {listed}; got {value!r}")


def require_number(
    name: str,
    value: float,
    *,
    operation: str,
    low: float,
    high: float = math.inf,
    strict: bool = False,
) -> None:
    """Refuse a number outside [low, high], or (low, high] where `strict`; NaN is outside."""
    inside = low < value <= high if strict else low <= value <= high
    if not inside or math.isinf(value):
        bracket = "(" if strict else "["
        raise KernelArgumentError(
            f"{operation}: {name} must be a finite number in {bracket}{low:g}, {high:g}]; got {value!r}"
        )


def require_shape(
    name: str, tensor: Tensor, shape: Sequence[int | None], *, axes: str, operation: str
) -> None:
    """Refuse a tensor of another shape.

    Args:
        name: the argument.
        tensor: its value.
        shape: the expected sizes, None where any will do.
        axes: the shape in words, such as "[N, H]", for the message.
        operation: the public function's name, for the message.
    """
    fits = tensor.dim() == len(shape) and all(
        expected is None or size == expected
        for size, expected in zip(tensor.shape, shape, strict=True)
    )
    if not fits:
        sizes = "[" + ", ".join("*" if size is None else str(size) for size in shape) + "]"
        raise KernelArgumentError(
            f"{operation}: {name} must be {axes}, here {sizes}; got {list(tensor.shape)}"
        )


def require_floating(name: str, tensor: Tensor, *, operation: str) -> None:
    """Refuse whole numbers where real ones are meant."""
    if not tensor.is_floating_point():
        raise KernelArgumentError(
            f"{operation}: {name} must hold floating point numbers; got {tensor.dtype}"
        )


def require_integer(name: str, tensor: Tensor, *, operation: str) -> None:
    """Refuse anything but int32 and int64 where ids are meant."""
    if tensor.dtype not in (torch.int64, torch.int32):
        raise KernelArgumentError(
            f"{operation}: {name} must hold int64 or int32 ids; got {tensor.dtype}: write {name}.long()"
        )


def require_one_device(operation: str, **tensors: Tensor | None) -> None:
    """Refuse operands on several devices, and operands of which this process holds a part."""
    for name, tensor in tensors.items():
        if tensor is not None and _is_distributed(tensor):
            raise KernelArgumentError(
                f"{operation}: {name} must be a plain tensor; got a DTensor, of which this process holds a part: pass "
                f"{name}.full_tensor(), or call the loss inside the forward of the module that FSDP gathers"
            )
    devices = {name: tensor.device for name, tensor in tensors.items() if tensor is not None}
    if len(set(devices.values())) > 1:
        where = ", ".join(f"{name} on {device}" for name, device in devices.items())
        raise KernelArgumentError(f"{operation}: all tensors must be on one device; got {where}")


def _is_distributed(tensor: Tensor) -> bool:
    """Whether it is a DTensor: FSDP2 and tensor parallelism make weights so. Without their import there is none."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def _require_triton(
    operation: str, device: torch.device, dtype: torch.dtype, unsuited: str | None
) -> None:
    if not _triton_is_installed():
        raise KernelArgumentError(
            f"{operation}: impl='triton' needs the package triton, which is not installed: "
            "install kdkernels[triton], or ask for impl='torch'"
        )
    if device.type != "cuda" and not (
        device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"
    ):
        raise KernelArgumentError(
            f"{operation}: impl='triton' runs on CUDA tensors, or on CPU tensors in a process started with "
            f"TRITON_INTERPRET=1; got tensors on {str(device)!r}: ask for impl='torch'"
        )
    wrong_device = _unsuited_device(device) if device.type == "cuda" else None
    if wrong_device is not None:
        raise KernelArgumentError(
            f"{operation}: impl='triton' {wrong_device}: ask for impl='torch'"
        )
    if dtype not in TRITON_DTYPES:
        raise KernelArgumentError(
            f"{operation}: impl='triton' takes float32, float16 and bfloat16; got {dtype}: ask for impl='torch'"
        )
    if unsuited is not None:
        raise KernelArgumentError(f"{operation}: impl='triton' {unsuited}")


def _unsuited_device(device: torch.device) -> str | None:
    """Why the kernels do not run on a device of type "cuda", which AMD's are too; None where they do."""
    if torch.version.hip is not None:
        return (
            "runs on NVIDIA devices alone, where a barrier orders what a block writes and reads; got an AMD device "
            f"(HIP {torch.version.hip})"
        )
    capability = torch.cuda.get_device_capability(device)
    if capability < TRITON_CAPABILITY:
        return (
            f"needs compute capability {'.'.join(map(str, TRITON_CAPABILITY))} or more; "
            f"got {'.'.join(map(str, capability))}"
        )
    return None


def _triton_is_installed() -> bool:
    return importlib.util.find_spec("triton") is not None
