"""Gates: factors that a forward pass multiplies a model's units by, through which their importance is measured."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, get_args

from torch import Tensor, nn

from bistil.encoders.capture import encoder_of, family_of, layers_of
from bistil.encoders.widths import inner_width, paths_of_layers

UnitKind = Literal["layers", "heads", "feed_forward", "hidden"]
KINDS: tuple[UnitKind, ...] = get_args(UnitKind)


def unit_shapes(model: Any) -> dict[UnitKind, tuple[int, ...]]:
    """How many units of each kind a model has: layers [L], heads [L, A], feed-forward units [L, I], hidden channels [H].

    Args:
        model: an encoder or what holds one.
    """
    depth, config = len(layers_of(model)), encoder_of(model).config
    return {
        "layers": (depth,),
        "heads": (depth, config.num_attention_heads),
        "feed_forward": (depth, inner_width(config)),
        "hidden": (config.hidden_size,),
    }


@contextmanager
def gated(model: Any, gates: Mapping[UnitKind, Tensor]) -> Iterator[None]:
    """Multiply the units of a model by `gates` in its forward passes; at 1 it is as it was, at 0 a unit is removed.

    A head's gate acts on what it attended to, a feed-forward unit's on its value behind activation and gating. A hidden
    channel's acts behind every norm over hidden states, so that what reads the state does without the channel in all layers at
    once. A layer's blends its output with its input: at 0 it is skipped.

    Args:
        model: an encoder or what holds one; padded rows [B, S].
        gates: of the kinds that have any, [B, …] with the shapes of `unit_shapes`, one for each row; B = 1 for all rows alike.
    """
    encoder, family, paths = encoder_of(model), family_of(model), list(paths_of_layers(model))
    places: dict[UnitKind, str] = {"feed_forward": family.down, "heads": family.output}
    with ExitStack() as stack:
        for number, path in enumerate(paths):
            for kind, place in places.items():
                if kind in gates:
                    multiply = functools.partial(_multiply_inputs, gates[kind][:, number])
                    linear = model.get_submodule(f"{path}.{place}")
                    stack.callback(linear.register_forward_pre_hook(multiply).remove)
            if "layers" in gates:
                blend = functools.partial(_blend, gates["layers"][:, number, None, None])
                stack.callback(model.get_submodule(path).register_forward_hook(blend).remove)
        if "hidden" in gates:
            for norm in hidden_norms(encoder):
                scale = functools.partial(_multiply_outputs, gates["hidden"][:, None])
                stack.callback(norm.register_forward_hook(scale).remove)
        yield


def hidden_norms(encoder: Any) -> list[nn.Module]:
    """The norms over hidden states of an encoder."""
    width = encoder.config.hidden_size
    return [
        module
        for module in encoder.modules()
        if "Norm" in type(module).__name__
        and getattr(module, "weight", None) is not None
        and module.weight.shape == (width,)
    ]


def _multiply_inputs(gate: Tensor, _module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    values = inputs[0]
    factor = gate.repeat_interleave(values.shape[-1] // gate.shape[-1], dim=-1)
    return (values * factor[:, None], *inputs[1:])


def _multiply_outputs(gate: Tensor, _module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
    return (
        output * gate if output.dim() == 3 else output
    )  # DeBERTa-v2 has a norm of its relative positions, too


def _blend(gate: Tensor, _module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
    state = output[0] if isinstance(output, tuple) else output
    blended = state + (gate - 1) * (state - inputs[0])
    return (blended, *output[1:]) if isinstance(output, tuple) else blended
