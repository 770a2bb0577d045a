"""The teacher's distribution of each row over classes: its top-k, and the rest of the vocabulary.

All divergences of the top-k operations are taken between class distributions: class k is the k-th distinct id of
the row, and one more class holds every other column. What the three tails mean is settled here, in the targets
alone; the row losses know classes only.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

# Tail mass that float32 cannot tell from zero: reverse KL would be infinite for it.
LOG_TAIL_FLOOR = -24 * math.log(2)

# Pairs of places of a list that are compared at once, to add up what stands twice.
COMPARED_AT_ONCE = 2**24


class Targets(NamedTuple):
    """Class distributions of N rows. Ids of a row are distinct; -1 fills the unused places."""

    ids: Tensor  # [N, K] int64
    log_mass: Tensor  # [N, K] log t of each id, -inf in unused places
    log_rest: Tensor  # [N] log t of all other columns, -inf where there is none


def prepare_targets(
    topk_ids: Tensor,
    topk_logprobs: Tensor,
    *,
    temperature: float,
    tail: str,
    divergence: str,
    log_partition: Tensor | None,
    dtype: torch.dtype,
    duplicates: bool,
    columns: int,
) -> Targets:
    """Bring recorded log-probabilities to the temperature, sum duplicates, settle the tail.

    The arithmetic is in float64, on [N, K] only: 1 - Σp is then taken without cancellation, as
    -expm1(log p_max) minus the other probabilities.

    Args:
        topk_ids: [N, K] columns of the vocabulary, -1 in unused places.
        topk_logprobs: [N, K] natural log-probabilities at temperature 1.
        temperature: T; log p_T = log p / T - log_partition.
        tail: "bucket", "renormalise" or "drop".
        divergence: "reverse_kl" holds the rest at 2^-24 or above, so that it stays finite.
        log_partition: [N] log Σ_v p_v^(1/T) over the whole vocabulary; None counts as 0.
        dtype: of the result.
        duplicates: whether an id may occur twice in a row.
        columns: V; a row that lists all of them has no rest, whatever its probabilities sum to.

    Returns:
        Targets; a row without ids has all its mass in the rest, and so scores 0 by every divergence.
    """
    ids = topk_ids.to(torch.int64)
    has_ids = (ids >= 0).any(dim=1)
    log_mass = topk_logprobs.detach().to(torch.float64) / temperature
    log_mass = log_mass.masked_fill(ids < 0, -math.inf)
    if duplicates:
        ids, log_mass = sum_duplicates(ids, log_mass)
    if tail == "renormalise":
        log_mass = log_mass - finite_or_zero(log_mass.logsumexp(dim=1, keepdim=True))
    elif log_partition is not None:
        log_mass = log_mass - log_partition.detach().to(torch.float64).unsqueeze(1)
        # The partition of nothing, which a row without ids may bring, is no number to subtract.
        log_mass = log_mass.masked_fill(ids < 0, -math.inf)
    log_rest = log_of_missing_mass(log_mass)
    if tail != "bucket":
        log_rest = torch.full_like(log_rest, -math.inf)
    if divergence == "reverse_kl":
        log_rest = log_rest.clamp(min=LOG_TAIL_FLOOR)
    log_rest = log_rest.masked_fill((ids >= 0).sum(dim=1) == columns, -math.inf)
    log_rest = log_rest.masked_fill(~has_ids, 0.0)
    return Targets(ids, log_mass.to(dtype), log_rest.to(dtype))


def sum_duplicates(ids: Tensor, log_mass: Tensor) -> tuple[Tensor, Tensor]:
    """Give each id of a row one place that holds the sum of its probabilities; vacated places become -1."""
    pairs = ids.shape[1] ** 2
    if len(ids) > 1 and ids.numel() and len(ids) * pairs > COMPARED_AT_ONCE:
        rows = max(1, COMPARED_AT_ONCE // pairs)
        parts = list(map(sum_duplicates, ids.split(rows), log_mass.split(rows)))
        return torch.cat([part for part, _ in parts]), torch.cat([part for _, part in parts])
    same = (ids.unsqueeze(2) == ids.unsqueeze(1)) & (ids >= 0).unsqueeze(1)
    is_first = ~same.tril(diagonal=-1).any(dim=2)
    summed = log_mass.unsqueeze(1).masked_fill(~same, -math.inf).logsumexp(dim=2)
    return ids.masked_fill(~is_first, -1), summed.masked_fill(~is_first, -math.inf)


def log_of_missing_mass(log_mass: Tensor) -> Tensor:
    """log(1 - Σ exp(log_mass)) over the last dimension, -inf where the sum reaches 1. [..., K] -> [...]"""
    if log_mass.shape[-1] == 0:
        return torch.zeros_like(log_mass.sum(dim=-1))
    largest, position = log_mass.max(dim=-1, keepdim=True)
    others = log_mass.scatter(-1, position, -math.inf).exp().sum(dim=-1)
    return (-torch.expm1(largest.squeeze(-1)) - others).clamp(min=0.0).log()


def finite_or_zero(log_total: Tensor) -> Tensor:
    """A log-sum to subtract: 0 in place of the -inf of an empty row."""
    return log_total.masked_fill(log_total == -math.inf, 0.0)
