"""`linear_cross_entropy`: the engine of `linear_distil_loss` without a teacher."""

from typing import NamedTuple

from torch import Tensor

from kdkernels.linear_distil_loss.api import check_operands, run
from kdkernels.linear_distil_loss.rows import Rows, weight_of_rows
from kdkernels.loss_options import LossOptions


class CrossEntropy(NamedTuple):
    """A cross-entropy."""

    loss: Tensor
    """A scalar to differentiate."""
    rows: int | Tensor
    """How many rows counted; a tensor on the device with `check=False` and inside a compiled graph."""
    impl: str
    """The implementation that ran."""


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    *,
    row_weight: Tensor | None = None,
    ignore_index: int = -100,
    divisor: float | Tensor | None = None,
    chunk_bytes: int | None = None,
    impl: str = "auto",
    check: bool = True,
) -> CrossEntropy:
    """Cross-entropy from hidden states, in one pass over the vocabulary.

    loss = Σ -log softmax(hidden weightᵀ + bias)[label] / rows, over the counted rows: the hard part of
    `linear_distil_loss`, whose rows, weights, divisor, precision, memory and implementations it has. The logits are made a
    chunk of rows at a time and become their own gradient in place, as in Liger Kernel (Hsu et al. 2024); Wijmans et al.
    2025 ("Cut Your Losses in Large-Vocabulary Language Models") make none at all, for a fourth product.

    Args:
        hidden: [N, H] hidden states; select the masked rows before the call, it is cheaper.
        weight: [V, H] of the output projection.
        bias: [V] or None.
        labels: [N] columns, or `ignore_index`.
        row_weight: [N] factor of each row; it does not enter the number of rows.
        ignore_index: the label of rows that do not count.
        divisor: divides the sum in place of the number of counted rows.
        chunk_bytes: size of the logits buffer; None for 256 MiB on a CPU (more in bfloat16, where the buffer takes no
            more than the float32 sums of several chunks would), and on a GPU a sixteenth of its memory, at most 4 GiB.
        impl: "reference", "torch", "triton", or "auto" as in `linear_distil_loss`.
        check: whether to look at labels and to take counted rows out, which waits for the device; with False, as in
            `linear_distil_loss`.

    Returns:
        CrossEntropy: the scalar to differentiate, the counted rows, the implementation.

    Raises:
        KernelArgumentError: an argument has the wrong shape, dtype, device or range.

    Example:
        >>> import torch, kdkernels
        >>> hidden, weight = torch.zeros(3, 8), torch.randn(20, 8)
        >>> result = kdkernels.linear_cross_entropy(hidden, weight, None, torch.tensor([1, 7, -100]))
        >>> round(float(result.loss), 4), result.rows     # log 20
        (2.9957, 2)
    """
    operation = "linear_cross_entropy"
    check_operands(operation, hidden, weight, bias, labels, row_weight)
    result = run(
        operation,
        Rows(hidden, labels, weight_of_rows(row_weight, labels)),
        weight,
        bias,
        options=LossOptions(alpha=0.0),
        tail="bucket",
        ignore_index=ignore_index,
        divisor=divisor,
        chunk_bytes=chunk_bytes,
        impl=impl,
        check=check,
    )
    return CrossEntropy(result.loss, result.rows, result.impl)
