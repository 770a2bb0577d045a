"""Importance by reconstruction: how much of what all units say the others, by a linear map, do not."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from bistil.encoders.capture import capture_activations, encoder_of, family_of, layers_of
from bistil.encoders.widths import paths_of_layers
from bistil.student.gates import UnitKind
from bistil.student.outputs import Batch
from bistil.student.units import Moments, pivot_variances


def reconstruction_importance(
    model: Any, batches: Sequence[Batch], shapes: Mapping[UnitKind, tuple[int, ...]]
) -> dict[UnitKind, Tensor]:
    """The variance that a unit tells when its turn comes: first the one that tells most, then the one that tells most of what is left.

    Hidden channels tell the states, of which each counts the same. Feed-forward units and heads tell what all of their layer add
    to the state, and a layer that of its output which no linear map of its input gives; these as shares of the variance of the
    layer's output. The hidden channels and feed-forward units that rank first are those that `bistil.student.narrow` chooses.

    Args:
        model: in evaluation mode.
        batches: of rows.
        shapes: of the units by kind.

    Returns:
        The importance of each unit by kind, in float64 in main memory.
    """
    sums = _Sums(model, batches, shapes)
    width = encoder_of(model).config.hidden_size
    totals = [pair.covariance[width:, width:].trace().clamp(min=1e-30) for pair in sums.passages]
    scores: dict[UnitKind, Tensor] = {}
    if "layers" in shapes:
        scores["layers"] = torch.stack([_untold(pair.covariance, width) for pair in sums.passages])
    measures: dict[UnitKind, Callable[..., Tensor]] = {"heads": _head_variances, "feed_forward": _unit_variances}  # fmt: skip
    for kind, variances in measures.items():
        if kind in shapes:
            linear = [model.get_submodule(path) for path in sums.inputs[kind]]
            scores[kind] = torch.stack([
                variances(moments.covariance, module.weight.detach().double().cpu(), shapes[kind][1]) / total
                for moments, module, total in zip(sums.inputs[kind].values(), linear, totals, strict=True)
            ])  # fmt: skip
    if "hidden" in shapes:
        first = sums.passages[0].covariance[:width, :width]
        covariances = [first, *(pair.covariance[width:, width:] for pair in sums.passages)]
        shares = [covariance / covariance.trace().clamp(min=1e-30) for covariance in covariances]
        scores["hidden"] = pivot_variances(torch.stack(shares).mean(0))
    return scores


class _Sums:
    """Moments over the real tokens of batches.

    Attributes:
        passages: of each layer, its input and output together [2H].
        inputs: of the maps behind heads and feed-forward units, by kind and path.
    """

    def __init__(
        self, model: Any, batches: Sequence[Batch], shapes: Mapping[UnitKind, tuple[int, ...]]
    ) -> None:
        family, width = family_of(model), encoder_of(model).config.hidden_size
        self.passages = [Moments(2 * width) for _ in layers_of(model)]
        self.inputs: dict[UnitKind, dict[str, Moments]] = {}
        self._real = torch.empty(0)
        places: dict[UnitKind, str] = {"heads": family.output, "feed_forward": family.down}
        with ExitStack() as stack, torch.no_grad():
            for kind, place in places.items():
                for path in paths_of_layers(model) if kind in shapes else ():
                    linear = model.get_submodule(f"{path}.{place}")
                    moments = Moments(linear.in_features)
                    self.inputs.setdefault(kind, {})[f"{path}.{place}"] = moments
                    add = functools.partial(self._add, moments)
                    stack.callback(linear.register_forward_pre_hook(add).remove)
            for batch in batches:
                self._real = batch["attention_mask"].bool()
                with capture_activations(model) as activations:
                    encoder_of(model)(**batch)
                states = [activations.hidden[number][self._real] for number in range(len(self.passages) + 1)]  # fmt: skip
                for moments, before, after in zip(self.passages, states, states[1:], strict=False):
                    moments.add(torch.cat([before, after], -1))

    def _add(self, moments: Moments, _module: nn.Module, inputs: tuple[Any, ...]) -> None:
        moments.add(inputs[0][self._real])


def _untold(covariance: Tensor, width: int) -> Tensor:
    """Share of the variance of the last units that no linear map of the first `width` gives."""
    first, mixed = covariance[:width, :width].clone(), covariance[:width, width:]
    first.diagonal().add_(1e-9 * float(first.diagonal().mean()) + 1e-30)
    total = covariance[width:, width:].trace().clamp(min=1e-30)
    return 1 - (mixed * torch.linalg.solve(first, mixed)).sum() / total


def _unit_variances(covariance: Tensor, weight: Tensor, _count: int) -> Tensor:
    """Per feed-forward unit, [I], see `pivot_variances`; each weighs as much as the column that it is multiplied by."""
    loudness = weight.norm(dim=0)
    return pivot_variances(covariance * loudness * loudness[:, None])


def _head_variances(covariance: Tensor, weight: Tensor, count: int) -> Tensor:
    """Per head, [A], the same of blocks of units: what is left of the variance of all that it adds to the state."""
    left, variances = covariance.clone(), weight.new_zeros(count)
    blocks = torch.arange(len(covariance)).chunk(count)
    writes = weight.T @ weight
    little = 1e-9 * float(covariance.diagonal().mean()) + 1e-30
    waiting = set(range(count))
    while waiting:
        adds = {head: float((left[blocks[head]][:, blocks[head]] * writes[blocks[head]][:, blocks[head]]).sum()) for head in waiting}  # fmt: skip
        head = max(sorted(adds), key=adds.__getitem__)
        variances[head] = adds[head]
        waiting.remove(head)
        block = left[blocks[head]]
        among = block[:, blocks[head]] + little * torch.eye(len(blocks[head]), dtype=left.dtype)
        left = left - block.T @ torch.linalg.solve(among, block)
    return variances
