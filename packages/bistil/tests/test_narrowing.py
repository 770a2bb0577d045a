"""What is left of a model with fewer hidden and feed-forward units, and where nothing is lost."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bistil.encoders.capture import capture_activations, encoder_of, family_of
from bistil.encoders.widths import paths_of_layers, require_narrowable
from bistil.errors import ModelError
from bistil.losses.matching import matching_loss
from bistil.student.narrow import (
    compared_covariance,
    cut_products,
    cut_sum,
    narrowed,
    projection_of,
)
from bistil.student.units import Moments, least_squares_reconstruction, pivoted_cholesky_selection
from teacherzoo.encoders.families import FAMILIES as ENTRIES

FAMILIES = [name for name, family in ENTRIES.items() if not family.unreached]
NARROW = [name for name in FAMILIES if not ENTRIES[name].fixed_width]


def _blocks(count: int = 20) -> list[Tensor]:
    random = torch.Generator().manual_seed(0)
    return [torch.randint(5, 60, (8, 40), generator=random) for _ in range(count)]


@pytest.mark.parametrize("family", FAMILIES)
def test_where_nothing_is_left_out_it_is_the_same_model_bit_for_bit(
    make_masked_lm: Callable[..., Any], family: str
) -> None:
    model = make_masked_lm(family)

    same = narrowed(model, _blocks(1), units=range(32), feed_forward=48, heads=[range(4)] * 4)

    assert same is not model
    for name, tensor in model.state_dict().items():
        assert torch.equal(same.state_dict()[name], tensor), name


@pytest.mark.parametrize("family", NARROW)
def test_a_model_with_units_to_spare_loses_nothing(
    make_masked_lm: Callable[..., Any], family: str
) -> None:
    """Half of its hidden units are silent, of the others the mean is 0, heads are of half rank, inner units are twins."""
    model = make_masked_lm(family)
    _spare(model)
    ids = _blocks(1)[0]

    narrow = narrowed(model, _blocks(), units=range(16), feed_forward=24)

    whole, small = (encoder_of(lm)(input_ids=ids).last_hidden_state for lm in (model, narrow))
    assert small.shape[-1] == narrow.config.hidden_size == 16
    assert whole[..., 16:].abs().max() == 0
    torch.testing.assert_close(small, whole[..., :16], atol=2e-3, rtol=0)


@torch.no_grad()
def _spare(model: Any) -> None:
    """See the test; pairs of the first 16 units are each other's negatives."""

    def mirror(entries: Tensor) -> None:
        entries[..., 8:16] = -entries[..., :8]
        entries[..., 16:] = 0

    family = family_of(model)
    for module in encoder_of(model).modules():
        if isinstance(module, nn.Embedding):
            mirror(module.weight)
        if isinstance(module, nn.LayerNorm):
            mirror(module.bias)
            module.weight[8:16], module.weight[16:] = module.weight[:8], 0
    for path in paths_of_layers(model):
        for place in (family.query, family.key, family.value):
            linear = model.get_submodule(f"{path}.{place}")
            for entries in (linear.weight, linear.bias):
                entries.unflatten(0, (4, 8))[:, 4:] = 0
        for place in (family.output, family.down):
            linear = model.get_submodule(f"{path}.{place}")
            mirror(linear.weight.T)
            mirror(linear.bias)
        up = model.get_submodule(f"{path}.{family.up[0]}")
        up.weight[24:], up.bias[24:] = up.weight[:24], up.bias[:24]


@pytest.mark.parametrize("family", NARROW)
def test_where_the_other_heads_add_nothing_whole_heads_give_the_same_outputs(
    make_masked_lm: Callable[..., Any], family: str
) -> None:
    """Half of the hidden units are silent, as many as the units of half of the heads, which add nothing."""
    model, entry = (
        make_masked_lm(family, layer_norm_eps=1e-12),
        ENTRIES[family],
    )  # half as many units halve a variance, and not that
    _spare(model)
    maps = [f"{path}.{place}" for path in paths_of_layers(model) for place in (entry.query, entry.key, entry.value)]  # fmt: skip
    with torch.no_grad():
        for name in maps:
            model.get_submodule(name).weight.normal_(std=0.2)
        for path in paths_of_layers(model):
            model.get_submodule(f"{path}.{entry.output}").weight.unflatten(1, (4, 8))[:, [0, 3]] = 0
    ids = _blocks(1)[0]

    narrow = narrowed(model, _blocks(), units=range(16), heads=[(1, 2)] * 4)

    whole, small = (encoder_of(lm)(input_ids=ids).last_hidden_state for lm in (model, narrow))
    assert narrow.config.num_attention_heads == 2
    torch.testing.assert_close(small, whole[..., :16], atol=1e-5, rtol=0)
    for name in maps:
        whole_map, small_map = (lm.get_submodule(name).weight for lm in (model, narrow))
        assert torch.equal(small_map, whole_map[8:24, :16])


