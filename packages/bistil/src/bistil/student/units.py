"""Which of a model's units a narrower one keeps: those from which the others are best reconstructed by linear maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


class Moments:
    """Mean and second moment of rows, added up in float64 in main memory as they come, wherever they are.

    Args:
        width: of a row.
    """

    def __init__(self, width: int) -> None:
        self._rows = 0
        self._sum = torch.zeros(width, dtype=torch.float64)
        self._products = torch.zeros(width, width, dtype=torch.float64)

    def add(self, rows: Tensor) -> None:
        """Rows [..., width]."""
        flat = rows.detach().double().flatten(0, -2)
        self._rows += len(flat)
        self._sum += flat.sum(0).cpu()
        self._products += (flat.T @ flat).cpu()

    @property
    def mean(self) -> Tensor:
        """[width]."""
        return self._sum / max(1, self._rows)

    @property
    def second(self) -> Tensor:
        """[width, width], the mean of x xᵀ."""
        return self._products / max(1, self._rows)

    @property
    def covariance(self) -> Tensor:
        """[width, width]."""
        return self.second - self.mean[:, None] * self.mean


@dataclass(frozen=True)
class Kept:
    """Units that are kept.

    Attributes:
        numbers: ascending.
        explained: share of all units' variance that a linear function of the kept ones gives.
    """

    numbers: tuple[int, ...]
    explained: float


def pivoted_cholesky_selection(covariance: Tensor, count: int) -> Kept:
    """Units chosen one by one, each the one that has most variance left that those before it do not explain.

    Where nothing is left to explain, the first of the others follow.

    Args:
        covariance: [D, D].
        count: how many to keep.

    Returns:
        Their numbers, ascending, and the share 1 - Σ d / Σ diag C.

    Example:
        >>> pivoted_cholesky_selection(torch.tensor([[4.0, 4.0, 0.0], [4.0, 4.0, 0.0], [0.0, 0.0, 1.0]]), 2)
        Kept(numbers=(0, 2), explained=1.0)
    """
    order, _, left = _pivots(covariance, count)
    total = float(covariance.diagonal().sum())
    return Kept(tuple(sorted(order)), 1 - float(left.sum()) / total if total else 1.0)


def pivot_variances(covariance: Tensor) -> Tensor:
    """[D] the variance that each unit had left when its turn came in `pivoted_cholesky_selection`: the k largest are its first k.

    Args:
        covariance: [D, D].
    """
    order, variances, _ = _pivots(covariance, len(covariance))
    by_unit = torch.zeros_like(variances)
    by_unit[torch.tensor(order)] = variances
    return by_unit


def _pivots(covariance: Tensor, count: int) -> tuple[list[int], Tensor, Tensor]:
    """The first pivots, the variance left of each when its turn came, [count], and of all behind them, [D].

    A Cholesky decomposition with diagonal pivots, stopped early (Higham 1990; Harbrecht, Peters and Schneider 2012): column j
    of the factor is (C[:, p] - L Lᵀ[:, p]) / √d[p] for the pivot p = argmax d, and d -= L[:, j]².
    """
    left = covariance.diagonal().clone()
    floor = float(left.max()) * 1e-12
    available = torch.ones_like(left, dtype=torch.bool)
    factor = covariance.new_zeros(len(left), count)
    order, variances = [], covariance.new_zeros(count)
    for step in range(count):
        pivot = int(left.masked_fill(~available, -1).argmax())
        available[pivot] = False
        order.append(pivot)
        if left[pivot] <= floor:
            continue
        variances[step] = left[pivot]
        column = covariance[:, pivot] - factor[:, :step] @ factor[pivot, :step]
        factor[:, step] = column / left[pivot].sqrt()
        left = (left - factor[:, step].square()).clamp(min=0)
    return order, variances, left


def explained_share(covariance: Tensor, units: Sequence[int]) -> float:
    """Share of all units' variance that a linear function of these gives, 1 - tr(C - C[:, K] C[K, K]⁻¹ C[K, :]) / tr C.

    Args:
        covariance: [D, D].
        units: K.
    """
    total = float(covariance.diagonal().sum())
    chosen = torch.tensor(list(units))
    among = covariance[chosen][:, chosen]
    among.diagonal().add_(1e-9 * float(among.diagonal().mean()) + 1e-30)
    given = torch.linalg.solve(among, covariance[chosen])
    return float((covariance[chosen] * given).sum()) / total if total else 1.0


def largest(scores: Tensor, count: int) -> tuple[int, ...]:
    """The numbers of the largest entries of [D], ascending; of equal ones the first.

    Args:
        scores: [D].
        count: how many.
    """
    return tuple(sorted(scores.argsort(descending=True, stable=True)[:count].tolist()))


def least_squares_reconstruction(
    kept: tuple[int, ...], moments: Moments, *, constant: bool
) -> tuple[Tensor, Tensor]:
    """R [k, D] and c [D] with x ≈ x[kept] R + c, by least squares; the kept units themselves are reconstructed exactly.

    R = C[kept, kept]⁻¹ C[kept, :] and c = E x - E x[kept] R, with C the covariance; without a constant C is E x xᵀ.

    Args:
        kept: numbers of the units that are there.
        moments: of all of them.
        constant: whether there is a c; else it is 0.

    Returns:
        R and c in float64.
    """
    second = moments.covariance if constant else moments.second
    units = torch.tensor(kept)
    others = torch.ones(len(second), dtype=torch.bool)
    others[units] = False
    among = second[units][:, units]
    # Units that never vary among the kept would leave the equations without a solution.
    among.diagonal().add_(1e-6 * float(among.diagonal().mean()) + 1e-30)
    linear = second.new_zeros(len(kept), len(second))
    linear[torch.arange(len(kept)), units] = 1
    linear[:, others] = torch.linalg.solve(among, second[units][:, others])
    if not constant:
        return linear, second.new_zeros(len(second))
    return linear, moments.mean - moments.mean[units] @ linear
