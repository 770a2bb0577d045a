"""Frozen entries stay the bits they were, whatever optimizes."""

import itertools
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import nn

from bistil.errors import AdaptError, SparseError
from bistil.lottery.config import Evaluation, TrainingPlan
from bistil.lottery.masks import Masks, penalise_distance
from bistil.lottery.select import Selection
from bistil.lottery.training_run import check_arguments, train, training_arguments
from bistil.sparse.gap_coding import encode_gaps
from teacherzoo.training.trainer import PreparedBatchTrainer


class Sum(nn.Module):
    """A model whose forward is its loss: two layers, a word table and a head."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(12, 6)
        self.layer = nn.Linear(6, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, num_items_in_batch=None, **batch):
        logits = self.head(torch.tanh(self.layer(self.words(batch["input_ids"]))))
        total = nn.functional.cross_entropy(logits, batch["labels"], reduction="sum")
        count = len(batch["labels"]) if num_items_in_batch is None else num_items_in_batch
        return {"loss": total / count}


def batches(count, size=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(12, (count, size), generator=generator)
    labels = torch.randint(3, (count, size), generator=generator)
    return [{"input_ids": i, "labels": y} for i, y in zip(ids, labels, strict=True)]


def body(model):
    return {"words": model.words.weight, "layer": model.layer.weight}


def some(parameters, share=0.4, seed=0):
    random = np.random.default_rng(seed)
    places = {n: np.flatnonzero(random.random(p.numel()) < share) for n, p in parameters.items()}
    sizes = {name: its.numel() for name, its in parameters.items()}
    return Selection(coded={n: encode_gaps(its) for n, its in places.items()}, sizes=sizes)


def frozen_and_moved(model, start, selection):
    """Bits of frozen entries now and then, and how many chosen ones moved."""
    for name, parameter in body(model).items():
        now, then = parameter.detach().ravel(), start[name].ravel()
        chosen = torch.zeros(len(now), dtype=torch.bool)
        chosen[torch.from_numpy(selection.places(name))] = True
        assert torch.equal(now[~chosen].view(torch.int32), then[~chosen].view(torch.int32)), name
        assert (now[chosen] != then[chosen]).float().mean() > 0.7, name


@pytest.mark.parametrize(
    ("accumulation", "optimizer", "decay"),
    [
        (1, "adamw_torch", 0.3),
        (2, "adamw_torch", 0.0),
        (2, "adamw_torch_fused", 0.3),
        (1, "adamw_torch_fused", 0.0),
    ],
)
def test_frozen_entries_keep_their_bits(tmp_path, accumulation, optimizer, decay):
    model = Sum()
    with torch.no_grad():
        model.words.weight[:, 0] = -0.0
    selection = some(body(model))
    start = {name: its.detach().clone() for name, its in body(model).items()}
    masks = Masks(body(model), selection)
    plan = TrainingPlan(
        steps=12, learning_rate=0.05, weight_decay=decay,
        arguments={"gradient_accumulation_steps": accumulation, "optim": optimizer, "max_grad_norm": 0.05},
    )  # fmt: skip
    train(model, batches(12 * accumulation), plan, tmp_path, masks=masks)
    frozen_and_moved(model, start, selection)


def test_chosen_entries_decay_as_adamw_decays_them(tmp_path):
    """Masking everything nothing: the same as training without a mask."""
    plan = TrainingPlan(steps=8, learning_rate=0.05, weight_decay=0.4)
    free, masked = Sum(), Sum()
    train(free, batches(8), plan, tmp_path / "free")
    masks = Masks(body(masked), some(body(masked), share=2.0))
    train(masked, batches(8), plan, tmp_path / "masked", masks=masks)
    for name, parameter in body(free).items():
        torch.testing.assert_close(parameter, body(masked)[name], rtol=1e-6, atol=1e-7)


def test_a_tensor_without_a_chosen_entry_needs_no_gradient():
    model = Sum()
    masks = Masks(body(model), some(body(model), share=-1.0))
    assert not model.words.weight.requires_grad
    masks.remove()
    assert model.words.weight.requires_grad


def test_a_frozen_entry_that_moved_is_reported():
    model = Sum()
    selection = some(body(model))
    masks = Masks(body(model), selection)
    frozen = np.setdiff1d(np.arange(72), selection.places("words"))[0]
    with torch.no_grad():
        model.words.weight.view(-1)[frozen] += 1e-7
    with pytest.raises(SparseError, match="1 frozen entries of 'words'"):
        masks.check()


def test_momentum_of_an_old_optimizer_would_be_noticed():
    """The check is no formality: an optimizer with momentum from before moves frozen entries."""
    model = Sum()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for number, batch in enumerate(batches(6)):
        if number == 3:
            masks = Masks(body(model), some(body(model)))
        model(**batch)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
    with pytest.raises(SparseError, match="frozen entries"):
        masks.check()


def test_clipping_counts_chosen_entries_alone(tmp_path):
    """The norm that the Trainer clips by is that of the chosen entries' gradients, computed here without a mask."""
    model, plain = Sum(), Sum()
    selection = some(body(model))
    masks = Masks(body(model), selection)
    # SGD without momentum, so that what a step adds is the clipped gradient times the rate.
    arguments = {"optim": "sgd", "max_grad_norm": 0.05, "lr_scheduler_type": "constant"}
    train(model, batches(1), TrainingPlan(steps=1, learning_rate=1.0, arguments=arguments), tmp_path, masks=masks)  # fmt: skip

    plain(**batches(1)[0])["loss"].backward()
    for name, parameter in body(plain).items():
        frozen = torch.ones(parameter.numel(), dtype=torch.bool)
        frozen[torch.from_numpy(selection.places(name))] = False
        parameter.grad[frozen.view(parameter.shape)] = 0
    norm = torch.stack([p.grad.norm() for p in plain.parameters()]).norm()
    assert norm > 0.05
    for name, parameter in plain.named_parameters():
        expected = parameter.detach() - parameter.grad * 0.05 / norm
        torch.testing.assert_close(model.get_parameter(name).detach(), expected, rtol=1e-4, atol=1e-7)  # fmt: skip


