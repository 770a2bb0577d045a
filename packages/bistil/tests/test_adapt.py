"""Adapting to a task, from the first step to a folder that the judge reads."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import torch
from transformers import AutoModel

from bistil.encoders.body import body_digests, body_parameters
from bistil.errors import AdaptError, SparseError
from bistil.export.measure import measure
from bistil.losses.weights import TaskLossWeights
from bistil.lottery.config import Sparsity
from bistil.sparse.apply import apply
from bistil.sparse.files import read_sparse, write_sparse
from bistil.tasks.adapt import TASK_FILE, TEACHER_FILE, ResultLabel, adapt
from bistil.tasks.alignment import align
from bistil.tasks.compose import compose
from bistil.tasks.task_sft import apply_task, task_sft
from bistil.tasks.teacher import TaskTeacher
from bistil.tasks.training import TaskTraining
from xeval import LocalFolder, Protocol, XevalError, read_finetuned, score, tune

PROTOCOL = Protocol(
    steps=6, evaluate_every=3, batch_size=6, learning_rate=3e-3, max_length=40, precision="float32", weight_decay=0.0
)  # fmt: skip
TRAINING = TaskTraining(protocol=PROTOCOL, sparsity=Sparsity(density=0.08, full_steps=3))


@pytest.fixture(scope="module")
def pos_sft(tmp_path_factory, teacher, tasks):
    """The teacher's sparse fine-tuning for tagging."""
    out = tmp_path_factory.mktemp("sft") / "pos.sft.safetensors"
    task_sft(teacher, out, task="pos", source=LocalFolder(tasks), language="en", training=TRAINING)
    return out


def adapted(out, student, teacher, tasks, **options):
    settings = {"task": "pos", "source": LocalFolder(tasks), "language": "en", "training": TRAINING}
    return adapt(student, out, teacher=teacher, **{**settings, **options})


def weights_of(folder):
    return {n: t.clone() for n, t in body_parameters(read_finetuned(folder).model).items()}


def test_a_task_sft_changes_its_share_of_the_body_and_has_the_head(pos_sft, teacher):
    tuning = read_sparse(pos_sft)
    body = body_parameters(AutoModel.from_pretrained(teacher))
    trainable = sum(its.numel() for name, its in body.items() if "LayerNorm" not in name)
    assert tuning.count == round(0.08 * trainable)
    assert not any("LayerNorm" in name for name in tuning.body)
    assert set(tuning.head) == {"out.weight", "out.bias"}
    assert tuning.base == body_digests(AutoModel.from_pretrained(teacher))
    assert tuning.about["labels"][0] == "ADJ"
    assert not pos_sft.with_name(f".{pos_sft.name}.making").exists()


def test_the_judge_scores_what_composing_wrote(tmp_path, pos_sft, teacher, tasks, files_with_places):  # fmt: skip
    compose(teacher, tmp_path / "worn", add=[pos_sft])
    assert files_with_places(tmp_path / "worn") == files_with_places(pos_sft.parent) == []
    [figure] = score(tmp_path / "worn", tmp_path / "r.jsonl", source=LocalFolder(tasks), languages=["en"])  # fmt: skip
    record = json.loads((tmp_path / "worn" / "xeval.json").read_text())
    assert record["task"] == "pos"
    assert 0 <= figure.value <= 100
    taken = weights_of(tmp_path / "worn")
    again = apply_task(teacher, read_sparse(pos_sft))
    assert all(torch.equal(its, taken[name]) for name, its in body_parameters(again.model).items())


def test_an_adapted_folder_is_student_plus_file(tmp_path, pos_sft, teacher, student, tasks, files_with_places):  # fmt: skip
    out = adapted(tmp_path / "out", student, TaskTeacher(model=teacher, task_sft=pos_sft), tasks)
    assert files_with_places(out) == []
    tuning, plain = read_sparse(out / TASK_FILE), AutoModel.from_pretrained(student)
    trainable = sum(p.numel() for n, p in body_parameters(plain).items() if "LayerNorm" not in n)
    assert tuning.count == round(0.08 * trainable)
    apply(plain, tuning)
    found = weights_of(out)
    assert all(torch.equal(its, found[name]) for name, its in body_parameters(plain).items())
    head = read_finetuned(out).model.head.state_dict()
    assert all(torch.equal(its, head[name]) for name, its in tuning.head.items())
    figures = score(out, tmp_path / "r.jsonl", source=LocalFolder(tasks))
    assert {figure.language for figure in figures} == {"en", "sw"}
    assert figures[0].model == Path(student).name
    assert json.loads((out / "run.json").read_text())["record"]["dev"]["accuracy"] > 0
    assert not (out / TEACHER_FILE).exists()


