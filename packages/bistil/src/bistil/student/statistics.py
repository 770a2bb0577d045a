"""Activation statistics: what the linear maps and norms of a model read and give on text, summed up."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bistil.encoders.capture import encoder_of, family_of
from bistil.encoders.widths import paths_of_layers
from bistil.student.units import Moments


class ActivationStatistics:
    """Sums over forward passes of a model, by the name of a module.

    Args:
        model: in evaluation mode.
        units: hidden units that will be kept; None where all are, and then only feed-forward layers are looked at.
        blocks: token ids [B, S] without padding, that it is run on.
        inner: whether feed-forward units will be left out.
        heads: whether attention heads will be.

    Attributes:
        inputs: of linear maps.
        heads: per attention head: outputs of the maps to queries and keys, inputs of the map behind all heads.
        norms: what the norms do.
    """

    def __init__(
        self,
        model: Any,
        units: Sequence[int] | None,
        blocks: Iterable[Tensor],
        *,
        inner: bool,
        heads: bool,
    ) -> None:
        self.inputs: dict[str, Moments] = {}
        self.heads: dict[str, list[Moments]] = {}
        self.norms: dict[str, NormFit] = {}
        with ExitStack() as stack, torch.no_grad():

            def keep(name: str, add: Callable[[Any, Any], None]) -> None:
                module = model.get_submodule(name)
                hook = module.register_forward_hook(
                    lambda _module, inputs, output: add(inputs[0], output)
                )
                stack.callback(hook.remove)

            for name in self._readers(model, units, inner=inner, heads=heads):
                self.inputs[name] = Moments(model.get_submodule(name).in_features)
                keep(name, functools.partial(_add_inputs, self.inputs[name]))
            if units is not None:
                self._keep_heads(model, keep)
                self._keep_norms(model, units, keep)
            for block in blocks:
                model(input_ids=block.to(model.device))

    def _readers(
        self, model: Any, units: Sequence[int] | None, *, inner: bool, heads: bool
    ) -> Iterator[str]:
        family = family_of(model)
        for path in paths_of_layers(model):
            if inner:
                yield f"{path}.{family.down}"
            if heads:
                yield f"{path}.{family.output}"
            if units is not None:
                yield from (f"{path}.{family.query}", f"{path}.{family.up[0]}")
        if units is not None:
            yield from head_maps(model)

    def _keep_heads(self, model: Any, keep: Callable[..., None]) -> None:
        family, count = family_of(model), model.config.num_attention_heads
        width = model.config.hidden_size // count
        for path in paths_of_layers(model):
            for place in (family.query, family.key, family.output):
                name = f"{path}.{place}"
                self.heads[name] = [Moments(width) for _ in range(count)]
                of_inputs = place == family.output
                keep(name, functools.partial(_add_heads, self.heads[name], of_inputs=of_inputs))

    def _keep_norms(self, model: Any, units: Sequence[int], keep: Callable[..., None]) -> None:
        for name, module in model.named_modules():
            if isinstance(module, nn.LayerNorm):
                self.norms[name] = NormFit(module, units)
                keep(name, self.norms[name].add)


class NormFit:
    """Gain and offset with which a norm over the kept units comes nearest to what the whole norm gives there.

    Args:
        norm: over all units.
        units: that are kept.
    """

    def __init__(self, norm: nn.LayerNorm, units: Sequence[int]) -> None:
        self._eps, self._units, self._rows = norm.eps, list(units), 0
        self._gain = norm.weight.detach()[self._units].double().cpu()
        self._sums = torch.zeros(4, len(self._units), dtype=torch.float64)

    def add(self, inputs: Tensor, outputs: Tensor) -> None:
        """Rows [..., D] into and out of the whole norm."""
        kept = inputs[..., self._units].float()
        narrow = F.layer_norm(kept, kept.shape[-1:], eps=self._eps).flatten(0, -2).double()
        whole = outputs[..., self._units].flatten(0, -2).double()
        self._rows += len(narrow)
        sums = [narrow.sum(0), whole.sum(0), narrow.square().sum(0), (narrow * whole).sum(0)]
        self._sums += torch.stack(sums).cpu()

    def fitted(self) -> tuple[Tensor, Tensor]:
        """Gain and offset, [k] each, by least squares for each unit; the gain of a unit that never varies stays."""
        narrow, whole, square, product = self._sums / max(1, self._rows)
        variance = square - narrow.square()
        still = variance <= 1e-9 * square
        slope = (product - narrow * whole) / variance.masked_fill(still, 1)
        gain = torch.where(still, self._gain, slope)
        return gain, whole - gain * narrow


def _add_inputs(moments: Moments, inputs: Tensor, _outputs: Tensor) -> None:
    moments.add(inputs)


def _add_heads(heads: list[Moments], inputs: Tensor, outputs: Tensor, *, of_inputs: bool) -> None:
    parts = (inputs if of_inputs else outputs).chunk(len(heads), -1)
    for moments, part in zip(heads, parts, strict=True):
        moments.add(part)


def head_maps(model: Any) -> list[str]:
    """Names of the linear maps from hidden states to hidden states behind the layers, in a masked-LM head or a pooler."""
    encoder, decoder = encoder_of(model), model.get_output_embeddings()
    inside = {*encoder.modules()} - {*getattr(getattr(encoder, "pooler", None), "modules", list)()}
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module not in inside and module is not decoder
    ]
