"""Muon for matrices and AdamW for all else, as one optimiser that a Trainer can schedule, save and resume."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn


class MuonWithAdamW(torch.optim.Optimizer):
    """Matrices take steps of Muon (Jordan et al. 2024), all other parameters those of AdamW.

    Muon replaces a matrix's momentum U Σ Vᵀ by about U Vᵀ: a step is of one size in every direction, where AdamW's goes mostly along the few
    that gradients agree on. Steps are as long as AdamW's on the average (0.2 √max(n, m), Liu et al. 2025), so that
    both share a learning rate.

    Args:
        matrices: [n, m] each, such as the weights of an encoder's layers; embeddings are better off with AdamW.
        others: all else that is trained.
        lr: of both.
        weight_decay: of both.
        betas: of AdamW.
        eps: of AdamW.

    Example:
        >>> layer = nn.Linear(4, 3)
        >>> optimizer = MuonWithAdamW([layer.weight], [layer.bias], lr=1e-3)
        >>> layer(torch.ones(2, 4)).sum().backward()
        >>> optimizer.step()
        >>> [group["lr"] for group in optimizer.param_groups]
        [0.001, 0.001]
    """

    def __init__(
        self,
        matrices: Sequence[nn.Parameter],
        others: Sequence[nn.Parameter],
        *,
        lr: float,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        self._parts: list[torch.optim.Optimizer] = []
        if matrices:
            self._parts.append(torch.optim.Muon(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"))  # fmt: skip
        if others:
            self._parts.append(torch.optim.AdamW(others, lr=lr, weight_decay=weight_decay, betas=betas, eps=eps))  # fmt: skip
        super().__init__([group for part in self._parts for group in part.param_groups], {})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of both."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self._parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The states of both, in order."""
        return {"parts": [part.state_dict() for part in self._parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        for part, state in zip(self._parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        # They have new groups now, which a schedule must reach.
        self.param_groups = [group for part in self._parts for group in part.param_groups]
