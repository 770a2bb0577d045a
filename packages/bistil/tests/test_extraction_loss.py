"""The loss inside the student's forward pass, term by term against plain formulae."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bistil.encoders.capture import capture_activations
from bistil.errors import ModelError
from bistil.losses.extraction import ExtractionModel, TeacherRunner, freeze_unreached
from bistil.losses.table import ADAPT_TERMS, EXTRACT_TERMS, settings_of
from bistil.losses.weights import PRESETS, LossWeights, TaskLossWeights
from bistil.student.layers import student_of

LAYERS = (1, 3)
PINNED = (0, 3)  # of ModernBERT, whose first layer is like no other
EVERY = LossWeights(attention=3, hidden=1, mlm=0.5, logits=2, relations=0.7, cosine=1.5)


def _batch(rows: int = 4) -> dict[str, Any]:
    random = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 60, (rows, 20), generator=random)
    labels = torch.full_like(ids, -100)
    for row in labels:
        row[torch.randperm(20, generator=random)[:3]] = 7
    return {"input_ids": ids, "labels": labels, "language": "en"}


def _pair(make: Callable[..., Any], family: str = "bert", loss: LossWeights = EVERY) -> tuple[Any, ExtractionModel]:  # fmt: skip
    teacher = make(family).double()
    layers = PINNED if family == "modernbert" else LAYERS
    student = student_of(teacher, layers)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return teacher, _in_training(student, teacher, loss, layers)


def _in_training(student: Any, teacher: Any, loss: LossWeights, layers: tuple[int, ...] = LAYERS, **options: Any) -> ExtractionModel:  # fmt: skip
    runner = TeacherRunner(teacher, loss, layers)
    return ExtractionModel(student, runner, weights=loss, layers=layers, positions=3, **options)


def test_the_teacher_takes_no_gradients(make_masked_lm: Callable[..., Any]) -> None:
    teacher, model = _pair(make_masked_lm)
    model(**_batch()).loss.backward()
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert all(parameter.grad is not None for parameter in model.student.bert.encoder.parameters())


def test_each_term_is_its_formula(make_masked_lm: Callable[..., Any]) -> None:
    teacher, model = _pair(make_masked_lm)
    student, batch = model.student, _batch()

    output = model(**batch)

    asked = batch["labels"] >= 0
    logits_s, logits_t = (model(input_ids=batch["input_ids"]).logits[asked] for model in (student, teacher))  # fmt: skip
    last_s, last_t = (model.bert(input_ids=batch["input_ids"]).last_hidden_state for model in (student, teacher))  # fmt: skip
    soft_s, soft_t = (F.log_softmax(logits / 2, -1) for logits in (logits_s, logits_t))
    expected = {
        "mlm": F.cross_entropy(logits_s, batch["labels"][asked]),
        "logits": 4 * F.kl_div(soft_s, soft_t, log_target=True, reduction="batchmean"),
        "cosine": 1 - F.cosine_similarity(last_s, last_t, dim=-1).mean(),
        "relations": _relations(student, teacher, batch["input_ids"], heads=16),
    }
    for name, value in expected.items():
        torch.testing.assert_close(output.terms[name], value.detach(), rtol=1e-5, atol=1e-7, check_dtype=False)  # fmt: skip
    total = sum(weight * output.terms[name] for name, weight in EVERY.items())
    torch.testing.assert_close(output.loss.detach(), total)


def test_relation_heads_divide_the_width_of_student_and_teacher(
    make_masked_lm: Callable[..., Any],
) -> None:
    """Four times the attention's heads, 16, divide the student's 16 units and not the teacher's 24: so 4 it is."""
    loss = LossWeights(attention=0, hidden=0, relations=1)
    teacher = make_masked_lm("bert", hidden_size=24).double()
    student = make_masked_lm("bert", hidden_size=16, layers=2, seed=1).double()
    batch = _batch()

    output = _in_training(student, teacher, loss, projection=torch.eye(24)[:, :16])(**batch)

    expected = _relations(student, teacher, batch["input_ids"], heads=4)
    torch.testing.assert_close(output.terms["relations"], expected, rtol=1e-5, atol=1e-7, check_dtype=False)  # fmt: skip


def test_every_weight_is_of_a_term_with_a_plain_name() -> None:
    for weights, table in ((LossWeights, EXTRACT_TERMS), (TaskLossWeights, ADAPT_TERMS)):
        named = {term.name for term in table if term.plain_name and callable(term.loss)}
        assert set(weights().to_json()) - set(settings_of(table)) == named
        assert len(named) == len(table)


