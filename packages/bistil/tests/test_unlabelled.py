"""Text without labels beside a task's data: what becomes of it, and what it teaches."""

import json
from dataclasses import replace

import pytest
import torch

from bistil.errors import AdaptError
from bistil.losses.task import DistillationModel
from bistil.losses.weights import TaskLossWeights
from bistil.lottery.config import Sparsity
from bistil.sparse.files import read_sparse
from bistil.sparse.reindex import kept_ids
from bistil.tasks.adapt import _begin_as, adapt
from bistil.tasks.data import TaskBatches, read_task
from bistil.tasks.task_sft import task_sft
from bistil.tasks.teacher import TaskTeacher
from bistil.tasks.training import TaskTraining, untrained
from bistil.tasks.unlabelled import UnlabelledText, unlabelled_examples
from vocabmerge import VocabularyError
from xeval import LocalFolder, Protocol, read_finetuned

PROTOCOL = Protocol(
    steps=6, evaluate_every=3, batch_size=6, learning_rate=3e-3, max_length=40, precision="float32", weight_decay=0.0
)  # fmt: skip
TRAINING = TaskTraining(protocol=PROTOCOL, sparsity=Sparsity(full=True, full_steps=6), checkpoint_every=1)  # fmt: skip


@pytest.fixture
def swahili(texts):
    return UnlabelledText(sources={"sw": [str(texts["sw"])]}, lines=30)


@pytest.fixture(scope="module")
def taught(tmp_path_factory, teacher, tasks):
    """The teacher, and what it knows of tags and of topics."""
    folder = tmp_path_factory.mktemp("taught")
    made = {}
    for task in ("pos", "topic"):
        made[task] = TaskTeacher(model=teacher, task_sft=folder / f"{task}.safetensors")
        training = replace(TRAINING, sparsity=Sparsity(density=0.08, full_steps=3))
        task_sft(teacher, made[task].task_sft, task=task, source=LocalFolder(tasks), language="en", training=training)  # fmt: skip
    return made


def adapted(out, student, teacher, tasks, *, task="pos", **options):
    return adapt(
        student, out, task=task, source=LocalFolder(tasks), language="en", teacher=teacher,
        **{"training": TRAINING, **options},
    )  # fmt: skip


def read(task, tasks):
    return read_task(task, LocalFolder(tasks), "en", PROTOCOL)


def test_words_are_cut_as_the_house_cuts_them_and_lines_without_any_are_left_out(tmp_path, tasks):
    text = tmp_path / "zh.txt"
    text.write_text("Anna's book, 是的\n \n།\t\nja\n", encoding="utf-8")
    [examples] = unlabelled_examples(read("pos", tasks), UnlabelledText(sources={"zh": [str(text)]})).values()  # fmt: skip
    assert examples[0].words == ("Anna", "'", "s", "book", ",", "是", "的")
    assert examples[-1].words == ("ja",)
    assert {label for example in examples for label in example.labels} == {"ADJ"}
    [lines] = unlabelled_examples(read("topic", tasks), UnlabelledText(sources={"zh": [str(text)]})).values()  # fmt: skip
    assert lines[0].text == "Anna's book, 是的"


@pytest.mark.parametrize("task", ["dp", "nli", "qa", "choice"])
def test_tasks_of_other_examples_are_refused_before_a_teacher_is_made(tmp_path, task, student, teacher, tasks, swahili):  # fmt: skip
    def watch(done, total, what):
        raise AssertionError(what)

    with pytest.raises(AdaptError, match=f"^{task}: lines of text are no examples of it"):
        adapted(tmp_path / "out", student, TaskTeacher(model=teacher), tasks, task=task, text=swahili, watch=watch)  # fmt: skip
    assert not any(tmp_path.iterdir())


def test_text_without_a_teacher_without_words_or_without_a_file_is_refused(tmp_path, student, teacher, tasks, swahili):  # fmt: skip
    def refused(match, its_teacher, text, error=AdaptError):
        with pytest.raises(error, match=match):
            adapted(tmp_path / "out", student, its_teacher, tasks, text=text)

    refused("for a teacher to label", None, swahili)
    missing = UnlabelledText(sources={"sw": [str(tmp_path / "none.txt")]})
    refused("none.txt", TaskTeacher(model=teacher), missing, VocabularyError)
    (tmp_path / "blank.txt").write_text("\u200b\n \n")
    refused("sw: its text has no words", TaskTeacher(model=teacher), UnlabelledText(sources={"sw": [str(tmp_path / "blank.txt")]}))  # fmt: skip
    refused("1 line or more", TaskTeacher(model=teacher), replace(swahili, lines=0), VocabularyError)  # fmt: skip


