"""Which units of a model matter, by each measure, beside what their removal does."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from bistil.encoders.capture import encoder_of, family_of
from bistil.encoders.widths import paths_of_layers
from bistil.errors import ModelError
from bistil.student.bottleneck import bottleneck_divergence
from bistil.student.gates import KINDS, UnitKind, gated, unit_shapes
from bistil.student.importance import MEASURES, Measure, unit_importance
from bistil.student.narrow import compared_covariance, narrowed
from bistil.student.outputs import last_states
from bistil.student.units import pivoted_cholesky_selection
from teacherzoo.encoders.families import FAMILIES as ENTRIES

FAMILIES = {entry: name for name, entry in ENTRIES.items() if not entry.unreached}.values()


def _blocks(count: int = 4) -> list[Tensor]:
    random = torch.Generator().manual_seed(0)
    return [torch.randint(5, 60, (8, 20), generator=random) for _ in range(count)]


def _batch(ids: Tensor) -> dict[str, Tensor]:
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _number_of_rows(model: Any, batch: Mapping[str, Tensor]) -> Tensor:
    """One number [B, 1] of each row."""
    return last_states(model, batch)[:, 3, :5].sum(-1, keepdim=True)


def _with_gate(model: Any, kind: UnitKind, unit: tuple[int, ...], value: float, call: Callable[[], Tensor]) -> Tensor:  # fmt: skip
    gate = torch.ones(1, *unit_shapes(model)[kind], dtype=model.dtype)
    gate[0][unit] = value
    with torch.no_grad(), gated(model, {kind: gate}):
        return call()


def _units(model: Any, kind: UnitKind) -> list[tuple[int, ...]]:
    """Some units of a kind."""
    every = list(torch.ones(unit_shapes(model)[kind]).nonzero().unbind(0))
    return [tuple(unit.tolist()) for unit in every[:: max(1, len(every) // 12)]]


@pytest.mark.parametrize("family", ["bert", "modernbert", "eurobert", "deberta-v2"])
def test_taylor_importance_is_the_squared_slope_of_the_outputs(
    make_masked_lm: Callable[..., Any], family: str
) -> None:
    model, ids = make_masked_lm(family).double(), _blocks(1)[0]
    importance = unit_importance(model, [ids], "taylor", outputs=_number_of_rows)
    whole = float(_number_of_rows(model, _batch(ids)).detach().square().sum())

    for kind in KINDS:
        for unit in _units(model, kind):
            above, below = (
                _with_gate(model, kind, unit, 1 + step, lambda: _number_of_rows(model, _batch(ids)))
                for step in (2e-3, -2e-3)
            )
            expected = float(((above - below) / 4e-3).square().sum()) / whole
            assert float(getattr(importance, kind)[unit]) == pytest.approx(expected, rel=5e-3, abs=1e-7)  # fmt: skip


def test_taylor_importance_on_a_task_is_the_size_of_the_losss_slope_in_each_row(
    make_masked_lm: Callable[..., Any],
) -> None:
    model, ids = make_masked_lm("bert").double(), _blocks(1)[0][:4]

    def loss(model: Any, batch: Mapping[str, Tensor]) -> Tensor:
        logits = model(**batch).logits[:, 2]
        return nn.functional.cross_entropy(logits, torch.arange(len(logits)))

    def losses() -> Tensor:
        logits = model(**_batch(ids)).logits[:, 2]
        return nn.functional.cross_entropy(logits, torch.arange(len(logits)), reduction="none")

    importance = unit_importance(model, [_batch(ids)], "taylor", loss=loss)

    for kind in KINDS:
        for unit in _units(model, kind):
            above, below = (_with_gate(model, kind, unit, 1 + step, losses) for step in (1e-5, -1e-5))  # fmt: skip
            expected = float(((above - below) / 2e-5).abs().mean())
            assert float(getattr(importance, kind)[unit]) == pytest.approx(expected, rel=1e-3, abs=1e-9)  # fmt: skip


@pytest.mark.parametrize("by", MEASURES)
def test_feed_forward_units_rank_as_their_removal_harms(
    make_masked_lm: Callable[..., Any], by: Measure
) -> None:
    """In the last layer, whose units tell nothing that a later one could mend."""
    model, blocks = make_masked_lm("bert", layers=2), _blocks()
    scores = unit_importance(model, blocks, by, kinds=["feed_forward"], steps=100).feed_forward
    assert scores is not None
    batch = _batch(torch.cat(blocks))
    whole = last_states(model, batch).detach()

    harm = torch.stack([
        (_with_gate(model, "feed_forward", (1, unit), 0.0, lambda: last_states(model, batch)) - whole).square().sum()
        for unit in range(48)
    ])  # fmt: skip

    assert _rank_correlation(scores[1], harm.double()) > (0.5 if by == "reconstruction" else 0.9)


def _rank_correlation(left: Tensor, right: Tensor) -> float:
    ranks = torch.stack([values.argsort().argsort().double() for values in (left, right)])
    return float(torch.corrcoef(ranks)[0, 1])


@pytest.mark.parametrize("by", MEASURES)
@pytest.mark.parametrize("family", FAMILIES)
def test_units_that_add_nothing_are_removed_first(
    make_masked_lm: Callable[..., Any], family: str, by: Measure
) -> None:
    model = make_masked_lm(family, layers=3)
    _silence(model)

    importance = unit_importance(model, _blocks(), by, steps=60)

    heard = range(1, 48, 2)
    assert importance.kept_feed_forward(24)[:2] == (tuple(heard),) * 2
    assert importance.kept_heads(2)[:2] == ((1, 2),) * 2
    assert importance.kept_layers(2) == (0, 1)
    if not ENTRIES[family].fixed_width:
        assert importance.kept_hidden(24) == tuple(range(24))


@torch.no_grad()
def _silence(model: Any) -> None:
    """Every second feed-forward unit, the outer heads, the last quarter of the hidden channels and the last layer say nothing."""
    family = family_of(model)
    for number, path in enumerate(paths_of_layers(model)):
        down, out = (model.get_submodule(f"{path}.{place}") for place in (family.down, family.output))  # fmt: skip
        down.weight[:, ::2] = 0
        out.weight.unflatten(1, (4, 8))[:, [0, 3]] = 0
        if number == 2:
            for linear in (down, out):
                for tensor in linear.parameters():
                    tensor.zero_()
    if family.fixed_width:
        return
    for module in encoder_of(model).modules():
        if isinstance(module, nn.Embedding):
            module.weight[:, 24:] = 0
        if isinstance(module, nn.LayerNorm):
            module.weight[24:], module.bias[24:] = 0, 0
    for path in paths_of_layers(model):
        for place in (family.output, family.down):
            linear = model.get_submodule(f"{path}.{place}")
            linear.weight[24:], linear.bias[24:] = 0, 0


def test_the_penalty_of_a_bottleneck_is_the_divergence_from_its_best_prior() -> None:
    torch.manual_seed(0)
    mean, log_deviation = torch.randn(20).double(), torch.randn(20).double()
    deviation = log_deviation.exp()

    def divergence(scale: Tensor) -> Tensor:
        return kl_divergence(Normal(mean, deviation), Normal(torch.zeros_like(mean), scale))

    best = (mean.square() + deviation.square()).sqrt()
    actual = bottleneck_divergence(mean, log_deviation)

    torch.testing.assert_close(actual, divergence(best))
    for factor in (0.9, 1.1):
        assert (divergence(factor * best) > actual).all()


@pytest.mark.parametrize("by", MEASURES)
def test_measuring_changes_nothing_and_gives_the_same_bits_again(
    make_masked_lm: Callable[..., Any], by: Measure
) -> None:
    model = make_masked_lm("xlm-roberta", layers=2)
    model.lm_head.dense.weight.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trained = [parameter.requires_grad for parameter in model.parameters()]
    state = torch.get_rng_state()

    once, again = (unit_importance(model, _blocks(1), by, steps=5) for _ in range(2))

    for kind in KINDS:
        assert torch.equal(getattr(once, kind), getattr(again, kind))
    assert [parameter.requires_grad for parameter in model.parameters()] == trained
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.equal(torch.get_rng_state(), state)


def test_reconstruction_ranks_first_what_a_narrower_student_keeps_by_it(
    make_masked_lm: Callable[..., Any],
) -> None:
    model, blocks = make_masked_lm("bert"), _blocks()

    importance = unit_importance(model, blocks, "reconstruction")

    covariance = compared_covariance(model, range(4), blocks)
    assert importance.kept_hidden(20) == pivoted_cholesky_selection(covariance, 20).numbers
    named = narrowed(model, blocks, feed_forward=24, inner_units=importance.kept_feed_forward(24))
    chosen = narrowed(model, blocks, feed_forward=24)
    assert all(torch.equal(tensor, chosen.state_dict()[name]) for name, tensor in named.state_dict().items())  # fmt: skip


def test_single_rows_are_measured_together_as_they_are_alone(
    make_masked_lm: Callable[..., Any],
) -> None:
    model, ids = make_masked_lm("roberta", layers=2).double(), _blocks(1)[0]
    rows = [ids[number : number + 1, : 6 + 2 * number] for number in range(5)]

    importance = unit_importance(model, rows, "taylor", outputs=_number_of_rows)

    alone = [
        (unit_importance(model, [_batch(row)], "taylor", outputs=_number_of_rows), float(_number_of_rows(model, _batch(row)).detach().square()))
        for row in rows
    ]  # fmt: skip
    for kind in KINDS:
        expected = sum(getattr(single, kind) * weight for single, weight in alone)
        torch.testing.assert_close(getattr(importance, kind), expected / sum(weight for _, weight in alone))  # fmt: skip


def test_what_cannot_be_measured_is_refused(make_masked_lm: Callable[..., Any]) -> None:
    model = make_masked_lm("bert", layers=1)
    options: list[tuple[dict[str, Any], str]] = [
        ({"by": "magnitude"}, "one of reconstruction, taylor, bottleneck, got 'magnitude'"),
        ({"kinds": ["rows"]}, "one of layers, heads, feed_forward, hidden, got 'rows'"),
        ({"loss": lambda model, batch: model}, "reconstruction looks at states and knows no loss"),
        ({"batches": []}, "no text"),
    ]
    for given, message in options:
        with pytest.raises(ModelError, match=message):
            unit_importance(model, **{"batches": _blocks(1), **given})
    with pytest.raises(ModelError, match="importance of heads was not measured"):
        unit_importance(model, _blocks(1), "taylor", kinds=["hidden"]).kept_heads(1)
    with pytest.raises(ModelError, match="the attention of a 'albert' model cannot be reached"):
        unit_importance(make_masked_lm("albert"), _blocks(1), "taylor")