def test_a_teacher_that_is_not_given_is_made_and_kept(tmp_path, teacher, student, tasks, files_with_places):  # fmt: skip
    out = adapted(tmp_path / "out", student, TaskTeacher(model=teacher), tasks, task="dp")
    assert files_with_places(out) == []
    assert read_sparse(out / TEACHER_FILE).about["task"] == "dp"
    assert read_finetuned(out).task == "dp"


def test_the_judges_own_tuned_folder_can_teach(tmp_path, teacher, student, tasks):
    source = LocalFolder(tasks)
    tune(teacher, tmp_path / "tuned", task="ner", source=source, language="en", protocol=PROTOCOL)
    tuned = TaskTeacher(model=tmp_path / "tuned")
    label = ResultLabel(name="ours", digest="abc")
    out = adapted(tmp_path / "out", student, tuned, tasks, task="ner", label=label)
    record = json.loads((out / "xeval.json").read_text())
    assert (record["base"], record["base_digest"]) == ("ours", "abc")
    with pytest.raises(AdaptError, match="'ner', expected 'pos'"):
        adapted(tmp_path / "other", student, tuned, tasks)


def test_more_entries_than_there_are_are_refused_before_anything_is_trained(tmp_path, teacher, student, tasks):  # fmt: skip
    def entries(model):
        body = body_parameters(AutoModel.from_pretrained(model))
        return sum(its.numel() for name, its in body.items() if "LayerNorm" not in name)

    def refused(total, tune):
        said = []
        training = replace(TRAINING, sparsity=Sparsity(count=total + 1))
        settings = {"task": "pos", "source": LocalFolder(tasks), "language": "en", "training": training}  # fmt: skip
        with pytest.raises(SparseError, match=f"from 1 to {total} entries of the body, got {total + 1}"):  # fmt: skip
            tune(watch=lambda *told: said.append(told), **settings)
        assert (said, [*tmp_path.iterdir()]) == ([], [])

    assert entries(student) < entries(teacher)
    taught = TaskTeacher(model=teacher)
    refused(entries(student), lambda **settings: adapt(student, tmp_path / "out", teacher=taught, **settings))  # fmt: skip
    refused(entries(teacher), lambda **settings: task_sft(teacher, tmp_path / "sft", **settings))


def test_a_folder_with_a_broken_configuration_is_no_traceback(tmp_path, teacher, student, tasks):
    broken = shutil.copytree(student, tmp_path / "broken")
    (broken / "config.json").write_text('{"model_type": "berd"}')
    for learner, model in ((broken, teacher), (student, broken)):
        with pytest.raises(XevalError, match="broken: no model could be opened there"):
            adapted(tmp_path / "out", learner, TaskTeacher(model=model), tasks)
    assert not (tmp_path / "out").exists()


def test_without_a_teacher_the_labels_teach(tmp_path, student, tasks):
    out = adapted(tmp_path / "out", student, None, tasks)
    assert json.loads((out / "run.json").read_text())["record"]["loss"] is None


def test_a_folder_whose_encoder_lies_below_as_older_libraries_wrote_it_teaches_learns_and_is_measured(
    tmp_path, sentence_teacher, tasks
):
    older = shutil.copytree(sentence_teacher, tmp_path / "older")
    modules = json.loads((older / "modules.json").read_text())
    (older / "0_Transformer").mkdir()
    for file in (
        *older.glob("*.safetensors"),
        older / "config.json",
        *older.glob("token*"),
        *older.glob("sentence_bert*"),
    ):
        file.rename(older / "0_Transformer" / file.name)
    (older / "modules.json").write_text(
        json.dumps([{**modules[0], "path": "0_Transformer"}, *modules[1:]])
    )
    short = replace(
        TRAINING,
        protocol=replace(PROTOCOL, steps=2, evaluate_every=2),
        sparsity=Sparsity(density=0.08, full_steps=2),
    )

    weights = []
    for folder in (sentence_teacher, older):
        sft = tmp_path / f"{folder.name}.safetensors"
        task_sft(folder, sft, task="pos", source=LocalFolder(tasks), language="en", training=short)
        out = tmp_path / f"adapted-{folder.name}"
        weights.append(
            weights_of(
                adapted(out, folder, TaskTeacher(model=folder, task_sft=sft), tasks, training=short)
            )
        )
    assert all(torch.equal(its, weights[1][name]) for name, its in weights[0].items())
    costs = [measure(folder, length=16, repeats=1).one for folder in (sentence_teacher, older)]
    assert (costs[0].parameters, costs[0].bytes, costs[0].flops) == (
        costs[1].parameters,
        costs[1].bytes,
        costs[1].flops,
    )