def test_the_distance_term_is_its_own_gradient():
    model, plain = Sum(), Sum()
    start = {name: torch.randn_like(its) for name, its in body(model).items()}
    penalise_distance(body(model), start, 0.7)
    batch = batches(1)[0]
    model(**batch)["loss"].backward()
    total = sum(its.numel() for its in start.values())
    distance = sum((p - start[n]).abs().sum() for n, p in body(plain).items())
    (plain(**batch)["loss"] + 0.7 * distance / total).backward()
    for name, parameter in body(model).items():
        torch.testing.assert_close(parameter.grad, body(plain)[name].grad)


def test_one_large_batch_equals_two_accumulated(tmp_path):
    """Labels are counted over the whole step, also where its parts have different numbers of them."""
    whole = batches(6, size=8)
    parts = [{n: t[part] for n, t in one.items()} for one in whole for part in (slice(0, 3), slice(3, 8))]  # fmt: skip
    one, two = Sum(), Sum()
    train(one, whole, TrainingPlan(steps=6, learning_rate=0.05), tmp_path / "one")
    plan = TrainingPlan(steps=6, learning_rate=0.05, arguments={"gradient_accumulation_steps": 2})
    train(two, parts, plan, tmp_path / "two")
    for name, parameter in one.named_parameters():
        torch.testing.assert_close(parameter, two.get_parameter(name))


def test_the_best_weights_are_kept_and_patience_ends_the_run(tmp_path):
    model = Sum()
    scores, seen = iter([1.0, 3.0, 2.0, 2.5, 9.0]), []

    def score():
        seen.append(model.head.weight.detach().clone())
        return next(scores)

    plan = TrainingPlan(steps=10, learning_rate=0.05, evaluate_every=2, patience=2)
    result = train(model, batches(10), plan, tmp_path, evaluation=Evaluation(measure=score))
    assert (result.steps, result.best_step, result.best) == (8, 4, 3.0)
    assert torch.equal(model.head.weight, seen[1])


