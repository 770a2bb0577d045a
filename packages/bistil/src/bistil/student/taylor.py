"""Importance by the first term of a Taylor series: how much the loss would change if a unit's gate went from 1 to 0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from bistil.encoders.capture import encoder_of
from bistil.student.gates import UnitKind, gated
from bistil.student.outputs import Batch, Loss, Outputs


def taylor_importance(
    model: Any,
    batches: Sequence[Batch],
    shapes: Mapping[UnitKind, tuple[int, ...]],
    *,
    outputs: Outputs,
    loss: Loss | None,
    seed: int,
) -> dict[UnitKind, Tensor]:
    """The first term of the Taylor series that does not vanish, of each unit's removal.

    With a loss of a task it is the first-order one, E |∂L/∂g| over rows at the gate g = 1, which for a unit's activations a is
    |Σ a · ∂L/∂a| (Molchanov et al. 2019; for heads Michel, Levy and Neubig 2019).

    The distance of the model's outputs f from what they are, E ‖f(g) - f(1)‖², is least at g = 1: there its first-order term is
    0 for every unit, and the next is ‖∂f/∂g‖². It is the mean of (∂⟨v, f⟩/∂g)² over random signs v, for E v vᵀ = I, and so a
    matter of first derivatives alone (the pruning by Fisher information of Theis et al. 2018, for a Gaussian answer). It is given as
    a share of E ‖f‖².

    Args:
        model: in evaluation mode, its weights without gradients.
        batches: of rows.
        shapes: of the units by kind.
        outputs: f, of which the model's own values are the target.
        loss: of a task, in their place; a mean over rows.
        seed: of the signs.

    Returns:
        The importance of each unit by kind, in float64 in main memory.
    """
    random = torch.Generator().manual_seed(seed)
    sums = {kind: torch.zeros(shape, dtype=torch.float64) for kind, shape in shapes.items()}
    whole, dtype = 0.0, encoder_of(model).dtype
    for batch in batches:
        rows = len(batch["input_ids"])
        gates = {
            kind: torch.ones(
                rows,
                *shape,
                dtype=dtype,
                device=batch["input_ids"].device,
                requires_grad=True,
            )
            for kind, shape in shapes.items()
        }
        with gated(model, gates):
            if loss is None:
                values = outputs(model, batch)
                signs = torch.randint(2, values.shape, generator=random).to(values) * 2 - 1
                objective = (values * signs).sum()
                whole += float(values.detach().double().square().sum())
            else:
                objective = loss(model, batch) * rows
                whole += rows
        slopes = torch.autograd.grad(objective, list(gates.values()))
        for kind, slope in zip(gates, slopes, strict=True):
            size = slope.double().square() if loss is None else slope.double().abs()
            sums[kind] += size.sum(0).cpu()
    return {kind: total / whole for kind, total in sums.items()}
