"""Means of figures that a training logs, summed where they are computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class RunningMeans:
    """Weighted means since they were last taken; sums stay on the device, so that no step waits for its figures.

    Args:
        names: of all figures, the same on every process: one may have had no batch of some language.
        device: where they are computed.
        dtype: of the sums.
    """

    def __init__(
        self, names: Sequence[str], device: torch.device, dtype: torch.dtype = torch.float64
    ) -> None:
        self._rows = {name: row for row, name in enumerate(names)}
        self._sums = torch.zeros(len(names), 2, device=device, dtype=dtype)

    def add(self, name: str, total: Tensor, count: Tensor | float = 1) -> None:
        """Add a sum over `count` things, both [] or numbers."""
        row = self._sums[self._rows[name]]
        row[0] += total
        row[1] += count

    def take(self, accelerator: Any) -> dict[str, float]:
        """Total by count over all processes, of the figures that were added; then all begin anew."""
        sums = accelerator.reduce(self._sums.clone(), reduction="sum").tolist()
        self._sums.zero_()
        return {
            name: total / count
            for name, (total, count) in zip(self._rows, sums, strict=True)
            if count
        }
