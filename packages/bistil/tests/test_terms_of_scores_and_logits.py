"""Scores before the softmax against what transformers' eager attention hands to it; logits against the stock head's own."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from typer.testing import CliRunner

from bistil.cli.app import app
from bistil.encoders.capture import capture_activations
from bistil.errors import ModelError
from bistil.extract import run
from bistil.extract.config import Extraction
from bistil.losses.extraction import ExtractionModel, TeacherRunner
from bistil.losses.outputs import LossContext, ModelOutputs
from bistil.losses.terms import logits_mse
from bistil.losses.terms.scores import scores_loss
from bistil.losses.weights import LossWeights
from vocabmerge import Kind

LAYERS = (1, 3)


def _padded() -> dict[str, Tensor]:
    ids = torch.randint(5, 60, (3, 18), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 15:] = 0
    mask[2, 14:] = (
        0  # further padding would leave local queries without a key, of which eager attention makes NaN
    )
    return {"input_ids": ids.masked_fill(mask == 0, 0), "attention_mask": mask}


def _pair(make: Callable[..., Any], family: str) -> tuple[Any, Any]:
    """A student of two layers and a teacher of four with other weights, in float64; ModernBERT's with local attention alone."""
    local = {} if family != "modernbert" else {"layer_types": ["sliding_attention"] * 4}
    few = {name: kinds[:2] for name, kinds in local.items()}
    return make(family, seed=1, layers=2, **few).double(), make(family, **local).double()


def _eager_scores(model: Any, batch: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:  # fmt: skip
    """Per layer [B, h, S, S] what the eager attention of transformers gives the softmax, hidden pairs far below all others."""
    before, softmax, scores = model.config._attn_implementation, F.softmax, []

    def recorded(weights: Tensor, *arguments: Any, **options: Any) -> Tensor:
        scores.append(weights)
        return softmax(weights, *arguments, **options)

    model.config._attn_implementation = "eager"
    with monkeypatch.context() as patched:
        patched.setattr(F, "softmax", recorded)
        maps = model(**batch, output_attentions=True).attentions
    model.config._attn_implementation = before
    for weights, probabilities in zip(scores, maps, strict=True):
        torch.testing.assert_close(
            weights.float().softmax(-1), probabilities.float(), equal_nan=True
        )
    return scores


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("family", ["bert", "xlm-roberta", "modernbert"])
def test_scores_are_those_that_eager_attention_gives_its_softmax(
    make_masked_lm: Callable[..., Any], family: str, padded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    student, teacher = _pair(make_masked_lm, family)
    batch = _padded() if padded else {"input_ids": _padded()["input_ids"].clamp(min=5)}
    real = batch["attention_mask"].bool() if padded else torch.ones(3, 18, dtype=torch.bool)

    with capture_activations(student) as seen_s, capture_activations(teacher, layers=LAYERS) as seen_t:  # fmt: skip
        student(**batch)
        with torch.no_grad():
            teacher(**batch)
    context = LossContext(layers=LAYERS, real=real if padded else None)
    loss = scores_loss(ModelOutputs(activations=seen_s), ModelOutputs(activations=seen_t), context)
    gradient = torch.autograd.grad(loss, (parameters := _attention_weights(student)))

    of_student, of_teacher = (_eager_scores(model, batch, monkeypatch) for model in (student, teacher))  # fmt: skip
    layers = []
    for number, taught in enumerate(LAYERS):
        a, b = of_student[number], of_teacher[taught].detach()
        counted = (b > -1e30) & real[:, None, :, None]
        layers.append((a - b)[counted].square().mean())
    expected = torch.stack(layers).mean()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, parameters))
    if family == "modernbert":
        assert not counted.all()  # the window hides pairs of real tokens


def _attention_weights(model: Any) -> list[Tensor]:
    return [weights for name, weights in model.named_parameters() if any(part in name for part in ("query.weight", "Wqkv"))]  # fmt: skip


def test_scores_of_an_architecture_with_relative_parts_are_refused(
    make_masked_lm: Callable[..., Any],
) -> None:
    model = make_masked_lm("deberta-v2")
    with capture_activations(model) as seen:
        model(torch.arange(5, 17).view(2, 6))
    outputs = ModelOutputs(activations=seen)

    with pytest.raises(ModelError, match="leave the weight of scores at 0"):
        scores_loss(outputs, outputs, LossContext(layers=(0,)))


