"""What a student's shape costs, counted before it is made."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors import safe_open
from sentence_transformers import CrossEncoder, SentenceTransformer
from transformers import PreTrainedTokenizerFast

from bistil import Extraction, LossWeights, extract
from bistil.errors import ModelError
from bistil.student.shape import Shape, ShapeSizes
from teacherzoo.encoders.kinds import model_layout
from xeval.cost.parameters import Parameters, parameters_of

FAMILIES = ["bert", "xlm-roberta", "distilbert", "modernbert", "deberta-v2", "eurobert"]


def _students_of(teacher: Path, texts: dict[str, Path], out: Path, **changes: Any) -> Path:
    corpora = {language: texts[language] for language in ("en", "sw")}
    extraction = Extraction(steps=0, batch=2, length=16, precision="float32", **changes)
    return extract(teacher, corpora, out, source="en", targets=["sw"], extraction=extraction)


def _stored(folder: Path) -> int:
    """Bytes of all tensors in the weight files of a folder and its modules."""
    total = 0
    for file in folder.rglob("*.safetensors"):
        if "maps" in file.parts:
            continue
        with safe_open(file, framework="pt") as opened:
            total += sum(4 * opened.get_tensor(name).numel() for name in opened.keys())  # noqa: SIM118 -- no mapping
    return total


@pytest.mark.parametrize("family", FAMILIES)
def test_the_count_of_every_shape_is_that_of_the_model_built_so(
    family: str, make_masked_lm: Callable[..., Any], save_teacher: Callable[..., Path], tmp_path: Path
) -> None:  # fmt: skip
    sizes = ShapeSizes(model_layout(save_teacher(tmp_path / "teacher", family)))
    whole = sizes.shape
    assert sizes.parameters(whole) == parameters_of(tmp_path / "teacher")
    shape = replace(whole, layers=(0, 1, 3), feed_forward=20, pieces=77)
    names = {"distilbert": ("n_layers", "hidden_dim")}.get(family, ("num_hidden_layers", "intermediate_size"))  # fmt: skip
    make_masked_lm(family, pieces=77, layers=3, **dict(zip(names, (3, 20), strict=True))).save_pretrained(tmp_path / "cut")  # fmt: skip
    assert sizes.parameters(shape) == parameters_of(tmp_path / "cut")


@pytest.mark.parametrize("kind", ["masked_lm", "headless", "reranker", "token_classifier"])
def test_a_students_folder_has_the_parameters_and_bytes_that_were_counted(
    kind: str,
    teacher: Path,
    tokenizer: PreTrainedTokenizerFast,
    texts: dict[str, Path],
    tmp_path: Path,
) -> None:
    model = teacher
    changes: dict[str, Any] = {"width": 24} if kind in ("masked_lm", "headless") else {}
    if kind != "masked_lm":
        model = tmp_path / "model"
        encoder = transformers.AutoModel.from_pretrained(teacher, add_pooling_layer=False)
        if kind == "headless":
            encoder.save_pretrained(model)
        elif kind == "reranker":
            CrossEncoder(str(teacher), num_labels=1).save_pretrained(str(model))
        else:
            config = encoder.config
            config.num_labels = 5
            torch.manual_seed(0)
            transformers.BertForTokenClassification(config).save_pretrained(model)
        tokenizer.save_pretrained(model)
    sizes = ShapeSizes(model_layout(model))
    shape = replace(sizes.shape, layers=(0, 2), feed_forward=40, pieces=190, **changes)
    student = _students_of(
        model, texts, tmp_path / "student", layers=(0, 2), feed_forward=40, budget=190, **changes
    )
    assert sizes.parameters(shape).total == parameters_of(student).total
    assert sizes.float_bytes(shape) == _stored(student)


def test_of_a_sentence_encoder_the_modules_behind_it_count_too(
    sentence_teacher: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    sizes = ShapeSizes(model_layout(sentence_teacher))
    assert sizes.behind == 32 * 24 + 24
    shape = replace(sizes.shape, layers=(1, 3), pieces=200)
    student = _students_of(sentence_teacher, texts, tmp_path / "student", layers=(1, 3), budget=200)
    teacher_total, student_total = (
        sum(p.numel() for p in SentenceTransformer(str(folder), device="cpu").parameters())
        for folder in (sentence_teacher, student)
    )
    assert sizes.total(sizes.shape) == parameters_of(sentence_teacher).total == teacher_total
    assert sizes.total(shape) == parameters_of(student).total == student_total
    assert sizes.parameters(shape) == parameters_of(student)
    assert sizes.float_bytes(shape) == _stored(student)
    planned = json.loads((student / "run.json").read_text())["plan"]
    for name, total in (("teacher", teacher_total), ("student", student_total)):
        assert Parameters(**planned[f"{name}_parameters"]).total == total


def test_a_narrower_sentence_encoder_is_counted_without_a_dense_behind_it(
    sentence_teacher: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    modules = [Transformer(str(sentence_teacher)), Pooling(32, "mean"), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path / "plain"))
    shutil.rmtree(tmp_path / "plain" / "2_Normalize", ignore_errors=True)
    sizes = ShapeSizes(model_layout(tmp_path / "plain"))
    shape = Shape(layers=(1, 3), width=18, heads=3, feed_forward=30, pieces=200)
    assert sizes.config(shape).num_attention_heads == 3
    student = _students_of(
        tmp_path / "plain", texts, tmp_path / "student", layers=(1, 3), width=18, heads=3, feed_forward=30, budget=200,
        loss=LossWeights.only(similarity=1, hidden=1),
    )  # fmt: skip
    assert sizes.total(shape) == parameters_of(student).total
    assert sizes.float_bytes(shape) == _stored(student)


def test_what_has_no_layers_to_leave_out_has_no_other_shapes(
    save_teacher: Callable[..., Path], tmp_path: Path
) -> None:
    albert = save_teacher(tmp_path / "albert", "albert", embedding_size=16)
    with pytest.raises(ModelError, match="its layers are one, used over and over"):
        ShapeSizes(model_layout(albert))
