"""A teacher that wears sparse fine-tunings while it teaches."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from bistil.encoders.body import body_digests, body_parameters
from bistil.errors import SparseError
from bistil.extract.config import Extraction
from bistil.extract.run import extract
from bistil.extract.teacher import open_tunings, trimmed_teacher
from bistil.sparse.apply import applied, apply
from bistil.sparse.difference import SparseFineTuning, SparseTensor
from bistil.sparse.files import read_sparse, write_sparse
from teacherzoo import load_teacher

SHORT = Extraction(steps=4, batch=2, length=32, held_out_share=0.1, precision="float32")


@pytest.fixture(scope="module")
def tuning(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Changes every tensor of the teacher's body at one entry in twenty."""
    model = load_teacher(teacher).model
    random = np.random.default_rng(0)
    body = {}
    for name, parameter in body_parameters(model).items():
        indices = np.sort(random.choice(parameter.numel(), max(1, parameter.numel() // 20), replace=False))  # fmt: skip
        values = torch.from_numpy(random.normal(size=len(indices))).float()
        body[name] = SparseTensor(shape=tuple(parameter.shape), indices=indices, values=values)
    file = tmp_path_factory.mktemp("tuning") / "sw.safetensors"
    write_sparse(SparseFineTuning(body=body, base=body_digests(model)), file)
    return file


def test_a_trimmed_teacher_wears_what_the_whole_one_does(
    teacher: Path, tuning: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    files = {"en": [texts["en"]], "sw": [texts["sw"]]}
    lean, whole = (
        trimmed_teacher(teacher, files, tmp_path, SHORT, watch=lambda *_: None),
        load_teacher(teacher),
    )
    line = texts["sw"].read_text().splitlines()[0]
    ids = [AutoTokenizer.from_pretrained(folder)(line, return_tensors="pt")["input_ids"] for folder in (lean.folder, teacher)]  # fmt: skip
    before = {name: its.clone() for name, its in lean.model.state_dict().items()}

    worn_by_lean = open_tunings({"sw": tuning}, whole=teacher, trimmed=lean)
    with applied(lean.model, *worn_by_lean["sw"], check=False), torch.no_grad():
        found = lean.model.base_model(input_ids=ids[0]).last_hidden_state
    apply(whole.model, read_sparse(tuning))
    with torch.no_grad():
        expected = whole.model.base_model(input_ids=ids[1]).last_hidden_state

    assert len(lean.backend.get_vocab()) < len(whole.backend.get_vocab())
    torch.testing.assert_close(found, expected)
    assert all(torch.equal(before[name], its) for name, its in lean.model.state_dict().items())


def test_a_teacher_wears_it_in_the_batches_of_its_language_alone(
    teacher: Path, tuning: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    runs = {}
    for name, sfts in (("bare", {}), ("worn", {"sw": tuning})):
        out = extract(
            teacher, {"en": texts["en"], "sw": texts["sw"]}, tmp_path / name, source="en", targets=["sw"],
            extraction=SHORT, language_sfts=sfts,
        )  # fmt: skip
        runs[name] = json.loads((out / "run.json").read_text())["held_out"]["before"]

    assert runs["worn"]["en"] == runs["bare"]["en"]
    assert runs["worn"]["sw"]["hidden"] > 1.05 * runs["bare"]["sw"]["hidden"]
    assert (
        f"In sw the teacher had the sparse fine-tuning `{tuning.name}` on"
        in (tmp_path / "worn" / "README.md").read_text()
    )


def test_one_of_another_base_model_is_refused(
    save_teacher: Callable[..., Path], tuning: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    other: Any = save_teacher(tmp_path / "other", seed=1)

    with pytest.raises(SparseError, match="made for another base model"):
        extract(
            other, {"en": texts["en"], "sw": texts["sw"]}, tmp_path / "out", source="en", targets=["sw"],
            extraction=SHORT, language_sfts={"sw": tuning},
        )  # fmt: skip
