"""Against maps and states that transformers itself gives, in float64."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from bistil.encoders.capture import Activations, Attention, capture_activations
from bistil.errors import ModelError
from bistil.losses.matching import Matching, matching_loss
from teacherzoo.encoders.families import FAMILIES as ENTRIES

FAMILIES = [name for name, family in ENTRIES.items() if not family.unreached]
LAYERS = (1, 3)


def _pair(make: Callable[..., Any], family: str) -> tuple[Any, Any]:
    """A teacher of four layers and a student of two that is not it, in float64."""
    student = make(family, seed=1, layers=2)
    if family == "modernbert":  # layers are compared within one window
        kinds = [student.config.layer_types[1]] * 4
        return (
            make(family, seed=1, layers=2, layer_types=kinds[:2]).double(),
            make(family, layer_types=kinds).double(),
        )
    return student.double(), make(family).double()


def _batch(*, padded: bool) -> dict[str, Tensor]:
    ids = torch.randint(5, 60, (3, 18), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    if padded:
        mask[1, 15:] = 0
        mask[2, 14:] = 0
        ids[mask == 0] = 0
    return {"input_ids": ids, "attention_mask": mask}


def _activations(
    student: Any, teacher: Any, batch: dict[str, Tensor]
) -> tuple[Activations, Activations]:
    """Of both models on a batch, the teacher's of the compared layers."""
    with (
        capture_activations(student) as of_student,
        capture_activations(teacher, layers=LAYERS) as of_teacher,
    ):
        student(**batch)
        with torch.no_grad():
            teacher(**batch)
    return of_student, of_teacher


def _matched(student: Any, teacher: Any, batch: dict[str, Tensor]) -> Matching:
    both = _activations(student, teacher, batch)
    return matching_loss(*both, layers=LAYERS, attention_mask=batch["attention_mask"])