def _in_training(student: Any, teacher: Any, loss: LossWeights) -> ExtractionModel:
    return ExtractionModel(student, TeacherRunner(teacher, loss, LAYERS), weights=loss, layers=LAYERS, positions=3)  # fmt: skip


def _masked() -> dict[str, Any]:
    ids = torch.randint(5, 60, (4, 20), generator=torch.Generator().manual_seed(0))
    labels = torch.full_like(ids, -100)
    labels[:, 3:6] = 7
    return {"input_ids": ids, "labels": labels, "language": "en"}


@pytest.mark.parametrize("family", ["bert", "xlm-roberta", "modernbert"])
def test_logits_mse_is_that_of_the_stock_heads_however_few_positions_are_taken_at_once(
    make_masked_lm: Callable[..., Any], family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    student, teacher = _pair(make_masked_lm, family)
    model, batch, rows = _in_training(student, teacher, LossWeights.only(logits_mse=1)), _masked(), []  # fmt: skip
    logits = logits_mse._logits

    def counted(few: Tensor, decoder: Any) -> Tensor:
        rows.append(len(few))
        return logits(few, decoder)

    monkeypatch.setattr(logits_mse, "_logits", counted)
    monkeypatch.setattr(logits_mse, "_BYTES", 5 * 4 * 60)
    output = model(**batch)
    output.loss.backward()
    actual = {name: weights.grad.clone() for name, weights in student.named_parameters() if weights.grad is not None}  # fmt: skip

    student.zero_grad()
    asked = batch["labels"] >= 0
    z_s, z_t = (whole(input_ids=batch["input_ids"]).logits[asked] for whole in (student, teacher))
    expected = F.mse_loss(z_s, z_t.detach())
    expected.backward()
    torch.testing.assert_close(output.loss.detach(), expected.detach())
    assert max(rows) == 5  # of twelve, in the backward pass as well
    assert len(rows) == 2 * 2 * 3
    for name, gradient in actual.items():
        torch.testing.assert_close(gradient, student.get_parameter(name).grad)


def test_a_high_temperature_leads_the_divergence_to_half_the_mean_square_of_centred_logits(
    make_masked_lm: Callable[..., Any],
) -> None:
    """Kim et al. (2021), their section on the limit: T² KL = 1/(2V) Σ (Δz - mean Δz)² + O(1/T)."""
    student, teacher = _pair(make_masked_lm, "bert")
    for model in (student, teacher):  # logits whose mean over the vocabulary is 0 in every row
        decoder = model.cls.predictions.decoder
        weight = decoder.weight.detach()
        decoder.weight = torch.nn.Parameter(weight - weight.mean(0))

    loss = LossWeights.only(logits=1, logits_mse=1, temperature=1e4)
    terms = _in_training(student, teacher, loss)(**_masked()).terms

    torch.testing.assert_close(terms["logits"].double(), terms["logits_mse"] / 2, rtol=1e-3, atol=0)


def test_the_paper_style_is_the_papers_setting_whatever_the_kind_and_what_is_said_beside_it_holds(
    sentence_teacher: Path, texts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Extraction] = []
    monkeypatch.setattr(run, "extract", lambda *_, extraction, **__: asked.append(extraction) or sys.exit(0))  # fmt: skip
    common = ["extract", str(sentence_teacher), "--source=en", f"--corpus=en={texts['en']}", "-o", str(tmp_path / "out"), "--quiet"]  # fmt: skip
    for options in ([], ["--style=paper"], ["--style=paper", "--layers=alternate", "--warmup=0.1", "--term=relations=1"]):  # fmt: skip
        assert CliRunner().invoke(app, [*common, *options]).exit_code == 0

    own, paper, changed = (extraction.decided(Kind.SENTENCE) for extraction in asked)
    assert (own.layers, own.learning_rate, own.warmup) == ("outer", 1e-3, 0.06)
    assert dict(paper.weights) == {"attention": 1, "hidden": 1}
    assert (paper.layers, paper.learning_rate, paper.warmup) == ("last", 1e-4, 0)
    assert dict(changed.weights) == {"attention": 1, "hidden": 1, "relations": 1}
    assert (changed.layers, changed.learning_rate, changed.warmup) == ("alternate", 1e-4, 0.1)
