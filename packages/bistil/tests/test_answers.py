"""The terms on a classifier's or reranker's logits, beside the formulas written out."""

import pytest
import torch
from transformers import (
    BertConfig,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
)

from bistil.encoders.answers import answers_of
from bistil.encoders.capture import Activations
from bistil.losses.outputs import LossContext, ModelOutputs
from bistil.losses.terms.answers import answers_loss
from bistil.losses.terms.answers_mse import answers_mse_loss

CONTEXT = LossContext(settings={"temperature": 2.0})
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])


def _outputs(**answers: torch.Tensor) -> ModelOutputs:
    return ModelOutputs(activations=Activations(), answers=answers)


def test_one_answer_of_several_is_compared_by_softmaxes() -> None:
    student, teacher = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    p, q = (teacher / 2).softmax(-1), (student / 2).softmax(-1)

    value = answers_loss(_outputs(labels=student), _outputs(labels=teacher), CONTEXT)

    torch.testing.assert_close(value, 4 * (p * (p.log() - q.log())).sum(-1).mean())
    square = answers_mse_loss(_outputs(labels=student), _outputs(labels=teacher), CONTEXT)
    torch.testing.assert_close(square, (student - teacher).square().mean())


def test_answers_that_exclude_nothing_are_compared_as_coins() -> None:
    student, teacher = torch.randn(2, 5, 2, generator=torch.Generator().manual_seed(0))
    p, q = (teacher / 2).sigmoid(), (student / 2).sigmoid()
    expected = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()

    value = answers_loss(_outputs(independent=student), _outputs(independent=teacher), CONTEXT)

    torch.testing.assert_close(value, 4 * expected.sum(-1).mean())


def test_where_an_answer_begins_and_ends_padding_is_no_choice() -> None:
    student, teacher = torch.randn(2, 2, 2, 4, generator=torch.Generator().manual_seed(0))
    hidden = MASK == 0
    sides = [
        {
            end: side[number].masked_fill(hidden, float("-inf"))
            for number, end in enumerate(("start", "end"))
        }
        for side in (student.requires_grad_(), teacher)
    ]

    value = answers_loss(_outputs(**sides[0]), _outputs(**sides[1]), CONTEXT)
    square = answers_mse_loss(_outputs(**sides[0]), _outputs(**sides[1]), CONTEXT)
    (value + square).backward()

    divergences = [
        torch.nn.functional.kl_div((student[end, row, :size] / 2).log_softmax(-1), (teacher[end, row, :size] / 2).softmax(-1), reduction="sum")
        for end in (0, 1) for row, size in ((0, 4), (1, 2))
    ]  # fmt: skip
    torch.testing.assert_close(value, 4 * torch.stack(divergences).mean())
    real = MASK.bool().expand(2, 2, 4)
    torch.testing.assert_close(square, (student - teacher)[real].square().mean())
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        (BertForSequenceClassification, {"num_labels": 3}, {"labels": (2, 3)}),
        (BertForSequenceClassification, {"num_labels": 1}, {"independent": (2, 1)}),
        (
            BertForSequenceClassification,
            {"num_labels": 3, "problem_type": "multi_label_classification"},
            {"independent": (2, 3)},
        ),
        (BertForTokenClassification, {"num_labels": 3}, {"labels": (6, 3)}),
        (BertForQuestionAnswering, {}, {"start": (2, 4), "end": (2, 4)}),
    ],
)
def test_a_head_says_what_its_logits_stand_for(
    kind: type, options: dict[str, object], expected: dict[str, tuple[int, ...]]
) -> None:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}  # fmt: skip
    model = kind(BertConfig(vocab_size=20, **sizes, **options)).eval()

    answers = answers_of(model(torch.arange(8).view(2, 4), attention_mask=MASK), model.config, MASK)

    assert {name: tuple(logits.shape) for name, logits in answers.items()} == expected
    if "start" in answers:
        assert torch.isneginf(answers["start"][1, 2:]).all()