@pytest.mark.parametrize("task", ["pos", "dp", "qa"])
def test_in_bfloat16_a_student_learns_as_in_float32(tmp_path, monkeypatch, student, tasks, pos_sft, teacher, task):  # fmt: skip
    """Teacher and student, attention maps and states, one head of each shape; scores are float32."""
    learner = TaskTeacher(model=teacher, task_sft=pos_sft if task == "pos" else None)
    short = replace(TRAINING, protocol=replace(PROTOCOL, steps=3, precision="auto"))
    weights = {}
    for bf16 in (False, True):
        monkeypatch.setattr("teacherzoo.training.arguments.has_bfloat16", lambda bf16=bf16: bf16)
        out = adapted(tmp_path / str(bf16), student, learner, tasks, task=task, training=short)
        weights[bf16] = weights_of(out)
    assert json.loads((out / "run.json").read_text())["record"]["precision"] == "bfloat16"
    gaps = [(weights[True][name] - exact).abs().max().item() for name, exact in weights[False].items()]  # fmt: skip
    # Adam moves a weight by the rate at most in a step, whichever way rounding sends it.
    assert 0 < max(gaps) <= 2 * 3 * PROTOCOL.learning_rate


def test_full_fine_tuning_moves_everything(tmp_path, student, tasks, pos_sft, teacher):
    training = replace(TRAINING, sparsity=Sparsity(full=True, values="float32"))
    task_teacher = TaskTeacher(model=teacher, task_sft=pos_sft)
    out = adapted(tmp_path / "out", student, task_teacher, tasks, training=training)
    before, after = body_parameters(AutoModel.from_pretrained(student)), weights_of(out)
    name = "encoder.layer.0.attention.output.LayerNorm.weight"
    assert not torch.equal(before[name], after[name])
    assert read_sparse(out / TASK_FILE).count == sum(its.numel() for its in before.values())


def test_a_teacher_with_other_labels_is_refused(tmp_path, teacher, student, tasks):
    strange = tmp_path / "strange"
    shutil.copytree(tasks, strange)
    for split in ("train", "dev"):
        file = strange / "ner" / "en" / f"{split}.txt"
        file.write_text(file.read_text().replace("B-PER", "B-LOC"))
    source = LocalFolder(strange)
    tune(teacher, tmp_path / "tuned", task="ner", source=source, language="en", protocol=PROTOCOL)
    with pytest.raises(
        AdaptError, match=r"labels are not those of ner/en \('B-LOC' is on one side"
    ):
        adapted(tmp_path / "out", student, TaskTeacher(model=tmp_path / "tuned"), tasks, task="ner")
    assert not (tmp_path / "out").exists()


def test_a_teacher_with_the_labels_in_another_order_is_refused_by_that(tmp_path, teacher, student, tasks):  # fmt: skip
    source = LocalFolder(tasks)
    tune(teacher, tmp_path / "tuned", task="ner", source=source, language="en", protocol=PROTOCOL)
    file = tmp_path / "tuned" / "xeval.json"
    record = json.loads(file.read_text())
    record["labels"][:2] = reversed(record["labels"][:2])
    file.write_text(json.dumps(record))
    with pytest.raises(AdaptError, match=r"the same in another order: '.*' is number 0 in the data and number 1 in the t"):  # fmt: skip
        adapted(tmp_path / "out", student, TaskTeacher(model=tmp_path / "tuned"), tasks, task="ner")