@pytest.mark.parametrize("task", ["pos", "topic"])
def test_gold_labels_count_where_there_are_some_and_a_teacher_everywhere(task, tasks, student, teacher, swahili):  # fmt: skip
    data = read(task, tasks)
    learner, pieces = untrained(student, data, TRAINING)
    known, _ = untrained(teacher, data, TRAINING)
    [text] = unlabelled_examples(data, swahili).values()
    encoded, _ = data.task.encode(pieces, [*data.train[:3], *text[:3]], data.labels)

    def batch(number):
        part, unlabelled = encoded[:number], max(0, number - 3)
        return TaskBatches(part, data.task, pieces.pad_id, steps=1, examples=number, unlabelled=unlabelled, passes=1, seed=0)[0]  # fmt: skip

    def loss(inputs, **weights):
        off = {"soft": 0.0, "attention": 0.0, "hidden": 0.0, **weights}
        model = DistillationModel(
            learner.eval(), known, layers=(1, 3), teacher_ids=torch.from_numpy(kept_ids(student, teacher)), weights=TaskLossWeights(**off)
        )  # fmt: skip
        return model(num_items_in_batch=1, **inputs).loss.detach()

    both, alone = batch(6), batch(3)
    assert sorted(both["unlabelled"].tolist()) == [False] * 3 + [True] * 3
    assert "unlabelled" not in alone
    torch.testing.assert_close(loss(both, gold=1.0), loss(alone, gold=1.0))
    assert loss(both, soft=1.0) > 1.5 * loss(alone, soft=1.0)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["pos", "topic"])
def test_a_student_reads_the_text_and_says_how_much(tmp_path, task, student, tasks, taught, swahili):  # fmt: skip
    plain = adapted(tmp_path / "plain", student, taught[task], tasks, task=task)
    out = adapted(tmp_path / "out", student, taught[task], tasks, task=task, text=swahili)
    with_text, without = (json.loads((folder / "run.json").read_text())["record"] for folder in (out, plain))  # fmt: skip
    assert with_text["text"] == {"sw": 30}
    assert with_text["loss"] == TaskLossWeights.only(soft=1, temperature=1.0).to_json()
    assert "text" not in without
    assert without["loss"] == TaskLossWeights().to_json()
    weights = [dict(read_finetuned(folder).model.encoder.named_parameters()) for folder in (plain, out)]  # fmt: skip
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.slow
def test_under_text_the_head_begins_as_the_teacher_s(tmp_path, student, tasks, taught, swahili):
    still = replace(TRAINING, protocol=replace(PROTOCOL, steps=1, evaluate_every=1, learning_rate=1e-12))  # fmt: skip
    heads = {}
    for text in (None, swahili):
        out = adapted(tmp_path / str(text is None), student, taught["pos"], tasks, text=text, training=still)  # fmt: skip
        heads[text is None] = read_finetuned(out).model.head.state_dict()
    wanted = read_sparse(taught["pos"].task_sft).head
    for name, tensor in wanted.items():
        torch.testing.assert_close(heads[False][name], tensor, rtol=0, atol=1e-9)
    assert not torch.allclose(heads[True]["out.weight"], wanted["out.weight"])


def test_a_head_of_wider_states_is_not_taken():
    narrow, wide, equal = torch.nn.Linear(4, 3), torch.nn.Linear(8, 3), torch.nn.Linear(4, 3)
    before = {name: tensor.clone() for name, tensor in narrow.state_dict().items()}
    _begin_as(narrow, wide)
    assert all(torch.equal(tensor, before[name]) for name, tensor in narrow.state_dict().items())
    _begin_as(narrow, equal)
    assert all(torch.equal(a, b) for a, b in zip(narrow.parameters(), equal.parameters(), strict=True))  # fmt: skip


@pytest.mark.slow
def test_killed_it_goes_on_with_the_same_text_and_refuses_another(tmp_path, student, tasks, taught, texts, swahili):  # fmt: skip
    def watch(done, total, what):
        if what.startswith("training all") and done == 3:
            raise KeyboardInterrupt

    text = tmp_path / "sw.txt"
    text.write_bytes(texts["sw"].read_bytes())
    own = replace(swahili, sources={"sw": [str(text)]})
    straight = adapted(tmp_path / "a", student, taught["pos"], tasks, text=swahili)
    with pytest.raises(KeyboardInterrupt):
        adapted(tmp_path / "b", student, taught["pos"], tasks, text=own, watch=watch)
    for other in (None, replace(own, lines=29)):
        with pytest.raises(AdaptError, match="other arguments"):
            adapted(tmp_path / "b", student, taught["pos"], tasks, text=other)
    text.write_text(text.read_text() + "Moja zaidi\n")
    with pytest.raises(AdaptError, match="other arguments"):
        adapted(tmp_path / "b", student, taught["pos"], tasks, text=own)
    resumed = adapted(tmp_path / "b", student, taught["pos"], tasks, text=swahili)
    for name in ("model.safetensors", "head.safetensors", "xeval.json"):
        assert (straight / name).read_bytes() == (resumed / name).read_bytes()
