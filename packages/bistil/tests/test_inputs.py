"""A run that goes on: with the same inputs wherever they lie, and never with others under the same name."""

import shutil
from dataclasses import replace

import pytest
from transformers import AutoModelForMaskedLM

from bistil.errors import AdaptError, SparseError
from bistil.lottery.config import Sparsity
from bistil.lottery.language import LanguageTraining, language_sft
from bistil.tasks.adapt import TASK_FILE, adapt
from bistil.tasks.task_sft import task_sft
from bistil.tasks.teacher import TaskTeacher
from bistil.tasks.training import TaskTraining
from xeval import LocalFolder, Protocol

LANGUAGE = LanguageTraining(steps=2, batch=4, length=16, evaluate_every=0, checkpoint_every=1, bf16=False)  # fmt: skip
TASK = TaskTraining(
    protocol=Protocol(steps=2, evaluate_every=2, batch_size=4, max_length=40, precision="float32"),
    sparsity=Sparsity(full_steps=2),
    checkpoint_every=1,
)


@pytest.fixture
def inputs(tmp_path, teacher, student, texts, tasks):
    """Copies that a test may change: teacher, student, text, data."""
    folder = tmp_path / "inputs"
    for name, place in (("teacher", teacher), ("student", student), ("data", tasks)):
        shutil.copytree(place, folder / name)
    shutil.copy(texts["sw"], folder / "sw.txt")
    return folder


def interrupted(run):
    """Stop in the first step."""

    def watch(done, total, what):
        if what.startswith("training"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(watch=watch)


def changed_model(folder):
    model = AutoModelForMaskedLM.from_pretrained(folder)
    model.base_model.embeddings.word_embeddings.weight.data[7] += 1
    model.save_pretrained(folder)


def learn_language(inputs, out, **options):
    language_sft(inputs / "teacher", inputs / "sw.txt", out, language="sw", training=LANGUAGE, sparsity=Sparsity(full_steps=2), **options)  # fmt: skip


def learn_task(inputs, out, **options):
    task_sft(inputs / "teacher", out, task="pos", source=LocalFolder(inputs / "data"), language="en", training=TASK, **options)  # fmt: skip


def learn_from_teacher(inputs, out, training=TASK, **options):
    adapt(
        inputs / "student", out, task="pos", source=LocalFolder(inputs / "data"), language="en", training=training,
        teacher=TaskTeacher(model=inputs / "teacher"), **options,
    )  # fmt: skip


CHANGES = {
    "text": lambda inputs: (inputs / "sw.txt").write_text((inputs / "sw.txt").read_text() * 2),
    "data": lambda inputs: shutil.copy(inputs / "data/ud/en_made/dev.conllu", inputs / "data/ud/en_made/train.conllu"),
    "teacher": lambda inputs: changed_model(inputs / "teacher"),
    "student": lambda inputs: changed_model(inputs / "student"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("learn", "changes"),
    [
        (learn_language, ["text", "teacher"]),
        (learn_task, ["data", "teacher"]),
        (learn_from_teacher, ["data", "teacher", "student"]),
    ],
)
def test_a_changed_input_is_refused_and_a_moved_one_goes_on(tmp_path, inputs, learn, changes):
    out = tmp_path / "out"
    interrupted(lambda **options: learn(inputs, out, **options))
    for change in changes:
        other = tmp_path / change
        shutil.copytree(inputs, other)
        CHANGES[change](other)
        with pytest.raises(AdaptError, match="left from a run with other arguments"):
            learn(other, out)
    moved = inputs.rename(tmp_path / "moved")
    learn(moved, out)
    assert (out / TASK_FILE if out.is_dir() else out).is_file()


def test_of_an_engines_configuration_the_content_counts_and_not_its_place(tmp_path):
    for name, text in (("a", "{}"), ("b", "{}"), ("c", '{"zero_optimization": {"stage": 1}}')):
        (tmp_path / name).write_text(text)
    first, moved, changed = (
        replace(TASK, arguments={"deepspeed": str(tmp_path / name)}).decides() for name in "abc"
    )
    assert first == moved
    assert first != changed


def test_a_training_goes_on_with_other_logs_and_loaders(tmp_path, inputs):
    out = tmp_path / "out"
    interrupted(lambda **options: learn_from_teacher(inputs, out, **options))
    others = {"logging_steps": 1, "report_to": "none", "dataloader_pin_memory": False}
    learn_from_teacher(inputs, out, training=replace(TASK, arguments=others))
    assert out.is_dir()


def test_layers_of_the_teacher_that_are_others_are_another_run(tmp_path, inputs):
    out = tmp_path / "out"
    interrupted(lambda **options: learn_from_teacher(inputs, out, layers=(0, 3), **options))
    with pytest.raises(AdaptError, match="other arguments"):
        learn_from_teacher(inputs, out, layers=(1, 3))


@pytest.mark.parametrize("layers", [(1,), (1, 4), (), (0, -1)])
def test_layers_that_the_teacher_or_the_student_lacks_are_refused(tmp_path, inputs, layers):
    with pytest.raises(AdaptError, match="expected 2 of the teacher's layers 0 to 3"):
        learn_from_teacher(inputs, tmp_path / "out", layers=layers)
    assert not (tmp_path / ".out.making").exists()


def test_what_cannot_be_shared_evenly_is_refused_before_anything_is_made(tmp_path, inputs, texts):
    uneven = {"gradient_accumulation_steps": 3}
    with pytest.raises(AdaptError, match="4 blocks per step cannot be shared by 3 forward passes"):
        language_sft("nowhere", texts["sw"], tmp_path / "out", language="sw", training=replace(LANGUAGE, arguments=uneven))  # fmt: skip
    with pytest.raises(AdaptError, match="4 examples per step cannot be shared by 3"):
        task_sft("nowhere", tmp_path / "out", task="pos", source=LocalFolder(inputs / "data"), language="en", training=replace(TASK, arguments=uneven))  # fmt: skip
    assert not (tmp_path / ".out.making").exists()


def test_entries_beyond_the_models_are_refused_before_text_is_cut(tmp_path, inputs):
    out, beyond = tmp_path / "out", Sparsity(count=10**9)
    with pytest.raises(SparseError, match="got 1000000000; change the density or the count"):
        language_sft(inputs / "teacher", inputs / "sw.txt", out, language="sw", training=LANGUAGE, sparsity=beyond)  # fmt: skip
    learn_language(inputs, out)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["inputs", "out"]


def test_blocks_of_a_step_are_as_many_however_many_passes_share_them(tmp_path, inputs, monkeypatch):
    """One meaning of the batch, for languages as for tasks: per optimizer step, in total."""
    sizes = []

    def train(model, trained, batches, *_, **__):
        sizes.append([len(item["input_ids"]) for item in batches(3)])
        raise KeyboardInterrupt

    monkeypatch.setitem(language_sft.__globals__, "lottery_ticket", train)
    for passes in (1, 2):
        training = replace(LANGUAGE, arguments={"gradient_accumulation_steps": passes})
        with pytest.raises(KeyboardInterrupt):
            language_sft(inputs / "teacher", inputs / "sw.txt", tmp_path / f"out{passes}", language="sw", training=training)  # fmt: skip
    assert sizes == [[4, 4, 4], [2] * 6]