def test_a_target_with_a_label_that_the_source_lacks_is_refused(tmp_path, student, tasks):
    strange = tmp_path / "strange"
    shutil.copytree(tasks, strange)
    file = strange / "sib200" / "sw" / "test.tsv"
    file.write_text(file.read_text().replace("late", "midday"))
    out = adapted(tmp_path / "out", student, None, tasks, task="topic")
    with pytest.raises(XevalError, match=r"test\.tsv.*'midday' is not among those of the source"):
        score(out, tmp_path / "r.jsonl", source=LocalFolder(strange), languages=["sw"])


def test_a_language_file_of_another_model_is_refused(tmp_path, teacher, student, tasks, pos_sft):
    stranger = replace(read_sparse(pos_sft), base={"embeddings.LayerNorm.bias": "0123"}, head={})
    write_sparse(stranger, tmp_path / "sw.safetensors")
    worn = TaskTeacher(model=teacher, task_sft=pos_sft, language_sfts=[tmp_path / "sw.safetensors"])
    with pytest.raises(SparseError, match=r"sw\.safetensors: it was made for another base model"):
        adapted(tmp_path / "out", student, worn, tasks)


def test_a_file_without_a_head_cannot_teach(tmp_path, teacher, student, tasks, pos_sft):
    write_sparse(replace(read_sparse(pos_sft), head={}), tmp_path / "x")
    with pytest.raises(SparseError, match="no task's head"):
        adapted(
            tmp_path / "out", student, TaskTeacher(model=teacher, task_sft=tmp_path / "x"), tasks
        )


def test_what_does_not_meet_is_refused_before_a_teacher_is_made(
    tmp_path, teacher, save_teacher, tasks
):
    def watch(done, total, what):
        raise AssertionError(what)

    odd = save_teacher(tmp_path / "odd", layers=3)
    with pytest.raises(AdaptError, match="3 layers do not divide the teacher's 4"):
        adapted(tmp_path / "out", odd, TaskTeacher(model=teacher), tasks, watch=watch)
    two = save_teacher(tmp_path / "two", num_attention_heads=2)
    with pytest.raises(AdaptError, match="the student has 2 heads and the teacher 4, and no run"):
        adapted(tmp_path / "out", two, TaskTeacher(model=teacher), tasks, watch=watch)


def test_a_taken_place_a_frozen_task_and_uneven_steps_are_refused(tmp_path, student, tasks):
    (tmp_path / "taken").mkdir()
    with pytest.raises(AdaptError, match="exists already"):
        adapted(tmp_path / "taken", student, None, tasks)
    with pytest.raises(AdaptError, match="'bpb' asks a model as it is"):
        adapted(tmp_path / "bpb", student, None, tasks, task="bpb")
    with pytest.raises(AdaptError, match="'bpb' cannot be distilled"):
        adapted(tmp_path / "bpb", student, TaskTeacher(model=student), tasks, task="bpb")
    uneven = replace(TRAINING, arguments={"gradient_accumulation_steps": 4})
    with pytest.raises(AdaptError, match="6 examples per step cannot be shared by 4"):
        adapted(tmp_path / "uneven", student, None, tasks, training=uneven)


def test_files_are_carried_to_a_trimmed_vocabulary(tmp_path, teacher, tasks, pos_sft, texts):
    """Composed on the trimmed model and trimmed after composing: the same answers."""
    from vocabmerge import trim

    trim(teacher, {language: [texts[language]] for language in ("en", "sw")}, tmp_path / "lean")
    with pytest.raises(SparseError, match="another vocabulary"):
        compose(tmp_path / "lean", tmp_path / "no", add=[pos_sft])
    compose(tmp_path / "lean", tmp_path / "worn", add=[pos_sft], trimmed_from=teacher)
    compose(teacher, tmp_path / "whole", add=[pos_sft])
    figures = [
        score(tmp_path / name, tmp_path / f"{name}.jsonl", source=LocalFolder(tasks), languages=["sw"])[0].value
        for name in ("worn", "whole")
    ]  # fmt: skip
    assert figures[0] == figures[1]


def test_adding_and_subtracting_gives_the_model_back(tmp_path, teacher, pos_sft):
    plain = replace(read_sparse(pos_sft), head={}, about={"kind": "language"})
    write_sparse(plain, tmp_path / "sw")
    compose(teacher, tmp_path / "out", add=[tmp_path / "sw"], subtract=[tmp_path / "sw"])
    before = body_parameters(AutoModel.from_pretrained(teacher))
    after = body_parameters(AutoModel.from_pretrained(tmp_path / "out"))
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor)


