"""Importance by variational information bottlenecks: noise on every unit, as much as the model's outputs bear."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from typing import Any

import torch
from torch import Tensor

from bistil.student.gates import UnitKind, gated
from bistil.student.outputs import Batch, Loss, Outputs
from teacherzoo.progress import ProgressCallback

_RATE = 0.1  # of Adam at the start, for means and logarithms of deviations; it falls to 0
_PRESSURE_RATE = 0.1  # of the logarithm of what a kind's nats cost
_FIRST_PRESSURE, _FIRST_DEVIATION = 0.1, 0.1


def bottleneck_importance(
    model: Any,
    batches: Sequence[Batch],
    shapes: Mapping[UnitKind, tuple[int, ...]],
    *,
    outputs: Outputs,
    loss: Loss | None,
    keep: Mapping[UnitKind, float],
    steps: int,
    seed: int,
    watch: ProgressCallback,
) -> dict[UnitKind, Tensor]:
    """How many nats each unit must let through, ½ log(1 + μ²/σ²).

    Every unit is multiplied by a gate z = μ + σ ε, ε ~ N(0, 1), drawn for each row, and the gates alone are trained, by Adam, on
    L = error + Σ β · mean over the units of a kind of ½ log(1 + μ²/σ²), the divergence of a gate from a prior without information
    (Dai, Zhu, Guo and Wipf 2018; masks on hidden channels, heads, feed-forward units and layers, trained without the weights: VTrans,
    Dutta et al. 2024). The error is that of a task's loss, or E ‖f(z) - f‖² / E ‖f‖² of the model's outputs. β, one of each kind, is
    raised by its logarithm while a kind passes more than its share `keep` of what it could, Σ μ²/(μ² + σ²), and lowered while it
    passes less.

    Args:
        model: in evaluation mode, its weights without gradients.
        batches: of rows, taken in turn.
        shapes: of the units by kind.
        outputs: f, of which the model's own values without gates are the target.
        loss: of a task, in their place.
        keep: the share of units of each kind that a narrower student would have.
        steps: of training.
        seed: of the noise.
        watch: told (done, total, what).

    Returns:
        The importance of each unit by kind, in float64 in main memory.
    """
    random = torch.Generator().manual_seed(seed)
    device = batches[0]["input_ids"].device
    gates = {kind: _Gates(shape, keep[kind], device) for kind, shape in shapes.items()}
    parameters = [tensor for gate in gates.values() for tensor in (gate.mean, gate.log_deviation)]
    adam = torch.optim.Adam(parameters, lr=_RATE)
    falling = torch.optim.lr_scheduler.LinearLR(adam, 1.0, 0.0, total_iters=steps)
    with torch.no_grad():
        targets = [] if loss is not None else [outputs(model, batch) for batch in batches]
    for done, number in enumerate(islice(cycle(range(len(batches))), steps)):
        batch = batches[number]
        drawn = {kind: gate.draw(len(batch["input_ids"]), random) for kind, gate in gates.items()}
        with gated(model, drawn):
            if loss is None:
                error = (outputs(model, batch) - targets[number]).square().sum()
                error = error / targets[number].square().sum()
            else:
                error = loss(model, batch)
        adam.zero_grad()
        penalty = torch.stack([gate.pressure * gate.nats().mean() for gate in gates.values()])
        (error + penalty.sum()).backward()
        adam.step()
        falling.step()
        for gate in gates.values():
            gate.adjust(min(1.0, 2 * (done + 1) / steps))
        watch(done + 1, steps, "training information-bottleneck masks")
    return {kind: gate.nats().detach().double().cpu() for kind, gate in gates.items()}


class _Gates:
    """Gates of one kind of unit.

    Attributes:
        mean: μ.
        log_deviation: log σ.
        pressure: β.
    """

    def __init__(self, shape: tuple[int, ...], keep: float, device: torch.device) -> None:
        self.mean = torch.ones(shape, device=device, requires_grad=True)
        self.log_deviation = torch.full(shape, math.log(_FIRST_DEVIATION), device=device, requires_grad=True)  # fmt: skip
        self.pressure, self._keep = _FIRST_PRESSURE, keep

    def draw(self, rows: int, random: torch.Generator) -> Tensor:
        """Z [rows, …]."""
        noise = torch.randn((rows, *self.mean.shape), generator=random).to(self.mean)
        return self.mean + self.log_deviation.exp() * noise

    def nats(self) -> Tensor:
        """½ log(1 + μ²/σ²)."""
        return bottleneck_divergence(self.mean, self.log_deviation)

    def adjust(self, progress: float) -> None:
        """Move β towards where the share that passes is the one that is kept, which is come down to over the first half."""
        passes = 1 - float((-2 * self.nats().detach()).exp().mean())  # μ²/(μ² + σ²)
        aim = 1 - progress * (1 - self._keep)
        self.pressure *= math.exp(_PRESSURE_RATE * (passes - aim))


def bottleneck_divergence(mean: Tensor, log_deviation: Tensor) -> Tensor:
    """½ log(1 + μ²/σ²) of gates N(μ, σ²), the least divergence from a prior N(0, s²) over all s.

    KL(N(μ, σ²) ‖ N(0, s²)) = log(s/σ) + (σ² + μ²)/(2 s²) - ½ is least at s² = σ² + μ² (Dai et al. 2018, equation 8).

    Args:
        mean: μ, of any shape.
        log_deviation: log σ, of the same.
    """
    return 0.5 * (mean.square() * (-2 * log_deviation).exp()).log1p()
