"""What the backward pass makes again instead of keeping."""

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from bistil.encoders.capture import encoder_of
from bistil.encoders.recompute import recomputing
from teacherzoo.encoders.families import FAMILIES as ENTRIES

FAMILIES = [name for name, family in ENTRIES.items() if not family.unreached]
IDS = torch.arange(5, 45).view(2, 20)


def _forward(encoder: Any, *, lean: bool, half: bool) -> Tensor:
    with (
        recomputing(encoder) if lean else contextlib.nullcontext(),
        torch.autocast("cpu", torch.bfloat16, enabled=half),
    ):
        return encoder(input_ids=IDS).last_hidden_state.float().square().mean()


def _gradients(encoder: Any, *, lean: bool, half: bool) -> dict[str, Tensor]:
    encoder.zero_grad()
    _forward(encoder, lean=lean, half=half).backward()
    return {
        name: weight.grad.clone()
        for name, weight in encoder.named_parameters()
        if weight.grad is not None
    }


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_the_same_bits(
    make_masked_lm: Callable[..., Any], family: str, half: bool
) -> None:
    encoder = encoder_of(make_masked_lm(family))

    expected = _gradients(encoder, lean=False, half=half)
    actual = _gradients(encoder, lean=True, half=half)

    assert expected.keys() == actual.keys()
    assert [name for name in expected if not torch.equal(expected[name], actual[name])] == []


def test_outputs_of_norms_activations_and_values_are_let_go(
    make_masked_lm: Callable[..., Any],
) -> None:
    encoder = encoder_of(make_masked_lm("bert"))
    layer = encoder.encoder.layer[1]
    outputs: dict[str, StorageWeakRef] = {}

    def note(name: str) -> Callable[..., None]:
        return lambda _module, _inputs, output: outputs.update({name: StorageWeakRef(output.untyped_storage())})  # fmt: skip

    modules = {
        "activation": layer.intermediate.intermediate_act_fn,
        "norm": layer.attention.output.LayerNorm,
        "value": layer.attention.self.value,
        "key": layer.attention.self.key,
    }
    for name, module in modules.items():
        module.register_forward_hook(note(name))
    loss = _forward(encoder, lean=True, half=False)

    there = {name for name, storage in outputs.items() if not storage.expired()}
    assert there == {"key"}
    loss.backward()
    assert outputs["key"].expired()


def test_what_was_changed_in_place_is_kept(make_masked_lm: Callable[..., Any]) -> None:
    encoder = encoder_of(make_masked_lm("bert"))
    norm = encoder.encoder.layer[0].attention.output.LayerNorm
    norm.register_forward_hook(lambda _module, _inputs, output: output.add_(1.0))

    expected = _gradients(encoder, lean=False, half=False)
    actual = _gradients(encoder, lean=True, half=False)

    assert [name for name in expected if not torch.equal(expected[name], actual[name])] == []
