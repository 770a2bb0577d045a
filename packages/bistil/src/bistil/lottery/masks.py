"""Freezing single entries of tensors so that no optimizer moves them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bistil.errors import SparseError
from bistil.lottery.select import Selection


class Masks:
    """Lets only chosen entries of some parameters train; the others stay bit-equal to what they are now.

    The gradient of a frozen entry is set to zero by a hook of the parameter, before gradients are added up, clipped,
    reduced over processes or cut into ZeRO's partitions; an optimizer that starts with no momentum then adds exactly 0.
    Weight decay is not a gradient: `decayed` says which names an optimizer may decay (none of these), and
    `decay_with` gives the chosen entries the decay that AdamW would, entry by entry. A tensor without a chosen entry
    needs no gradient at all.

    Args:
        parameters: name to parameter, the names of the selection; they hold the start values.
        selection: what may move.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], selection: Selection) -> None:
        self._parameters = dict(parameters)
        self._start = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        self._frozen: dict[str, Tensor] = {}
        self._hooks: list[Any] = []
        for name in selection.coded:
            places = torch.from_numpy(selection.places(name))
            parameter = self._parameters[name]
            if not len(places):
                parameter.requires_grad_(False)
                continue
            frozen = torch.ones(parameter.numel(), dtype=torch.bool)
            frozen[places] = False
            self._frozen[name] = frozen.view(parameter.shape).to(parameter.device)
            self._hooks.append(parameter.register_hook(self._masking(name)))

    def _masking(self, name: str) -> Callable[[Tensor], Tensor]:
        def hook(gradient: Tensor) -> Tensor:
            frozen = self._frozen[name] = self._frozen[name].to(gradient.device)
            return gradient.masked_fill(frozen, 0)

        return hook

    def decayed(self, names: list[str], model: nn.Module) -> list[str]:
        """Those of an optimizer's names whose tensors have no frozen entry."""
        partly = {id(self._parameters[name]) for name in self._frozen}
        named = dict(model.named_parameters(remove_duplicate=False))
        return [name for name in names if id(named[name]) not in partly]

    def decay_with(self, optimizer: torch.optim.Optimizer, names: list[str], model: nn.Module, rate: float) -> None:  # fmt: skip
        """Before each step of `optimizer`, shrink the chosen entries of `names` by learning rate times `rate`, as AdamW does."""
        named = dict(model.named_parameters(remove_duplicate=False))
        wanted = {id(named[name]) for name in names}
        partly = [
            (self._parameters[name], name)
            for name in self._frozen
            if id(self._parameters[name]) in wanted
        ]

        @torch.no_grad()
        def shrink(stepping: torch.optim.Optimizer, _args: Any, _options: Any) -> None:
            factor = 1 - stepping.param_groups[0]["lr"] * rate
            for parameter, name in partly:
                frozen = self._frozen[name].to(parameter.device)
                parameter.copy_(torch.where(frozen, parameter, parameter * factor))

        optimizer.register_step_pre_hook(shrink)

    def check(self) -> None:
        """Make sure that every frozen entry has the bits it had at the start.

        Raises:
            SparseError: naming the tensor and how many entries moved.
        """
        for name, start in self._start.items():
            now = self._parameters[name].detach()
            moved = _bits(now) != _bits(start.to(now.device))
            if name in self._frozen:
                moved &= self._frozen[name].to(now.device)
            if count := int(moved.sum()):
                raise SparseError(
                    f"{count} frozen entries of {name!r} moved in training; train with an AdamW optimizer that starts anew "
                    "and leave weight decay to it."
                )

    def remove(self) -> None:
        """Let everything train again."""
        for hook in self._hooks:
            hook.remove()
        for parameter in self._parameters.values():
            parameter.requires_grad_(True)


def penalise_distance(
    parameters: Mapping[str, nn.Parameter], start: Mapping[str, Tensor], weight: float
) -> list[Any]:
    """The L1 term of LT-SFT, λ/N · Σ|θ - θ₀|, by its gradient: once per backward pass.

    Args:
        parameters: that move; N is the number of all their entries.
        start: θ₀, under the same names.
        weight: λ, divided by the number of backward passes of a step.

    Returns:
        The hooks; `remove()` each to end it. Add them before `Masks`, which then masks this gradient, too.
    """
    strength = weight / sum(parameter.numel() for parameter in parameters.values())

    def pulling(parameter: nn.Parameter, origin: Tensor) -> Callable[[Tensor], Tensor]:
        start_there = [origin]  # where the parameter is, once it has been moved

        def hook(gradient: Tensor) -> Tensor:
            start_there[0] = start_there[0].to(parameter.device)
            return gradient + strength * (parameter.detach() - start_there[0]).sign()

        return hook

    return [
        parameter.register_hook(pulling(parameter, start[name]))
        for name, parameter in parameters.items()
        if parameter.requires_grad
    ]


def _bits(tensor: Tensor) -> Tensor:
    width = {2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    return tensor.contiguous().view(width)