@pytest.mark.parametrize("family", NARROW)
def test_heads_that_are_left_out_are_told_by_the_others(
    make_masked_lm: Callable[..., Any], family: str
) -> None:
    """The outer heads attend to what the inner ones do, and add something else of it; two heads of 16 units stand for four of 8."""
    model, entry = make_masked_lm(family), ENTRIES[family]
    with torch.no_grad():
        for path in paths_of_layers(model):
            for place in (entry.query, entry.key, entry.value):
                for tensor in model.get_submodule(f"{path}.{place}").parameters():
                    heads = tensor.unflatten(0, (4, 8))
                    heads[[0, 3]] = heads[[1, 2]]
    ids = _blocks(1)[0]

    narrow = narrowed(model, _blocks(), heads=[(1, 2)] * 4)

    before, after = (encoder_of(lm)(input_ids=ids).last_hidden_state for lm in (model, narrow))
    torch.testing.assert_close(after, before, atol=1e-4, rtol=0)
    # What a wider head has more can learn, though nothing reads it yet.
    after.square().sum().backward()
    for place in (entry.key, entry.output):
        gradient = narrow.get_submodule(f"{next(paths_of_layers(narrow))}.{place}").weight.grad
        assert gradient.abs().max(1 if place == entry.key else 0).values.min() > 0


@pytest.mark.parametrize("family", NARROW)
def test_a_narrow_student_starts_far_nearer_to_its_teacher_than_a_random_one(
    make_masked_lm: Callable[..., Any], family: str
) -> None:
    teacher, layers, ids = make_masked_lm(family), (0, 1, 2, 3), _blocks(1)[0]
    units = pivoted_cholesky_selection(compared_covariance(teacher, layers, _blocks()), 24).numbers

    def distance(student: Any) -> float:
        with (
            torch.no_grad(),
            capture_activations(student) as of_student,
            capture_activations(teacher) as of_teacher,
        ):
            student(input_ids=ids)
            teacher(input_ids=ids)
        matching = matching_loss(
            of_student,
            of_teacher,
            layers=layers,
            attention_mask=None,
            projection=projection_of(units, 32),
        )
        return float(matching.hidden)

    narrow, random = (narrowed(teacher, _blocks(), units=units, seed=seed) for seed in (None, 1))
    assert distance(narrow) < 0.25 * distance(random)


def test_as_many_pieces_as_hidden_units_are_not_taken_for_units(
    make_masked_lm: Callable[..., Any],
) -> None:
    model = make_masked_lm("bert", pieces=32)

    narrow = narrowed(model, [ids % 32 for ids in _blocks(4)], units=range(16))

    assert torch.equal(narrow.cls.predictions.bias, model.cls.predictions.bias)
    assert torch.equal(
        narrow.get_input_embeddings().weight, model.get_input_embeddings().weight[:, :16]
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_fewer_inner_units_change_answers_the_less_the_more_there_are(
    make_masked_lm: Callable[..., Any], family: str
) -> None:
    model, ids = make_masked_lm(family), _blocks(1)[0]
    expected = encoder_of(model)(input_ids=ids).last_hidden_state

    errors = [
        float((encoder_of(narrowed(model, _blocks(), feed_forward=count))(input_ids=ids).last_hidden_state - expected).detach().square().mean())
        for count in (12, 36)
    ]  # fmt: skip

    assert errors[1] < 0.5 * errors[0]
    assert errors[0] < float(expected.detach().var())


def test_the_projection_is_the_choice_of_units() -> None:
    states = torch.randn(3, 5, 8)

    projection = projection_of((1, 4, 6), 8)

    assert torch.equal(states @ projection, states[..., [1, 4, 6]])
    assert torch.equal(projection.T @ projection, torch.eye(3))


def test_units_are_chosen_from_which_all_others_can_be_told() -> None:
    torch.manual_seed(0)
    few = torch.randn(500, 3, dtype=torch.float64)
    rows = (few @ torch.randn(3, 10, dtype=torch.float64) + torch.arange(10)).float()
    moments = Moments(10)
    for part in rows.split(100):
        moments.add(part)

    kept = pivoted_cholesky_selection(moments.covariance, 3)
    linear, constants = least_squares_reconstruction(kept.numbers, moments, constant=True)

    assert kept.explained == pytest.approx(1)
    assert list(kept.numbers) == sorted(kept.numbers)
    torch.testing.assert_close(rows[:, list(kept.numbers)].double() @ linear + constants, rows.double(), atol=1e-3, rtol=0)  # fmt: skip
    assert torch.equal(linear[:, list(kept.numbers)], torch.eye(3).double())


def test_more_units_explain_more_and_all_of_them_everything() -> None:
    torch.manual_seed(0)
    mixed = torch.randn(8, 8, dtype=torch.float64)

    shares = [pivoted_cholesky_selection(mixed @ mixed.T, count).explained for count in range(1, 9)]

    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)
    assert shares[0] < 0.9


