import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from bistil.encoders.capture import capture_activations
from bistil.encoders.pooling import SentenceEncoder, read_sentence_modules
from bistil.errors import ModelError
from bistil.losses.outputs import LossContext, ModelOutputs
from bistil.losses.rows import SentenceExtractionModel, SentenceTeacher
from bistil.losses.terms.attention import attention_loss
from bistil.losses.terms.hidden import hidden_loss
from bistil.losses.weights import LossWeights
from teacherzoo import TeacherError

SENTENCES = ["abc def gh.", "mno.", "hg fe dc ba abc def gh hg fe dc ba."]


@pytest.fixture(scope="module")
def opened(sentence_teacher: Path) -> SentenceEncoder:
    """As sentence-transformers wrote it: mean pooling, a Dense, a norm."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(sentence_teacher), device="cpu")
    return SentenceEncoder(model[0].auto_model, read_sentence_modules(sentence_teacher).modules).eval()  # fmt: skip


def test_vectors_are_those_of_sentence_transformers(sentence_teacher: Path, opened: SentenceEncoder) -> None:  # fmt: skip
    from sentence_transformers import SentenceTransformer

    parts = read_sentence_modules(sentence_teacher)
    batch = parts.tokenizer(["ask: " + text for text in SENTENCES], padding=True, return_tensors="pt")  # fmt: skip

    with torch.no_grad():
        vectors = opened(batch["input_ids"], batch["attention_mask"])

    expected = SentenceTransformer(str(sentence_teacher), device="cpu").encode(SENTENCES, prompt_name="query", convert_to_tensor=True)  # fmt: skip
    assert torch.allclose(vectors, expected, atol=1e-6)
    assert parts.prompts["query"] == "ask: "
    assert parts.default_prompt == ""
    assert parts.max_length == 40
    assert parts.dimension == vectors.shape[1] == 24
    assert parts.folders == ("1_Pooling", "2_Dense", "3_Normalize")


def test_a_prompt_that_pooling_leaves_out_is_left_out(tmp_path: Path, sentence_teacher: Path) -> None:  # fmt: skip
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    model = SentenceTransformer(str(sentence_teacher), device="cpu")
    model[1] = Pooling(32, "mean", include_prompt=False)
    model.save(str(tmp_path))
    parts = read_sentence_modules(tmp_path)
    encoder = SentenceEncoder(model[0].auto_model, parts.modules).eval()
    batch = parts.tokenizer(["ask: " + text for text in SENTENCES], padding=True, return_tensors="pt")  # fmt: skip

    with torch.no_grad():
        vectors = encoder(batch["input_ids"], batch["attention_mask"], prompt_length=len(parts.tokenizer("ask: ")["input_ids"]) - 1)  # fmt: skip

    expected = model.encode(SENTENCES, prompt="ask: ", convert_to_tensor=True)
    assert torch.allclose(vectors, expected, atol=1e-6)


def test_a_folder_without_modules_is_refused_with_the_next_step(teacher: Path) -> None:
    with pytest.raises(TeacherError, match=r"no modules.json.*Pooling\(width, 'mean'\)"):
        read_sentence_modules(teacher)


def test_a_module_that_is_not_known_is_refused_by_name(tmp_path: Path, sentence_teacher: Path) -> None:  # fmt: skip
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import WeightedLayerPooling

    model = SentenceTransformer(str(sentence_teacher), device="cpu")
    model.insert(1, WeightedLayerPooling(32, num_hidden_layers=4, layer_start=2))
    model.save(str(tmp_path))

    with pytest.raises(ModelError, match="module WeightedLayerPooling is not known"):
        read_sentence_modules(tmp_path)


def _losses(opened: SentenceEncoder, **weights: float) -> tuple[SentenceExtractionModel, SentenceEncoder]:  # fmt: skip
    student = copy.deepcopy(opened).requires_grad_(True)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.mul_(1.1)
    chosen, layers = LossWeights.only(**weights), range(4)
    taught = SentenceTeacher(opened, chosen, layers)
    return SentenceExtractionModel(student, taught, weights=chosen, layers=layers), student


@pytest.fixture
def batch(sentence_teacher: Path) -> dict[str, Any]:
    rows = read_sentence_modules(sentence_teacher).tokenizer(SENTENCES, padding=True, return_tensors="pt")  # fmt: skip
    names = ("input_ids", "attention_mask")
    return {**{name: rows[name] for name in names}, "prompt_length": torch.tensor(0)}


def test_terms_on_layers_and_on_vectors_are_those_of_their_functions_on_real_tokens(
    opened: SentenceEncoder, batch: dict[str, Any]
) -> None:
    model, student = _losses(opened, attention=1, hidden=2, cosine=1, embedding=3, similarity=0.5)

    output = model(language="en", **batch)

    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    context = LossContext(layers=range(4), real=batch["attention_mask"].bool())
    with torch.no_grad(), capture_activations(student) as seen_s, capture_activations(opened) as seen_t:  # fmt: skip
        for encoder in (student, opened):
            encoder(**inputs)
    outputs = ModelOutputs(activations=seen_s), ModelOutputs(activations=seen_t)
    assert float(output.terms["hidden"]) == pytest.approx(float(hidden_loss(*outputs, context)), rel=1e-5)  # fmt: skip
    assert float(output.terms["attention"]) == pytest.approx(float(attention_loss(*outputs, context)), rel=1e-4)  # fmt: skip
    real = batch["attention_mask"].bool()
    assert seen_s.last is not None
    assert seen_t.last is not None
    cosines = torch.cosine_similarity(seen_s.last[real], seen_t.last[real], dim=-1)
    assert float(output.terms["cosine"]) == pytest.approx(1 - float(cosines.mean()), rel=1e-4)
    weights = {"attention": 1, "hidden": 2, "cosine": 1, "embedding": 3, "similarity": 0.5}
    expected = sum(weight * float(output.terms[name]) for name, weight in weights.items())
    assert output.loss.item() == pytest.approx(expected, rel=1e-5)


def test_vectors_alone_are_taught_through_attention_in_single_precision(
    opened: SentenceEncoder, batch: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a processor the backward pass of SDPA in bfloat16 is several times slower."""
    model, _ = _losses(opened, embedding=1)
    attend, types = torch.nn.functional.scaled_dot_product_attention, []

    def noted(query: torch.Tensor, *rest: Any, **named: Any) -> torch.Tensor:
        if query.requires_grad:
            types.append(query.dtype)
        return attend(query, *rest, **named)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", noted)
    with torch.autocast("cpu", torch.bfloat16):
        model(language="en", **batch)

    assert types == [torch.float32] * 4