def test_what_is_subtracted_is_not_applied(tmp_path, teacher, pos_sft):
    plain = replace(read_sparse(pos_sft), head={}, about={"kind": "language"})
    en, sw = tmp_path / "en", tmp_path / "sw"
    for file in (en, sw):
        write_sparse(plain, file)
    compose(teacher, tmp_path / "out", add=[sw, pos_sft], subtract=[en])
    notes = json.loads((tmp_path / "out" / "xeval.json").read_text())["notes"]
    assert (notes["applied"], notes["subtracted"]) == ([pos_sft.name, "sw"], ["en"])


def test_composing_leaves_the_work_of_an_interrupted_run_alone(tmp_path, teacher, pos_sft):
    plain = replace(read_sparse(pos_sft), head={}, about={"kind": "language"})
    write_sparse(plain, tmp_path / "sw")
    work = tmp_path / ".out.making"
    work.mkdir()
    (work / "chosen.safetensors").write_text("days of work")
    compose(teacher, tmp_path / "out", add=[tmp_path / "sw"])
    assert (work / "chosen.safetensors").read_text() == "days of work"
    assert {file.name for file in tmp_path.iterdir()} == {"out", "sw", ".out.making"}


@pytest.mark.slow
@pytest.mark.parametrize("task", ["dp", "ner", "nli", "topic", "qa", "choice"])
def test_the_judge_finds_in_the_folder_what_training_measured(tmp_path, teacher, student, tasks, task):  # fmt: skip
    """The same examples as development set and as test set give the same figure, in every task."""
    data = tmp_path / "data"
    shutil.copytree(tasks, data)
    for file in data.glob("*/en*/dev.*"):
        shutil.copy(file, file.with_name(file.name.replace("dev.", "test.")))
    out = adapted(tmp_path / "out", student, TaskTeacher(model=teacher), data, task=task)
    [(metric, measured)] = json.loads((out / "run.json").read_text())["record"]["dev"].items()
    figures = score(out, tmp_path / "r.jsonl", source=LocalFolder(data), languages=["en"])
    assert {figure.metric: figure.value for figure in figures}[metric] == measured


@pytest.mark.slow
@pytest.mark.parametrize("stop", [("training all", 2), ("training the chosen", 4)])
def test_killed_and_called_again_ends_in_the_same_bytes(tmp_path, teacher, student, tasks, pos_sft, stop):  # fmt: skip
    training = replace(TRAINING, checkpoint_every=1)
    task_teacher = TaskTeacher(model=teacher, task_sft=pos_sft)

    def watch(done, total, what):
        if what.startswith(stop[0]) and done == stop[1]:
            raise KeyboardInterrupt

    straight = adapted(tmp_path / "a", student, task_teacher, tasks, training=training)
    with pytest.raises(KeyboardInterrupt):
        adapted(tmp_path / "b", student, task_teacher, tasks, training=training, watch=watch)
    assert not (tmp_path / "b").exists()
    with pytest.raises(AdaptError, match="other arguments"):
        adapted(tmp_path / "b", student, task_teacher, tasks, training=training, loss=TaskLossWeights(hidden=2))  # fmt: skip
    resumed = adapted(tmp_path / "b", student, task_teacher, tasks, training=training)
    for name in ("model.safetensors", "head.safetensors", TASK_FILE, "xeval.json"):
        assert (straight / name).read_bytes() == (resumed / name).read_bytes()


def test_of_a_student_on_the_hub_the_layers_that_extract_wrote_are_compared(
    tmp_path, monkeypatch, student, teacher
):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    commit, repository = "5" * 40, tmp_path / "cache" / "models--someone--student"
    folder = shutil.copytree(student, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    (folder / "run.json").write_text(json.dumps({"plan": {"teacher_layers": 4, "layers": [0, 2]}}))

    asked = TaskTeacher(model=teacher), None, TaskLossWeights()

    assert align(student, *asked).layers == (1, 3)
    assert align(str(folder), *asked).layers == (0, 2)
    assert align("someone/student", *asked).layers == (0, 2)
