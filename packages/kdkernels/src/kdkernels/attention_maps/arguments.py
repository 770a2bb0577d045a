"""What a comparison of two maps takes, checked once."""

from dataclasses import dataclass

import torch
from torch import Tensor

from kdkernels.checks import KernelArgumentError, require_number, require_one_device, require_shape


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How the entries of two maps are compared: everything but the tensors that make the scores.

    Attributes:
        divergence: "mse" (mean over entries) or "kl" (KL(teacher ‖ student), mean over query rows).
        mask: bool [B, S], the real tokens; bool [B, S, S], the pairs (query, key) that meet; or None, all.
        reach: how far apart query and key may be, in positions, or None for any distance.
        scale_s: the student's factor from products to scores.
        scale_t: the teacher's factor.
        divisor: what the sum is divided by in place of the count.
        chunk_bytes: bytes of one tile of scores, or None for the default of the device.
        check: whether to look at the values of a mask [B, S], to take padding out; else it is masked.
    """

    divergence: str
    mask: Tensor | None
    reach: int | None
    scale_s: float
    scale_t: float
    divisor: float | Tensor | None
    chunk_bytes: int | None
    check: bool = True

    @property
    def masks_padding(self) -> bool:
        """Whether padding stays among the tokens, where nobody may look at the mask."""
        return not self.check and self.mask is not None and self.mask.dim() == 2

    @property
    def gradient_factor(self) -> float:
        """Of gradients: ∂(scale · q kᵀ) / ∂q has the scale, and of the squared difference half the gradient is summed."""
        return self.scale_s * (2.0 if self.divergence == "mse" else 1.0)

    def counted_without_mask(self, *, batch: int, heads: int, length: int) -> int:
        """What the mean runs over where every token is real: pairs within reach, or query rows."""
        if self.divergence == "kl":
            return batch * heads * length
        reach = length - 1 if self.reach is None else min(self.reach, length - 1)
        return batch * heads * (length * (2 * reach + 1) - reach * (reach + 1))


def require_sides(
    operation: str, student: dict[str, Tensor], teacher: dict[str, Tensor], mask: Tensor | None
) -> None:
    """Refuse dtypes that are not floating, and operands on several devices."""
    for name, tensor in {**student, **teacher}.items():
        if not tensor.is_floating_point():
            raise KernelArgumentError(
                f"{operation}: {name} must hold floating point numbers; got {tensor.dtype}"
            )
    require_one_device(operation, **student, **teacher, mask=mask)


def require_mask(operation: str, mask: Tensor | None, *, batch: int, length: int) -> None:
    """Refuse a mask of another shape, and any that is not bool: 0/1 and additive masks look alike."""
    if mask is None:
        return
    if mask.dtype != torch.bool:
        raise KernelArgumentError(
            f"{operation}: mask must be bool, True where a token counts; got {mask.dtype}: "
            "write attention_mask.bool()"
        )
    if mask.dim() == 3:
        shape, axes = [batch, length, length], "[B, S, S]"
    else:
        shape, axes = [batch, length], "[B, S] or [B, S, S]"
    require_shape("mask", mask, shape, axes=axes, operation=operation)


def require_options(
    operation: str, *, window: int | None, divisor: float | Tensor | None, chunk_bytes: int | None
) -> None:
    """Refuse a negative window, and a divisor or a budget that is not positive."""
    if window is not None and (window < 0 or int(window) != window):
        raise KernelArgumentError(
            f"{operation}: window must be a whole number ≥ 0, the width of local attention; got {window!r}"
        )
    if isinstance(divisor, Tensor):
        if divisor.numel() != 1:
            raise KernelArgumentError(
                f"{operation}: divisor must be one number; got a tensor of {list(divisor.shape)}"
            )
    elif divisor is not None:
        require_number("divisor", divisor, operation=operation, low=0.0, strict=True)
    if chunk_bytes is not None:
        require_number("chunk_bytes", chunk_bytes, operation=operation, low=1)


def widest(*tensors: Tensor) -> torch.dtype:
    """The dtype that holds the values of all."""
    dtype = tensors[0].dtype
    for tensor in tensors[1:]:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype
