"""Checks on labels, top-k targets and options of the loss, shared by the operations over a vocabulary."""

import torch
from torch import Tensor

from kdkernels.checks import (
    KernelArgumentError,
    require_choice,
    require_floating,
    require_integer,
    require_number,
    require_shape,
)
from kdkernels.divergences import DIVERGENCES
from kdkernels.loss_options import LossOptions

TAILS = ("bucket", "renormalise", "drop")
UNDEFINED = {
    ("reverse_kl", "renormalise"): "is infinite: the renormalised teacher gives the rest no mass",
    ("reverse_kl", "drop"): "is least for a student that leaves the teacher's ids altogether",
    ("jsd", "drop"): "rewards a student for leaving the teacher's ids",
}


def check_loss_options(
    operation: str,
    *,
    alpha: float,
    temperature: float,
    tail: str,
    divergence: str,
    beta: float,
    log_partition: Tensor | None,
) -> LossOptions:
    """Check the options that say what the loss is.

    Raises:
        KernelArgumentError: an option is unknown or out of range, or the combination has no meaning.
    """
    require_number("alpha", alpha, operation=operation, low=0.0, high=1.0)
    require_number("temperature", temperature, operation=operation, low=0.0, strict=True)
    require_choice("tail", tail, TAILS, operation=operation)
    check_divergence(operation, divergence, beta)
    reason = UNDEFINED.get((divergence, tail))
    if reason:
        raise KernelArgumentError(
            f"{operation}: divergence={divergence!r} with tail={tail!r} {reason}; use tail='bucket'"
        )
    if temperature != 1 and tail != "renormalise" and log_partition is None:
        raise KernelArgumentError(
            f"{operation}: temperature={temperature!r} with tail={tail!r} needs log_partition, the teacher's "
            "log Σ p^(1/T) over its whole vocabulary; give it, or use tail='renormalise' or temperature=1"
        )
    return LossOptions(float(alpha), float(temperature), divergence, float(beta))


def check_divergence(operation: str, divergence: str, beta: float) -> None:
    """Refuse an unknown divergence, and a beta at which the generalised JSD vanishes."""
    require_choice("divergence", divergence, DIVERGENCES, operation=operation)
    if divergence == "jsd" and not 0 < beta < 1:
        raise KernelArgumentError(
            f"{operation}: beta must lie strictly between 0 and 1; got {beta!r}: "
            "for the one-sided limits ask for divergence='forward_kl' or 'reverse_kl'"
        )


def check_labels(operation: str, labels: Tensor, N: int) -> None:
    """Refuse labels of another shape or dtype."""
    require_shape("labels", labels, (N,), axes="[N]", operation=operation)
    require_integer("labels", labels, operation=operation)


def check_topk(
    operation: str,
    topk_ids: Tensor,
    topk_logprobs: Tensor,
    log_partition: Tensor | None,
    *,
    N: int,
) -> None:
    """Refuse top-k targets of another shape or dtype."""
    require_shape("topk_ids", topk_ids, (N, None), axes="[N, K]", operation=operation)
    require_integer("topk_ids", topk_ids, operation=operation)
    K = topk_ids.shape[1]
    require_shape("topk_logprobs", topk_logprobs, (N, K), axes="[N, K]", operation=operation)
    require_floating("topk_logprobs", topk_logprobs, operation=operation)
    if log_partition is not None:
        require_shape("log_partition", log_partition, (N,), axes="[N]", operation=operation)
        require_floating("log_partition", log_partition, operation=operation)


def check_row_weight(operation: str, row_weight: Tensor | None, N: int) -> None:
    """Refuse row weights of another shape or dtype."""
    if row_weight is not None:
        require_shape("row_weight", row_weight, (N,), axes="[N]", operation=operation)
        require_floating("row_weight", row_weight, operation=operation)


def require_labels_in_vocabulary(operation: str, labels: Tensor, V: int) -> None:
    """Refuse a label that is no column. Looks at the values: one wait for the device."""
    bad = (labels < 0) | (labels >= V)
    if labels.numel() and bool(bad.any()):
        row = int(bad.nonzero()[0, 0])
        raise KernelArgumentError(
            f"{operation}: labels must be ignore_index or a column from 0 to {V - 1}; "
            f"got {int(labels[row])} as counted row {row}"
        )


def require_ids_in_vocabulary(operation: str, topk_ids: Tensor, V: int) -> bool:
    """Refuse ids that are no column; returns whether any row has one twice. One wait for the device."""
    if topk_ids.numel() == 0:
        return False
    bad = (topk_ids < -1) | (topk_ids >= V)
    ordered = topk_ids.sort(dim=1).values
    twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    any_bad, any_twice = torch.stack([bad.any(), twice.any()]).tolist()
    if any_bad:
        row, position = bad.nonzero()[0].tolist()
        raise KernelArgumentError(
            f"{operation}: topk_ids must be -1 (unused) or a column from 0 to {V - 1}; "
            f"got {int(topk_ids[row, position])} in counted row {row}, place {position}"
        )
    return bool(any_twice)


def check_logits(operation: str, name: str, logits: Tensor) -> None:
    """Refuse logits that are no table of real numbers with at least one column."""
    require_shape(name, logits, (None, None), axes="[N, V]", operation=operation)
    require_floating(name, logits, operation=operation)
    if logits.shape[1] == 0:
        raise KernelArgumentError(
            f"{operation}: {name} must have at least one column; got {list(logits.shape)}"
        )


def check_mask(operation: str, mask: Tensor | None, N: int) -> None:
    """Refuse a row mask of another shape or dtype."""
    if mask is None:
        return
    require_shape("mask", mask, (N,), axes="[N]", operation=operation)
    if mask.dtype != torch.bool:
        raise KernelArgumentError(f"{operation}: mask must be of dtype bool; got {mask.dtype}")


def check_may_overwrite(operation: str, name: str, logits: Tensor) -> None:
    """Refuse to write the gradient over logits that are a leaf of the graph, or not in one piece."""
    if logits.is_leaf and logits.requires_grad:
        raise KernelArgumentError(
            f"{operation}: overwrite_logits=True would destroy {name}, a leaf that requires gradients; "
            "pass the output of a layer, or overwrite_logits=False"
        )
    if not logits.is_contiguous():
        raise KernelArgumentError(
            f"{operation}: overwrite_logits=True needs contiguous {name}; got strides {logits.stride()}"
        )