def test_recorded_vectors_stand_for_the_teacher(
    opened: SentenceEncoder, batch: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = _losses(opened, embedding=1, similarity=1)
    expected = model(language="en", **batch).loss.item()
    with torch.no_grad():
        recorded = opened(batch["input_ids"], batch["attention_mask"])
    monkeypatch.setattr(opened, "forward", None)

    loss = model(language="en", **batch, teacher_vectors=recorded).loss.item()

    assert loss == pytest.approx(expected, rel=1e-6)


def test_on_pairs_the_parallel_term_alone_is_computed_with_both_sides(
    opened: SentenceEncoder, batch: dict[str, Any]
) -> None:
    model, student = _losses(opened, hidden=1, embedding=1, parallel=1)
    sources = {f"source_{name}": batch[name][[1, 0, 2]] for name in ("input_ids", "attention_mask")}

    output = model(language="en", **batch, **sources)
    output.loss.backward()

    assert set(output.terms) == {"parallel"}
    assert set(model(language="en", **batch).terms) == {"hidden", "embedding"}
    assert student.pooling[1].linear.weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in opened.parameters())


def test_without_sentence_transformers_the_refusal_says_what_to_install(
    sentence_teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)

    with pytest.raises(TeacherError, match="not installed; pip install sentence-transformers"):
        read_sentence_modules(sentence_teacher)
