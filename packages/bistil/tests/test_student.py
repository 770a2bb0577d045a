from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from bistil.errors import ModelError
from bistil.student.layers import choose_layers, layer_map, require_equal_to_truncated, student_of
from teacherzoo.encoders.families import FAMILIES as ENTRIES

FAMILIES = [name for name, family in ENTRIES.items() if not family.unreached]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"reduction": 2}, (1, 3, 5, 7, 9, 11)),
        ({"reduction": 3}, (2, 5, 8, 11)),
        ({"reduction": 12}, (11,)),
        ({"reduction": 1}, tuple(range(12))),
        ({"strategy": "bottom"}, (0, 1, 2, 3, 4, 5)),
        ({"strategy": "even", "reduction": 3}, (0, 4, 7, 11)),
        ({"strategy": "even", "reduction": 12}, (0,)),
        ({"strategy": "outer"}, (0, 2, 4, 9, 10, 11)),
        ({"strategy": "outer", "reduction": 4}, (0, 10, 11)),
        ({"strategy": "outer", "reduction": 12}, (11,)),
        ({"strategy": "outer", "reduction": 12, "first": True}, (0,)),
        ({"first": True}, (0, 3, 5, 7, 9, 11)),
        ({"strategy": "alternate"}, (0, 2, 4, 6, 8, 10)),
        ({"strategy": "alternate", "reduction": 3}, (0, 3, 6, 9)),
        ({"strategy": "last-k", "reduction": 3}, (8, 9, 10, 11)),
        ({"strategy": "last-k", "first": True}, (0, 7, 8, 9, 10, 11)),
    ],
)
def test_blocks_give_their_last_layer(settings: Any, expected: tuple[int, ...]) -> None:
    assert layer_map(12, **settings) == expected


@pytest.mark.parametrize("layers", ["last", "bottom", "even", "outer", (0, 2, 3)])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_student_computes_what_the_truncated_teacher_does(
    make_masked_lm: Callable[..., Any], family: str, layers: Any
) -> None:
    """The oracle cuts the teacher by running its layers one after the other, by hooks that skip the others."""
    teacher = make_masked_lm(family)
    chosen = choose_layers(teacher, layers=layers)
    ids = torch.randint(60, (2, 11))

    student = student_of(teacher, chosen)

    actual = student(input_ids=ids).logits
    skipped = set(range(4)) - set(chosen)
    for number in skipped:
        layer = _layers(teacher)[number]
        layer.register_forward_hook(lambda _m, inputs, output: (inputs[0], *output[1:]) if isinstance(output, tuple) else inputs[0])  # fmt: skip
    assert torch.equal(actual, teacher(input_ids=ids).logits)
    assert len(_layers(student)) == len(chosen)


def _layers(model: Any) -> Any:
    return model.base_model.get_submodule(ENTRIES[model.config.model_type].layers)


def test_a_student_shares_no_memory_with_its_teacher_and_drops_nothing_out(
    make_masked_lm: Callable[..., Any],
) -> None:
    teacher = make_masked_lm("bert")
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}

    student = student_of(teacher, (1, 3))
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1.0)

    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())
    assert student.config.hidden_dropout_prob == student.config.attention_probs_dropout_prob == 0
    assert student.get_output_embeddings().weight is student.get_input_embeddings().weight


def test_modernbert_keeps_its_first_layer_first_and_every_layers_window(
    make_masked_lm: Callable[..., Any],
) -> None:
    teacher = make_masked_lm("modernbert", layers=6)

    student = student_of(teacher, choose_layers(teacher))

    kinds = teacher.config.layer_types
    assert choose_layers(teacher) == (0, 3, 5)
    assert student.config.layer_types == [kinds[0], kinds[3], kinds[5]]
    with pytest.raises(ModelError, match="begin with 0"):
        choose_layers(teacher, layers=(1, 3, 5))


def test_random_weights_follow_from_the_seed_alone(make_masked_lm: Callable[..., Any]) -> None:
    teacher = make_masked_lm("bert")

    five, again, six = (student_of(teacher, (1, 3), seed=seed) for seed in (5, 5, 6))

    weights = [model.bert.encoder.layer[0].attention.self.query.weight for model in (five, again, six)]  # fmt: skip
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0], teacher.bert.encoder.layer[1].attention.self.query.weight)


def test_the_place_of_weights_in_memory_makes_no_other_student(
    make_masked_lm: Callable[..., Any],
) -> None:
    """Where a product of one column starts at another place, its last bit can differ, as it does without AVX-512."""
    settings = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "num_hidden_layers": 4}  # fmt: skip
    teacher = BertForSequenceClassification(BertConfig(vocab_size=60, num_labels=1, **settings)).eval()  # fmt: skip
    weight, room = teacher.classifier.weight.detach().clone(), torch.empty(64)
    for place in range(16):
        moved = room[place : place + weight.numel()].view(weight.shape)
        moved.copy_(weight)
        teacher.classifier.weight.data = moved

        student = student_of(teacher, (1, 3))

        assert torch.equal(student.classifier.weight, moved)


def test_a_wrong_copy_is_caught(make_masked_lm: Callable[..., Any]) -> None:
    teacher = make_masked_lm("bert")
    student = student_of(teacher, (1, 3))

    with pytest.raises(ModelError, match="does not compute what layers"):
        require_equal_to_truncated(student, teacher, (0, 3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reduction": 3}, r"reduction 3 does not divide the teacher's 4 layers; choose one of 1, 2, 4"),
        ({"reduction": 0}, "reduction 0 does not divide"),
        ({"layers": "top"}, "layers must be one of last, bottom, even"),
        ({"layers": (1, 4)}, "ascending numbers from 0 to 3"),
        ({"layers": (3, 1)}, "ascending numbers"),
        ({"layers": ()}, "ascending numbers"),
    ],
)  # fmt: skip
def test_maps_that_make_no_sense_are_refused(
    make_masked_lm: Callable[..., Any], settings: Any, message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        choose_layers(make_masked_lm("bert"), **settings)


def test_making_a_student_leaves_the_callers_random_numbers_alone(
    make_masked_lm: Callable[..., Any],
) -> None:
    teacher = make_masked_lm("bert")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)

    student_of(teacher, (1, 3))
    student_of(teacher, (1, 3), seed=2)

    assert torch.equal(torch.rand(3), expected)