@pytest.mark.parametrize("better", [1.0, -1.0])
def test_an_interrupted_run_ends_in_the_same_bits(tmp_path, better):
    """Whether the best weights are the last, or those of before the interruption."""
    plan = TrainingPlan(steps=9, learning_rate=0.05, evaluate_every=2, checkpoint_every=3)

    def run(folder, *, stop_at=None):
        model, values = Sum(), itertools.count()
        masks = Masks(body(model), some(body(model)))

        def watch(done, total, what):
            if done == stop_at:
                raise KeyboardInterrupt

        try:
            score = lambda: better * next(values)  # noqa: E731
            train(
                model,
                batches(9),
                plan,
                folder,
                masks=masks,
                evaluation=Evaluation(measure=score),
                watch=watch,
            )
        except KeyboardInterrupt:
            return run(folder)
        return model

    straight, resumed = run(tmp_path / "a"), run(tmp_path / "b", stop_at=5)
    assert not torch.equal(straight.head.weight, Sum().head.weight)
    for name, parameter in straight.named_parameters():
        assert torch.equal(parameter, resumed.get_parameter(name)), name


@pytest.mark.parametrize("patience", [2, 99])
def test_a_run_that_is_killed_after_its_last_checkpoint_trains_no_further(tmp_path, monkeypatch, patience):  # fmt: skip
    """Whether patience ended it or its steps did: the run that goes on makes what the unbroken one makes."""
    plan = TrainingPlan(steps=10, learning_rate=0.05, evaluate_every=2, patience=patience, checkpoint_every=2)  # fmt: skip

    def run(folder, scores):
        model, values = Sum(), iter(scores)
        result = train(
            model, batches(10), plan, folder, evaluation=Evaluation(measure=lambda: next(values))
        )
        return model, result

    straight, expected = run(tmp_path / "a", [1.0, 3.0, 2.0, 2.5, 2.0])
    with monkeypatch.context() as killed:
        killed.setattr(PreparedBatchTrainer, "load_best", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "b", [1.0, 3.0, 2.0, 2.5, 2.0])
    resumed, result = run(tmp_path / "b", [])
    assert result == expected
    assert result.steps == (8 if patience == 2 else 10)
    for name, parameter in straight.named_parameters():
        assert torch.equal(parameter, resumed.get_parameter(name)), name


def test_an_evaluation_is_told_in_words(tmp_path):
    told, scores = [], iter([1.0, 3.0, 2.0])
    plan = TrainingPlan(steps=6, learning_rate=0.05, evaluate_every=2)
    train(
        Sum(), batches(6), plan, tmp_path, evaluation=Evaluation(measure=lambda: next(scores), words="accuracy {:.1f}"),
        watch=lambda done, total, what: told.append((done, total, what)),
    )  # fmt: skip
    assert [event for event in told if event[2].startswith("evaluated")] == [
        (2, 6, "evaluated, accuracy 1.0, best accuracy 1.0 at step 2"),
        (4, 6, "evaluated, accuracy 3.0, best accuracy 3.0 at step 4"),
        (6, 6, "evaluated, accuracy 2.0, best accuracy 3.0 at step 4"),
    ]


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ({"max_steps": 3}, "max_steps is decided elsewhere"),
        ({"no_such": 1}, "no field 'no_such'"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor is not supported"),
        ({"average_tokens_across_devices": False}, "average_tokens_across_devices is not supported"),
        ({"gradient_checkpointing": True}, "gradient_checkpointing is not supported"),
    ],
)  # fmt: skip
def test_an_argument_that_a_fine_tuning_cannot_honour_is_refused(tmp_path, arguments, fault):
    plan = TrainingPlan(steps=2, learning_rate=0.1, arguments=arguments)
    with pytest.raises(AdaptError, match=f"Trainer arguments: .*{fault}"):
        train(Sum(), batches(2), plan, tmp_path)
    with pytest.raises(AdaptError, match=f"Trainer arguments: .*{fault}"):
        check_arguments(plan)


def test_of_several_visible_gpus_one_is_used(tmp_path, monkeypatch):
    """A batch is one item of the data set: a Trainer that counted four devices would ask for four of them."""
    arguments = training_arguments(TrainingPlan(steps=1, learning_rate=0.1), tmp_path)
    monkeypatch.setattr(type(arguments), "_setup_devices", property(_four_devices))
    arguments = training_arguments(TrainingPlan(steps=1, learning_rate=0.1), tmp_path)
    assert (arguments.n_gpu, arguments.train_batch_size) == (1, 1)


def _four_devices(arguments):
    arguments._n_gpu = 4
    return torch.device("cuda:0")
