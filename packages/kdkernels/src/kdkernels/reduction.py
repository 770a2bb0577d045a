"""From losses of rows to one number: which rows count, what each weighs, and what the sum is divided by."""

import torch
from torch import Tensor

from kdkernels.checks import KernelArgumentError
from kdkernels.compiling import has_values


def row_scales(
    operation: str,
    rows: int,
    *,
    row_weight: Tensor | None,
    divisor: float | Tensor | None,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """The factor of each counted row in the loss: row_weight / divisor.

    Args:
        operation: the public function's name, for the message.
        rows: how many rows count.
        row_weight: [rows] or None for ones.
        divisor: what the sum is divided by, None for `rows`.
        dtype: of the result.
        device: of the result.

    Returns:
        [rows]; without rows nothing is divided, so the loss is an exact 0.

    Raises:
        KernelArgumentError: the divisor is not positive, or is a tensor of several elements.
    """
    if isinstance(divisor, Tensor):
        if divisor.numel() != 1:
            raise KernelArgumentError(
                f"{operation}: divisor must be one number; got a tensor of {list(divisor.shape)}"
            )
        divide_by = divisor.detach().to(device=device, dtype=dtype).reshape(())
    else:
        if divisor is not None and not divisor > 0 and rows > 0:
            raise KernelArgumentError(f"{operation}: divisor must be positive; got {divisor!r}")
        divide_by = torch.full(
            (), float(rows if divisor is None else divisor), dtype=dtype, device=device
        )
    weight = (
        torch.ones(rows, dtype=dtype, device=device)
        if row_weight is None
        else row_weight.detach().to(dtype)
    )
    return weight / divide_by


def scales_on_device(
    operation: str,
    N: int,
    *,
    mask: Tensor | None,
    row_weight: Tensor | None,
    divisor: float | Tensor | None,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """As `masked_scales`, without a wait for the device: the number of counted rows is a tensor on it."""
    rows = torch.full((), N, dtype=torch.int64, device=device) if mask is None else mask.sum()
    divide_by = rows if divisor is None else divisor
    scale = row_scales(
        operation, N, row_weight=row_weight, divisor=divide_by, dtype=dtype, device=device
    )
    return rows, _within(mask, scale)


def weighted_sum(losses: Tensor, row_scale: Tensor) -> Tensor:
    """Σ row_scale · losses, summed in float64, in the dtype of `losses`; 0 for no rows."""
    return (losses.double() * row_scale.double()).sum().to(losses.dtype)


def masked_scales(
    operation: str,
    N: int,
    *,
    mask: Tensor | None,
    row_weight: Tensor | None,
    divisor: float | Tensor | None,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[int, Tensor]:
    """How many of N rows count, and the factor of every row: 0 outside the mask, else row_weight / divisor."""
    rows = N if mask is None else int(mask.sum())
    if rows == 0:
        return 0, torch.zeros(N, dtype=dtype, device=device)
    divide_by = rows if divisor is None else divisor
    scale = row_scales(
        operation, N, row_weight=row_weight, divisor=divide_by, dtype=dtype, device=device
    )
    return rows, _within(mask, scale)


def _within(mask: Tensor | None, scale: Tensor) -> Tensor:
    """The factors [N], 0 outside the mask."""
    return scale if mask is None else scale.masked_fill(~mask, 0.0)


def scaled(
    gradient: Tensor | None,
    grad_output: Tensor,
    dtype: torch.dtype | None = None,
    *,
    impl: str = "torch",
) -> Tensor | None:
    """The gradient times the incoming scalar, which is not rounded to the gradient's dtype.

    A loss scaler's first factor, 65,536, is infinite in float16.

    Args:
        gradient: what forward left, or None.
        grad_output: the scalar.
        dtype: of the result; None for that of the gradient.
        impl: that of the loss.

    Returns:
        The product; the gradient itself where a CPU can see that nothing changes, and with impl "triton" where nothing needs it
        as it was: its memory then holds the product.
    """
    if gradient is None:
        return None
    dtype = gradient.dtype if dtype is None else dtype
    if not has_values(grad_output):
        return (gradient * grad_output.reshape(1)).to(dtype)
    if grad_output.device.type == "cpu":
        factor = grad_output.item()
        return (gradient if factor == 1 else gradient * factor).to(dtype)
    if impl == "triton" and dtype == gradient.dtype != torch.float64 and not _is_kept():
        from kdkernels.scaling_kernel import multiply_in_place

        return multiply_in_place(gradient, grad_output)
    # One element, not a scalar: the product is then taken in the wider dtype of the two, and rounded once.
    return torch.mul(gradient, grad_output.reshape(1), out=torch.empty_like(gradient, dtype=dtype))


def _is_kept() -> bool:
    """Whether a later backward pass may need what this one has saved (`retain_graph=True`)."""
    return bool(torch._C._autograd._get_current_graph_task_keep_graph())
