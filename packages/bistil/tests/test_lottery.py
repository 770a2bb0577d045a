"""Both phases together."""

import pytest
import torch
from torch import nn

from bistil.errors import SparseError
from bistil.lottery.config import Sparsity, TrainingPlan
from bistil.lottery.lottery_ticket import lottery_ticket


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Embedding(12, 6), nn.Linear(6, 6), nn.LayerNorm(6))
        self.head = nn.Linear(6, 3)

    def forward(self, num_items_in_batch=None, **batch):
        logits = self.head(torch.tanh(self.encoder(batch["input_ids"])))
        total = nn.functional.cross_entropy(logits, batch["labels"], reduction="sum")
        return {"loss": total / num_items_in_batch}


def batches(steps):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(12, (steps, 8), generator=generator)
    labels = torch.randint(3, (steps, 8), generator=generator)
    return [{"input_ids": i, "labels": y} for i, y in zip(ids, labels, strict=True)]


def trained(folder, **sparsity):
    model = Model()
    plan = TrainingPlan(steps=5, learning_rate=0.05)
    ticket = lottery_ticket(model, model, batches, plan, Sparsity(values="float32", **sparsity), folder)  # fmt: skip
    return model, ticket


def test_keeping_everything_in_two_phases_is_fine_tuning_in_one(tmp_path):
    """The second phase starts where the first did, body and head."""
    whole, _ = trained(tmp_path / "full", full=True)
    sparse, ticket = trained(tmp_path / "all", density=1.0, full_steps=3, freeze_norms=False)
    for name, parameter in whole.named_parameters():
        assert torch.equal(parameter, sparse.get_parameter(name)), name
    assert len(ticket.body) == len(list(whole.encoder.parameters()))


def test_keeping_everything_takes_the_steps_of_both_phases_if_asked_and_no_places(tmp_path):
    _, ticket = trained(tmp_path, full=True, full_steps=3)
    assert ticket.last.steps == 5 + 3
    assert all(delta.indices is None for delta in ticket.body.values())


def test_what_is_kept_is_what_moved_most_in_the_first_phase(tmp_path):
    first = Model()
    plan = TrainingPlan(steps=4, learning_rate=0.05)
    lottery_ticket(first, first, batches, plan, Sparsity(full=True, values="float32"), tmp_path / "first")  # fmt: skip
    _, ticket = trained(tmp_path / "sparse", count=20, full_steps=4, freeze_norms=False)
    start = Model()
    moved = [
        (float(abs(b - a)), name, place)
        for (name, old), new in zip(start.encoder.named_parameters(), first.encoder.parameters(), strict=True)
        for place, (a, b) in enumerate(zip(old.detach().ravel(), new.detach().ravel(), strict=True))
    ]  # fmt: skip
    expected = {(name, place) for _, name, place in sorted(moved, reverse=True)[:20]}
    found = {(name, place) for name, its in ticket.body.items() for place in its.indices.tolist()}
    assert found == expected


def test_norms_stay_unless_asked_for(tmp_path):
    model, _ = trained(tmp_path, density=0.5, full_steps=2)
    assert torch.equal(model.encoder[2].weight, Model().encoder[2].weight)
    assert not torch.equal(model.head.weight, Model().head.weight)


def test_more_entries_than_there_are_is_refused(tmp_path):
    with pytest.raises(SparseError, match="from 1 to 114 entries of the body, got 1000"):
        trained(tmp_path, count=1000, full_steps=1)
