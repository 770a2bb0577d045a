"""The loss inside the student's forward pass, term by term against plain formulae."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bistil.errors import ModelError
from bistil.losses.extraction import as_student, ask_teacher, freeze_unreached
from bistil.losses.weights import PLAIN_NAMES, STYLES, TERMS, Terms
from bistil.student.layers import student_of

LAYERS = (1, 3)
PINNED = (0, 3)  # of ModernBERT, whose first layer is like no other
EVERY = Terms(attention=3, hidden=1, mlm=0.5, logits=2, relations=0.7, cosine=1.5)


def _batch(rows: int = 4) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 60, (rows, 20), generator=random)
    labels = torch.full_like(ids, -100)
    for row in labels:
        row[torch.randperm(20, generator=random)[:3]] = 7
    return {"input_ids": ids, "labels": labels}


def _pair(make: Callable[..., Any], family: str = "bert", terms: Terms = EVERY) -> tuple[Any, Any]:
    teacher = make(family).double()
    layers = PINNED if family == "modernbert" else LAYERS
    student = student_of(teacher, layers)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return teacher, as_student(student, terms, layers, positions=3, depth=4)


def _lesson(teacher: Any, student: Any, batch: dict[str, Tensor], terms: Terms = EVERY) -> Any:
    layers = PINNED if teacher.config.model_type == "modernbert" else LAYERS
    return student(**batch, taught=ask_teacher(teacher, batch, terms, layers), lesson=True)


def test_each_term_is_its_formula(make_masked_lm: Callable[..., Any]) -> None:
    teacher, student = _pair(make_masked_lm)
    batch = _batch()

    lesson = _lesson(teacher, student, batch)

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
        torch.testing.assert_close(lesson.terms[name], value.detach(), rtol=1e-5, atol=1e-7, check_dtype=False)  # fmt: skip
    total = sum(weight * lesson.terms[name] for name, weight in EVERY.weights.items())
    torch.testing.assert_close(lesson.loss.detach(), total)


def test_relation_heads_divide_the_width_of_student_and_teacher(
    make_masked_lm: Callable[..., Any],
) -> None:
    """Four times the attention's heads, 16, divide the student's 16 units and not the teacher's 24: so 4 it is."""
    terms = Terms(attention=0, hidden=0, relations=1)
    teacher = make_masked_lm("bert", hidden_size=24).double()
    student = make_masked_lm("bert", hidden_size=16, layers=2, seed=1).double()
    as_student(student, terms, LAYERS, positions=3, depth=4, projection=torch.eye(24)[:, :16])
    batch = _batch()

    lesson = _lesson(teacher, student, batch, terms)

    expected = _relations(student, teacher, batch["input_ids"], heads=4)
    torch.testing.assert_close(lesson.terms["relations"], expected, rtol=1e-5, atol=1e-7, check_dtype=False)  # fmt: skip


def test_every_weight_is_of_a_term_with_a_plain_name() -> None:
    weights = {field.name for field in fields(Terms)} - {"temperature", "relation_heads"}

    assert weights == set(PLAIN_NAMES) == set(TERMS)


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
    teacher, student = _pair(make_masked_lm, family)
    batch = _batch()

    _lesson(teacher, student, batch).loss.backward()
    whole = {name: its.grad.clone() for name, its in student.named_parameters() if its.grad is not None}  # fmt: skip
    student.zero_grad()
    for half in (slice(0, 2), slice(2, 4)):
        (_lesson(teacher, student, {name: its[half] for name, its in batch.items()}).loss / 2).backward()  # fmt: skip

    for name, parameter in student.named_parameters():
        if name in whole:
            torch.testing.assert_close(parameter.grad, whole[name], rtol=1e-5, atol=1e-8)


def test_no_gradient_reaches_the_teacher_and_no_module_of_it_the_student(
    make_masked_lm: Callable[..., Any],
) -> None:
    teacher, student = _pair(make_masked_lm)

    _lesson(teacher, student, _batch()).loss.backward()

    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert {id(one) for one in student.modules()}.isdisjoint(id(one) for one in teacher.modules())
    assert set(student.state_dict()) == set(student_of(teacher, LAYERS).state_dict())


def test_without_a_lesson_a_student_answers_as_the_stock_model_does(
    make_masked_lm: Callable[..., Any],
) -> None:
    teacher = make_masked_lm("bert")
    student = student_of(teacher, LAYERS)
    batch = _batch()
    expected = student(**batch)

    taught = as_student(student, EVERY, LAYERS, positions=3, depth=4)

    assert type(taught).__name__ == "BertForMaskedLM"
    assert torch.equal(taught(**batch).logits, expected.logits)
    assert torch.equal(taught(**batch).loss, expected.loss)


@pytest.mark.parametrize(
    ("style", "unreached"),
    [("bistil", ["cls.", "nothing"]), ("distilmbert", []), ("mlm", [])],
)
def test_what_no_term_reaches_is_frozen_and_nothing_else(
    make_masked_lm: Callable[..., Any], style: str, unreached: list[str]
) -> None:
    terms = STYLES[style]
    teacher, student = _pair(make_masked_lm, terms=terms)
    batch = _batch()

    frozen = freeze_unreached(
        student, batch, ask_teacher(teacher, batch, terms, LAYERS) if terms.taught else None
    )

    names = {name for name, parameter in student.named_parameters() if not parameter.requires_grad}
    assert names == {
        name for name, _ in student.named_parameters() if name.startswith(tuple(unreached))
    }
    assert frozen == sum(student.get_parameter(name).numel() for name in names)
    assert all(parameter.grad is None for parameter in student.parameters())


def test_relations_need_queries(make_masked_lm: Callable[..., Any]) -> None:
    terms = STYLES["minilmv2"]
    teacher, student = _pair(make_masked_lm, "deberta-v2", terms)

    with pytest.raises(ModelError, match="leave the weight of relations at 0"):
        _lesson(teacher, student, _batch(), terms)