def test_a_head_of_lower_rank_keeps_its_attention_whatever_the_mean_of_its_keys() -> None:
    """The mean would need a direction of its own, and moves all scores of a query alike."""
    torch.manual_seed(0)
    queries, keys = torch.randn(200, 6), torch.randn(200, 6)
    keys[:, 2:] = 0
    keys += 2

    both = [Moments(6), Moments(6)]
    for moments, rows in zip(both, (queries, keys), strict=True):
        moments.add(rows)
    turn_q, turn_k = cut_products(both[0], both[1], 2)

    actual = (queries.double() @ turn_q) @ (keys.double() @ turn_k).T / 2**0.5
    expected = queries.double() @ keys.double().T / 6**0.5
    torch.testing.assert_close(actual.softmax(-1), expected.softmax(-1), atol=1e-4, rtol=0)


def test_what_a_head_adds_is_cut_to_its_rank() -> None:
    torch.manual_seed(0)
    context, out = torch.randn(200, 6) + 1, torch.randn(6, 9).double()
    context[:, 2:] = 0
    moments = Moments(6)
    moments.add(context)

    turn, put = cut_sum(moments, out, 2)

    assert (turn.shape, put.shape) == ((6, 2), (2, 9))
    torch.testing.assert_close(context.double() @ turn @ put, context.double() @ out, atol=1e-3, rtol=0)  # fmt: skip


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("bert", {"width": 30}, "width must be a multiple of the 4 attention heads.* at most the teacher's 32; got 30"),
        ("bert", {"width": 64}, "width must be a multiple"),
        ("bert", {"width": 0}, "width must be a multiple"),
        ("bert", {"heads": 5}, "heads must be from 1 to the teacher's 4, got 5"),
        ("bert", {"heads": 0}, "heads must be from 1 to the teacher's 4, got 0"),
        ("bert", {"heads": 3}, "heads must divide the student's width 32, got 3; choose one of 1, 2, 4, or"),
        ("distilbert", {"width": 18, "heads": 4}, "heads must divide the student's width 18, got 4; choose one of 1, 2, 3, or"),
        ("bert", {"width": 33, "heads": 3}, "width must be a multiple .* at most the teacher's 32; got 33"),
        ("modernbert", {"heads": 2}, "heads 2: a 'modernbert' student must have its teacher's 4 heads, for its rotary"),
        ("distilbert", {"feed_forward": 49}, "feed_forward must be from 1 to the teacher's 48, got 49"),
        ("modernbert", {"width": 16}, "'modernbert' student must be as wide as its teacher .32., for its rotary"),
        ("eurobert", {"width": 16}, "'eurobert' student must be as wide as its teacher .32., for its rotary"),
        ("deberta-v2", {"width": 16}, "'deberta-v2' student must be as wide as its teacher .32., for its heads"),
    ],
)  # fmt: skip
def test_widths_and_heads_that_cannot_be_are_refused(
    make_masked_lm: Callable[..., Any], family: str, options: dict[str, int], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        require_narrowable(
            make_masked_lm(family), **{"width": None, "feed_forward": None, **options}
        )
