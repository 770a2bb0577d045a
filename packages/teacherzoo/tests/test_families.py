"""Every entry of the table is true of a model that transformers' own classes make."""

from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForMaskedLM

from teacherzoo import TeacherError
from teacherzoo.encoders.families import FAMILIES, known_family, longest_row
from teacherzoo.encoders.layers import (
    config_of_layers,
    list_of_layers,
    replace_layers,
    spread_layers,
)

REACHED = [name for name, family in FAMILIES.items() if not family.unreached]


def _model(name: str) -> Any:
    family = FAMILIES[name]
    settings = {
        family.depth: 4,
        family.width: 32,
        family.attention_heads: 4,
        family.inner: 48,
        "vocab_size": 40,
        "mask_token_id": 2,
        "max_position_embeddings": 34,
        **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 1),
        **family.from_scratch,
    }  # fmt: skip
    if family.grouped_queries:
        settings["num_key_value_heads"] = 2
    torch.manual_seed(0)
    return AutoModelForMaskedLM.from_config(AutoConfig.for_model(name, **settings)).eval()


@pytest.mark.parametrize("name", REACHED)
def test_paths_lead_to_maps_of_the_right_shapes(name: str) -> None:
    family, encoder = FAMILIES[name], _model(name).base_model
    layers = list_of_layers(encoder)

    def shape(path: str) -> tuple[int, ...]:
        return tuple(layers[1].get_submodule(path).weight.shape)

    shared = 16 if family.grouped_queries else 32
    fused = family.query == family.key == family.value
    assert len(layers) == 4
    assert shape(family.query) == ((96, 32) if fused else (32, 32))
    assert shape(family.key) == shape(family.value) == ((96, 32) if fused else (shared, 32))
    assert shape(family.output) == (32, 32)
    assert [shape(path) for path in family.up] == [(96 if family.fused_gate else 48, 32)] * len(family.up)  # fmt: skip
    assert shape(family.down) == (32, 48)
    assert isinstance(layers[1].get_submodule(family.attention), nn.Module)


@pytest.mark.parametrize("name", REACHED)
def test_norms_are_of_one_kind_and_the_last_state_of_a_pre_norm_encoder_is_normed(
    name: str,
) -> None:
    family, encoder = FAMILIES[name], _model(name).base_model
    ids = torch.arange(5, 25).view(2, 10)
    states: dict[int, Any] = {}
    encoder.get_submodule(family.embeddings).register_forward_hook(
        lambda _module, _inputs, output: states.update({0: output})
    )

    output = encoder(ids, output_hidden_states=True)

    kinds = [type(module).__name__ for module in encoder.modules() if "Norm" in type(module).__name__]  # fmt: skip
    assert len(kinds) >= 8
    assert all(kind.endswith(family.norm) for kind in kinds)
    assert torch.equal(states[0], output.hidden_states[0])
    layers = list_of_layers(encoder)
    pre_norms = [n for n, module in layers[1].named_modules() if "Norm" in type(module).__name__]
    first = [n for n, module in layers[0].named_modules() if "Norm" in type(module).__name__]
    assert (pre_norms != first) == bool(family.first_layer_pinned)
    if family.final_norm is None:
        # The last module of a layer is a norm, so that each state has mean 0.
        assert output.last_hidden_state.mean(-1).abs().max() < 1e-5
        assert output.hidden_states[2].mean(-1).abs().max() < 1e-5
    else:
        last: list[Any] = []
        layers[3].register_forward_hook(lambda _module, _inputs, made: last.append(made))
        encoder(ids)
        state = last[0][0] if isinstance(last[0], tuple) else last[0]
        normed = encoder.get_submodule(family.final_norm)(state)
        torch.testing.assert_close(normed, output.last_hidden_state)
        assert not torch.allclose(state, normed)


@pytest.mark.parametrize("name", REACHED)
def test_dropouts_are_all_that_act_in_the_encoder(name: str) -> None:
    config = _model(name).config
    every = [field for field in config.to_dict() if "dropout" in field]
    for field in every:
        setattr(config, field, 0.5)
    for field in FAMILIES[name].dropouts:
        assert field in every
        setattr(config, field, 0.0)
    encoder = AutoModelForMaskedLM.from_config(config).base_model.train()
    ids = torch.arange(5, 25).view(2, 10)

    torch.testing.assert_close(encoder(ids).last_hidden_state, encoder(ids).last_hidden_state)


@pytest.mark.parametrize("name", REACHED)
def test_fewer_layers_are_the_layers_named(name: str) -> None:
    model = _model(name)
    encoder = model.base_model
    whole = list_of_layers(encoder)

    config = config_of_layers(model.config, (0, 2))
    replace_layers(encoder, nn.ModuleList([whole[0], whole[2]]))

    assert list(list_of_layers(encoder)) == [whole[0], whole[2]]
    assert config.num_hidden_layers == 2
    assert model.config.num_hidden_layers == 4


@pytest.mark.parametrize("name", FAMILIES)
def test_the_longest_row_is_the_longest_that_a_model_reads(name: str) -> None:
    model = _model(name)
    longest = longest_row(model.config)
    assert longest == (32 if FAMILIES[name].positions == "table after padding" else 34)

    with torch.no_grad():
        model(torch.full((1, longest), 7))
        if FAMILIES[name].positions in ("table", "table after padding"):
            with pytest.raises((IndexError, RuntimeError)):
                model(torch.full((1, longest + 1), 7))


@pytest.mark.parametrize("strategy", ["last", "even", "bottom", "outer", "alternate", "last-k"])
@pytest.mark.parametrize("depth", [1, 2, 5, 12, 24])
def test_taken_layers_ascend_and_stay_in_the_teacher(depth: int, strategy: Any) -> None:
    for count in range(1, depth + 1):
        chosen = spread_layers(depth, count, strategy)
        assert len(chosen) == count == len(set(chosen))
        assert list(chosen) == sorted(chosen)
        assert 0 <= chosen[0] <= chosen[-1] < depth
        if strategy in ("last", "outer", "last-k"):
            assert chosen[-1] == depth - 1
        if strategy == "alternate" or (strategy == "outer" and count > 1):
            assert chosen[0] == 0


def test_an_architecture_that_is_not_in_the_table_is_named() -> None:
    with pytest.raises(TeacherError, match="'fnet' model is of no architecture known here; known are albert"):  # fmt: skip
        known_family(AutoConfig.for_model("fnet"))
