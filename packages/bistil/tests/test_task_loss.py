"""The loss of phase 2, against hand computation and its own laws."""

import math

import pytest
import torch

from bistil.encoders.body import copies
from bistil.errors import AdaptError, SparseError
from bistil.losses.task import DistillationModel
from bistil.losses.terms.soft_labels import soft_cross_entropy
from bistil.losses.weights import TaskLossWeights
from bistil.sparse.reindex import kept_ids
from bistil.tasks.data import TaskBatches, read_task
from bistil.tasks.training import TaskTraining, untrained
from xeval import LocalFolder, Protocol

SHORT = TaskTraining(protocol=Protocol(steps=2, batch_size=6, max_length=40, precision="float32"))
TASKS = ["pos", "dp", "ner", "nli", "topic", "qa"]


def opened(task, tasks, model):
    data = read_task(task, LocalFolder(tasks), "en", SHORT.protocol)
    learner, pieces = untrained(model, data, SHORT)
    encoded, _ = data.task.encode(pieces, data.train, data.labels)
    batches = TaskBatches(encoded, data.task, pieces.pad_id, steps=2, examples=6, passes=1, seed=0)
    return learner.eval(), batches, len(pieces.tokenizer)


def in_training(student, teacher, ids, layers=(0, 1, 2, 3), **weights):
    return DistillationModel(student, teacher, layers=layers, teacher_ids=ids, weights=TaskLossWeights(**weights))  # fmt: skip


@pytest.mark.parametrize("task", TASKS)
def test_a_student_that_is_its_teacher_matches_it_and_pays_its_entropy(task, tasks, teacher):
    one, batches, size = opened(task, tasks, teacher)
    other, *_ = opened(task, tasks, teacher)
    ids = torch.arange(size)
    batch = batches[0]
    matching = in_training(one, other, ids, soft=0, gold=1e-30)(**batch).loss.detach()
    assert float(matching) < 1e-10
    loss = in_training(one, other, ids)(**batch).loss
    loss.backward()
    gradients = [p.grad for p in one.parameters() if p.grad is not None]
    assert float(loss.detach()) > 0
    assert (
        max(float(g.abs().max()) for g in gradients) < 1e-5
    )  # cross-entropy is least where both agree
    assert len(gradients) >= 4 * 12


@pytest.mark.parametrize("task", ["pos", "qa"])
def test_a_teacher_with_a_trimmed_vocabulary_matches_itself(task, tasks, teacher, lean):
    """The teacher reads the student's tokens under its own ids: then both compute the same."""
    mine, batches, size = opened(task, tasks, lean)
    its, _, whole = opened(task, tasks, teacher)
    assert size < whole
    ids = torch.from_numpy(kept_ids(lean, teacher))
    loss = in_training(mine, its, ids, soft=0, gold=1e-30)(**batches[0]).loss
    assert float(loss.detach()) < 1e-10


@pytest.mark.parametrize("task", TASKS)
def test_every_task_can_be_distilled_to_a_smaller_student(task, tasks, teacher, student):
    mine, batches, _ = opened(task, tasks, student)
    its, *_ = opened(task, tasks, teacher)
    ids = torch.from_numpy(kept_ids(student, teacher))
    loss = in_training(mine, its, ids, layers=(1, 3))(**batches[0]).loss
    loss.backward()
    assert math.isfinite(float(loss.detach()))
    assert all(torch.isfinite(p.grad).all() for p in mine.parameters() if p.grad is not None)


def test_soft_cross_entropy_is_its_formula():
    torch.manual_seed(0)
    student, teacher = torch.randn(3, 4, 5), torch.randn(3, 4, 5)
    rows = torch.rand(3, 4) < 0.6
    for hidden in (student, teacher):
        hidden[..., 2] = float("-inf")
    expected = 0.0
    for i, j in rows.nonzero().tolist():
        p = torch.softmax(teacher[i, j].double() / 2, -1)
        q = torch.softmax(student[i, j].double() / 2, -1)
        expected -= sum(float(p[c] * q[c].log()) for c in (0, 1, 3, 4))
    student.requires_grad_()
    loss = soft_cross_entropy(student, teacher, rows, temperature=2.0)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-6)
    loss.backward()
    assert torch.isfinite(student.grad).all()
    assert not student.grad[~rows].any()


def test_temperature_squared_scales_value_and_gradient(tasks, teacher):
    one, batches, size = opened("pos", tasks, teacher)
    other, *_ = opened("pos", tasks, teacher)
    with torch.no_grad():
        other.head.out.weight.mul_(-3)
    found = []
    for squared in (False, True):
        one.zero_grad()
        both = in_training(one, other, torch.arange(size), attention=0, hidden=0, temperature=3.0, times_t_squared=squared)  # fmt: skip
        loss = both(**batches[0]).loss
        loss.backward()
        found.append((float(loss.detach()), one.head.out.weight.grad.clone()))
    (value, gradient), (scaled, larger) = found
    assert scaled == pytest.approx(9 * value, rel=1e-6)
    torch.testing.assert_close(larger, 9 * gradient)


@pytest.mark.parametrize("task", ["pos", "qa", "topic"])
def test_gold_answers_alone_give_the_judges_own_loss(task, tasks, teacher):
    one, batches, size = opened(task, tasks, teacher)
    other, *_ = opened(task, tasks, teacher)
    both = in_training(one, other, torch.arange(size), attention=0, hidden=0, soft=0, gold=1)
    one.train()
    for module in one.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    torch.testing.assert_close(both(**batches[0]).loss, one(**batches[0])["loss"])


def test_the_teacher_is_neither_trained_nor_saved(tasks, teacher, student):
    mine, batches, _ = opened("pos", tasks, student)
    its, *_ = opened("pos", tasks, teacher)
    before = copies(dict(its.named_parameters()))
    both = in_training(
        mine, its, torch.from_numpy(kept_ids(student, teacher)), layers=(1, 3)
    ).train()
    assert {n.partition(".")[0] for n, _ in both.named_parameters()} == {"student"}
    assert not its.training
    both(**batches[0]).loss.backward()
    assert all(p.grad is None and torch.equal(p, before[n]) for n, p in its.named_parameters())


def test_pieces_that_the_teacher_lacks_are_refused_by_name(tmp_path, teacher, student):
    import json

    strange = json.loads((student / "tokenizer.json").read_text())
    vocabulary = strange["model"]["vocab"]
    vocabulary["##neverseen"] = vocabulary.pop(next(p for p in vocabulary if p.startswith("##")))
    (tmp_path / "tokenizer.json").write_text(json.dumps(strange))
    (tmp_path / "tokenizer_config.json").write_bytes(
        (student / "tokenizer_config.json").read_bytes()
    )
    with pytest.raises(SparseError, match="##neverseen"):
        kept_ids(tmp_path, teacher)


@pytest.mark.parametrize("weights", [{"soft": 0.0}, {"hidden": -1.0}, {"temperature": 0.0}])
def test_weights_that_are_none_are_refused(weights):
    with pytest.raises(AdaptError):
        TaskLossWeights(**weights)