def _relations(student: Any, teacher: Any, ids: Tensor, *, heads: int) -> Tensor:
    """MiniLMv2's, of projections taken by hooks."""
    losses = []
    for part in ("query", "key", "value"):
        relations = []
        for model, layer in ((student, 1), (teacher, 3)):
            seen: list[Tensor] = []
            linear = getattr(model.bert.encoder.layer[layer].attention.self, part)
            hook = linear.register_forward_hook(lambda _m, _i, output, seen=seen: seen.append(output))  # fmt: skip
            model.bert(input_ids=ids)
            hook.remove()
            split = seen[0].unflatten(2, (heads, -1)).transpose(1, 2)
            relations.append(F.log_softmax(split @ split.mT / split.shape[-1] ** 0.5, -1))
        mine, its = relations
        losses.append((its.exp() * (its - mine)).sum(-1).mean())
    return torch.stack(losses).mean()


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_a_batch_is_the_mean_of_its_halves_and_so_are_its_gradients(
    make_masked_lm: Callable[..., Any], family: str
) -> None:
    """So two processes, or two accumulated batches, do what one batch of both does."""
    _, model = _pair(make_masked_lm, family)
    student, batch = model.student, _batch()

    model(**batch).loss.backward()
    whole = {name: parameter.grad.clone() for name, parameter in student.named_parameters() if parameter.grad is not None}  # fmt: skip
    student.zero_grad()
    for half in (slice(0, 2), slice(2, 4)):
        part = {**batch, "input_ids": batch["input_ids"][half], "labels": batch["labels"][half]}
        (model(**part).loss / 2).backward()

    for name, parameter in student.named_parameters():
        if name in whole:
            torch.testing.assert_close(parameter.grad, whole[name], rtol=1e-5, atol=1e-8)


def test_no_gradient_reaches_the_teacher_and_no_module_of_it_the_student(
    make_masked_lm: Callable[..., Any],
) -> None:
    teacher, model = _pair(make_masked_lm)

    model(**_batch()).loss.backward()

    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert {id(one) for one in model.modules()}.isdisjoint(id(one) for one in teacher.modules())
    expected = {f"student.{name}" for name in student_of(teacher, LAYERS).state_dict()}
    assert set(model.state_dict()) == expected


def test_the_student_beside_its_loss_answers_as_the_stock_model_does(
    make_masked_lm: Callable[..., Any],
) -> None:
    teacher = make_masked_lm("bert")
    student = student_of(teacher, LAYERS)
    batch = {name: value for name, value in _batch().items() if name != "language"}
    expected = student(**batch)

    model = _in_training(student, teacher, EVERY)
    model(**_batch())

    assert type(model.student).__name__ == "BertForMaskedLM"
    assert torch.equal(model.student(**batch).logits, expected.logits)
    assert torch.equal(model.student(**batch).loss, expected.loss)


@pytest.mark.parametrize(
    ("style", "unreached"),
    [("bistil", ["cls.", "nothing"]), ("distilmbert", []), ("mlm", [])],
)
def test_what_no_term_reaches_is_frozen_and_nothing_else(
    make_masked_lm: Callable[..., Any], style: str, unreached: list[str]
) -> None:
    _, model = _pair(make_masked_lm, loss=PRESETS[style])
    student = model.student

    frozen = freeze_unreached(model, _batch())

    names = {name for name, parameter in student.named_parameters() if not parameter.requires_grad}
    assert names == {
        name for name, _ in student.named_parameters() if name.startswith(tuple(unreached))
    }
    assert frozen == sum(student.get_parameter(name).numel() for name in names)
    assert all(parameter.grad is None for parameter in student.parameters())


def test_relations_need_queries(make_masked_lm: Callable[..., Any]) -> None:
    _, model = _pair(make_masked_lm, "deberta-v2", PRESETS["minilmv2"])

    with pytest.raises(ModelError, match="leave the weight of relations at 0"):
        model(**_batch())


def test_attention_that_takes_gradients_is_single_inside_half_precision_on_a_processor(
    make_masked_lm: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, ids, read = make_masked_lm("bert"), torch.arange(5, 29).view(2, 12), []
    stock = F.scaled_dot_product_attention

    def attention(query: Tensor, *operands: Any, **options: Any) -> Tensor:
        read.append((query.dtype, torch.is_autocast_enabled("cpu")))
        return stock(query, *operands, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", attention)
    for gradients in (True, False):
        read.clear()
        half = torch.autocast("cpu", dtype=torch.bfloat16)
        with torch.set_grad_enabled(gradients), half, capture_activations(model) as activations:
            model.bert(ids)
        assert {*read} == {(torch.float32, False) if gradients else (torch.bfloat16, True)}
        assert activations.attention[0].queries is not None
        assert activations.attention[0].queries.dtype == torch.bfloat16
