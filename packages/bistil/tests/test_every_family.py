"""Every architecture of the table goes the whole way from a teacher to a task student, or is refused by name.

That graphs of all of them answer as torch does is in `test_export.py`.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification

from bistil.encoders.body import body_digests, body_parameters
from bistil.encoders.capture import layers_of
from bistil.errors import ModelError
from bistil.export.measure import measure
from bistil.extract.config import Extraction
from bistil.extract.run import extract
from bistil.lottery.config import Sparsity
from bistil.sparse.apply import apply
from bistil.sparse.files import read_sparse
from bistil.student.layers import choose_layers, student_of
from bistil.tasks.adapt import TASK_FILE, TaskTeacher, adapt
from bistil.tasks.teacher import task_sft
from bistil.tasks.training import TaskTraining
from teacherzoo.encoders.families import FAMILIES
from xeval import LocalFolder, Protocol, read_finetuned

EXTRACTION = Extraction(
    steps=3, batch=4, length=32, learning_rate=1e-3, held_out_share=0.1, checkpoint_every=3, feed_forward=24, units="taylor", precision="float32"
)  # fmt: skip
TRAINING = TaskTraining(
    protocol=Protocol(
        steps=2, evaluate_every=2, batch_size=6, learning_rate=3e-3, max_length=40, precision="float32"
    ),
    sparsity=Sparsity(density=0.08, full_steps=2),
)  # fmt: skip
REACHED = [name for name, family in FAMILIES.items() if not family.unreached]
# CamemBERT and RoBERTa have one entry with XLM-R and are tried wherever a model runs forward.
DIFFERENT = {FAMILIES[name]: name for name in REACHED}.values()


@pytest.mark.parametrize("name", DIFFERENT)
def test_a_family_goes_through_every_feature(
    name: str,
    save_teacher: Callable[..., Path],
    texts: dict[str, Path],
    tasks: Path,
    tmp_path: Path,
) -> None:
    teacher, family = save_teacher(tmp_path / "teacher", name), FAMILIES[name]
    on_pos = {"task": "pos", "source": LocalFolder(tasks), "language": "en", "training": TRAINING}

    # extract: layers copied, narrowed to half of the heads where they can be, attention and states compared
    extraction = EXTRACTION if family.fixed_width else replace(EXTRACTION, width=16, heads=2)
    languages = {language: texts[language] for language in ("en", "sw")}
    student = extract(teacher, languages, tmp_path / "student", source="en", targets=["sw"], extraction=extraction)  # fmt: skip
    config = AutoModelForMaskedLM.from_pretrained(student).config
    first = 0 if family.first_layer_pinned else 1
    plan = json.loads((student / "run.json").read_text())
    assert (config.model_type, plan["plan"]["layers"]) == (name, [first, 3])
    assert getattr(config, family.width) == (32 if family.fixed_width else 16)
    assert getattr(config, family.inner) == 24
    assert config.num_attention_heads == (4 if family.fixed_width else 2)
    before, after = (plan["held_out"][when]["sw"] for when in ("before", "after"))
    assert sum(after.values()) < sum(before.values())
    assert min(after["attention"], after["hidden"]) > 0

    # sft: the teacher learns a task, sparsely
    sft = task_sft(teacher, tmp_path / "pos.safetensors", **on_pos)
    whole = AutoModelForMaskedLM.from_pretrained(teacher)
    assert sft.base == body_digests(whole)

    # adapt: the student learns it of that teacher; what it saves is the file on the student
    adapted = adapt(student, tmp_path / "adapted", teacher=TaskTeacher(model=teacher, task_sft=tmp_path / "pos.safetensors"), **on_pos)  # fmt: skip
    plain, tuned = AutoModelForMaskedLM.from_pretrained(student), read_finetuned(adapted)
    apply(plain, read_sparse(adapted / TASK_FILE))
    saved = body_parameters(tuned.model)
    assert all(torch.equal(tensor, saved[part]) for part, tensor in body_parameters(plain).items())

    # measure: what one answer costs
    figures = measure(student, threads=1, length=16, repeats=1)
    assert figures.one.parameters.total == AutoModelForMaskedLM.from_pretrained(student).num_parameters()  # fmt: skip
    assert 0 < figures.one.flops < measure(teacher, threads=1, length=16, repeats=1).one.flops


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in REACHED])
def test_a_family_whose_attention_cannot_be_reached_is_refused_with_the_reason(
    name: str, make_masked_lm: Callable[..., object]
) -> None:
    model = make_masked_lm(name)
    for refused in (choose_layers, lambda teacher: student_of(teacher, (0, 1))):
        with pytest.raises(ModelError) as caught:
            refused(model)
        assert f"the attention of a {name!r} model cannot be reached, for {FAMILIES[name].unreached}; the families are" in str(caught.value)  # fmt: skip


@pytest.mark.parametrize("name", DIFFERENT)
def test_an_encoder_of_every_family_is_cut_without_a_head_and_with_a_classifiers(
    name: str, make_masked_lm: Callable[..., object]
) -> None:
    layers = (0, 3)
    config = make_masked_lm(name).config  # type: ignore[attr-defined]
    for kind in (AutoModel, AutoModelForSequenceClassification):
        model = kind.from_config(config).eval()

        student = student_of(model, layers)  # compared with the teacher's own layers, bit for bit

        assert type(student) is type(model)
        assert len(layers_of(student)) == 2