def _oracle(student: Any, teacher: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The two terms from eager maps, and from states that hooks take, entry by entry."""
    outputs = []
    for model in (student, teacher):
        model.config._attn_implementation = "eager"
        output = model(**batch, output_attentions=True, output_hidden_states=True)
        outputs.append((output.attentions, output.hidden_states))
    (maps_s, states_s), (maps_t, states_t) = outputs
    real = batch["attention_mask"].bool()
    pairs = real[:, :, None] & real[:, None, :]
    window = getattr(student.config, "local_attention", None)
    if window is not None:
        places = torch.arange(real.shape[1])
        pairs = pairs & ((places[:, None] - places).abs() <= window // 2)
    attention, hidden = [], []
    for number, layer in enumerate(LAYERS):
        square = (maps_s[number].double() - maps_t[layer].double().detach()) ** 2
        entries = [square[b, h][pairs[b]] for b in range(3) for h in range(4)]
        attention.append(torch.cat(entries).mean())
    for number, layer in [(0, 0), *((i + 1, j + 1) for i, j in enumerate(LAYERS))]:
        difference = (states_s[number] - states_t[layer].detach())[real]
        square = difference**2
        if ENTRIES[student.config.model_type].pre_norm:
            square = square / (states_t[layer].detach()[real] ** 2).mean(-1, keepdim=True)
        hidden.append(square.mean())
    return sum(attention) / len(attention), sum(hidden) / len(hidden)  # type: ignore[return-value]  # tensors


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize("family", FAMILIES)
def test_both_terms_and_their_gradients_are_those_of_eager_maps(
    make_masked_lm: Callable[..., Any], family: str, padded: bool
) -> None:
    student, teacher = _pair(make_masked_lm, family)
    final_norm = ENTRIES[family].final_norm
    if final_norm is not None:  # the last state in transformers stands behind it
        for model in (student, teacher):
            model.base_model.set_submodule(final_norm, torch.nn.Identity())
    batch = _batch(padded=padded)
    untouched = copy.deepcopy(student)

    matching = _matched(student, teacher, batch)
    expected = _oracle(untouched, teacher, batch)

    # transformers takes eager softmaxes of some families in float32
    tolerance = {"rtol": 1e-6, "atol": 1e-9}
    torch.testing.assert_close(matching.attention, expected[0], **tolerance)
    torch.testing.assert_close(matching.hidden, expected[1], **tolerance)
    assert matching.attention > 1e-8
    (10 * matching.attention + matching.hidden).backward()
    (10 * expected[0] + expected[1]).backward()
    for (name, actual), weight in zip(
        student.named_parameters(), untouched.parameters(), strict=True
    ):
        if weight.grad is None or not weight.grad.abs().max() > 0:
            assert actual.grad is None or not actual.grad.abs().max() > 0, name
        else:
            torch.testing.assert_close(actual.grad, weight.grad, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_stands_in_padding_changes_nothing(
    make_masked_lm: Callable[..., Any], family: str
) -> None:
    student, teacher = _pair(make_masked_lm, family)
    batch = _batch(padded=True)
    before = _matched(student, teacher, batch)
    with torch.no_grad():
        batch["input_ids"][batch["attention_mask"] == 0] = 7 if family != "xlm-roberta" else 0

    after = _matched(student, teacher, batch)

    torch.testing.assert_close(after, before)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_student_that_is_its_teacher_has_nothing_to_learn(
    make_masked_lm: Callable[..., Any], family: str
) -> None:
    teacher = make_masked_lm(family)
    batch = _batch(padded=False)

    with capture_activations(teacher) as of_student:
        teacher(**batch)
    with capture_activations(teacher) as of_teacher, torch.no_grad():
        teacher(**batch)
    matching = matching_loss(of_student, of_teacher, layers=range(4), attention_mask=None)

    assert matching == (0.0, 0.0)


def test_listening_leaves_the_model_as_it_was(make_masked_lm: Callable[..., Any]) -> None:
    model = make_masked_lm("bert")
    model.config._attn_implementation = "eager"
    before = model(**_batch(padded=True)).logits

    activations = _interrupted(model)

    assert sorted(activations.attention) == [0, 1, 2, 3]
    assert model.config._attn_implementation == "eager"
    assert not any(module._forward_hooks for module in model.modules())
    assert not any("_keep_operands" in vars(module) for module in model.modules())
    assert torch.equal(model(**_batch(padded=True)).logits, before)


def _interrupted(model: Any) -> Activations:
    try:
        with capture_activations(model) as activations:
            model(**_batch(padded=True))
            raise KeyError
    except KeyError:
        return activations


def test_only_the_layers_asked_for_are_kept(make_masked_lm: Callable[..., Any]) -> None:
    for family in ("bert", "deberta-v2"):
        model = make_masked_lm(family)

        with capture_activations(model, layers=[2]) as activations:
            model(**_batch(padded=False))

        assert sorted(activations.attention) == [2], family
        assert sorted(activations.hidden) == [0, 3], family


def test_an_encoder_is_found_inside_a_task_model(make_masked_lm: Callable[..., Any]) -> None:
    class Tagger(torch.nn.Module):
        def __init__(self, encoder: Any) -> None:
            super().__init__()
            self.encoder = encoder
            self.head = torch.nn.Linear(32, 3)

        def forward(self, **batch: Tensor) -> Tensor:
            return self.head(self.encoder(**batch).last_hidden_state)

    model = make_masked_lm("xlm-roberta")
    tagger = Tagger(model.base_model)

    with capture_activations(tagger) as activations:
        tagger(**_batch(padded=False))

    assert torch.equal(activations.last, activations.hidden[4])


def test_a_projection_stands_between_widths(make_masked_lm: Callable[..., Any]) -> None:
    student = make_masked_lm("bert", layers=2, hidden_size=16)
    teacher = make_masked_lm("bert")
    batch = _batch(padded=True)
    projection = torch.randn(32, 16, generator=torch.Generator().manual_seed(0))
    of_student, of_teacher = _activations(student, teacher, batch)

    matching = matching_loss(
        of_student,
        of_teacher,
        layers=LAYERS,
        attention_mask=batch["attention_mask"],
        projection=projection,
    )

    real = batch["attention_mask"].bool()
    expected = [
        ((of_student.hidden[a] - of_teacher.hidden[b] @ projection)[real] ** 2).mean() for a, b in ((0, 0), (1, 2), (2, 4))
    ]  # fmt: skip
    torch.testing.assert_close(matching.hidden, sum(expected) / 3)
    with pytest.raises(ModelError, match="16 wide and the teacher's 32; give a projection"):
        matching_loss(of_student, of_teacher, layers=LAYERS, attention_mask=None)


def test_of_two_compared_states_backward_keeps_one_tensor() -> None:
    of_student, of_teacher = (
        Activations(
            hidden={number: torch.randn(2, 5, 24) for number in range(2)},
            attention={0: Attention(torch.randn(2, 3, 5, 8), torch.randn(2, 3, 5, 8))},
        )
        for _ in range(2)
    )
    for state in of_student.hidden.values():
        state.requires_grad_()
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        matching = matching_loss(of_student, of_teacher, layers=[0], attention_mask=None)

    assert sum(kept.values()) < 1.1 * sum(state.nbytes for state in of_student.hidden.values())
    matching.hidden.backward()
    for number, state in of_student.hidden.items():
        assert state.grad is not None
        expected = (state.detach() - of_teacher.hidden[number]) / state.numel()
        torch.testing.assert_close(state.grad, expected)


def test_different_head_counts_are_refused(make_masked_lm: Callable[..., Any]) -> None:
    for family in ("bert", "deberta-v2"):
        student = make_masked_lm(family, layers=2, num_attention_heads=2)
        teacher = make_masked_lm(family)
        both = _activations(student, teacher, _batch(padded=False))

        with pytest.raises(ModelError, match="the student has 2 heads and the teacher 4"):
            matching_loss(*both, layers=LAYERS, attention_mask=None)


@pytest.mark.parametrize("family", ["bert", "deberta-v2"])
def test_a_student_with_some_of_the_heads_is_compared_with_these(
    make_masked_lm: Callable[..., Any], family: str
) -> None:
    student, teacher = (
        make_masked_lm(family, layers=2, num_attention_heads=2),
        make_masked_lm(family),
    )
    batch, kept = _batch(padded=False), ((0, 3), (1, 2))
    both = _activations(student, teacher, batch)

    actual = matching_loss(*both, layers=LAYERS, attention_mask=None, heads=kept)
    others = matching_loss(*both, layers=LAYERS, attention_mask=None, heads=kept[::-1])

    for model in (student, teacher):
        model.config._attn_implementation = "eager"
    maps_s, maps_t = (model(**batch, output_attentions=True).attentions for model in (student, teacher))  # fmt: skip
    expected = sum((maps_s[i] - maps_t[j][:, heads]).square().mean() for i, j, heads in zip((0, 1), LAYERS, kept, strict=True)) / 2  # fmt: skip
    torch.testing.assert_close(actual.attention, expected.detach())
    assert not torch.isclose(actual.attention, others.attention)


def test_an_architecture_we_cannot_listen_to_is_named() -> None:
    from transformers import AlbertConfig, AlbertForMaskedLM

    model = AlbertForMaskedLM(
        AlbertConfig(vocab_size=30, embedding_size=8, hidden_size=16, num_attention_heads=2, intermediate_size=16)
    )  # fmt: skip

    with (
        pytest.raises(ModelError, match="attention of a 'albert' model cannot be reached"),
        capture_activations(model),
    ):
        pass
