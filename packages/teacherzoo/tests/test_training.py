"""A Trainer over prepared batches: their order, the loss inside the forward pass, plain checkpoints, exact resume."""

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from transformers import AutoModelForMaskedLM, BertConfig, BertForMaskedLM, set_seed

from teacherzoo.errors import TeacherError
from teacherzoo.training.arguments import decided_arguments, trainer_arguments
from teacherzoo.training.loss_module import LossModule
from teacherzoo.training.trainer import PreparedBatchTrainer
from teacherzoo.training.watch import TrainingWatch

STEPS = 6


def tiny_student() -> Any:
    set_seed(0)
    return BertForMaskedLM(
        BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    )  # fmt: skip


class CrossEntropy(LossModule):
    """Notes which batches it sees, and in what precision a layer of the student computes."""

    def __init__(self, student: Any) -> None:
        super().__init__(student)
        self.seen: list[int] = []
        self.dtypes: set[torch.dtype] = set()
        student.bert.encoder.layer[0].output.dense.register_forward_hook(
            lambda _layer, _inputs, output: self.dtypes.add(output.dtype)
        )

    def forward(self, *, number: torch.Tensor, input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        self.seen.append(int(number))
        return {"loss": self.student(input_ids=input_ids, labels=input_ids).loss}


class Batches(torch.utils.data.Dataset[dict[str, Any]]):
    def __len__(self) -> int:
        return STEPS

    def __getitem__(self, index: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(index)
        return {
            "number": torch.tensor(index),
            "input_ids": torch.randint(20, (2, 5), generator=generator),
        }


class Evaluated(PreparedBatchTrainer):
    """Evaluations find what they are told to find, in turn."""

    def __init__(self, scores: Iterator[float], **named: Any) -> None:
        super().__init__(eval_dataset=[], **named)
        self.scores = scores

    def measure(self) -> dict[str, float]:
        return {"eval_score": next(self.scores)}


def trained(
    folder: Path, *, scores: Sequence[float] = (), checkpoint_every: int = 2, **wishes: Any
) -> CrossEntropy:
    """As a run in `folder` leaves it, which resumes there; patience ends it after two evaluations without a new best."""
    scored = {
        "eval_strategy": "steps",
        "eval_steps": 1,
        "metric_for_best_model": "eval_score",
        "greater_is_better": True,
    }
    decided = decided_arguments(
        folder,
        steps=STEPS,
        learning_rate=0.01,
        warmup_steps=0,
        seed=0,
        checkpoint_every=checkpoint_every,
        **(scored if scores else {}),
    )
    loss = CrossEntropy(tiny_student())
    Evaluated(
        iter(scores),
        model=loss,
        patience=2,
        args=trainer_arguments(decided, wishes, where="wishes", error=TeacherError),
        train_dataset=Batches(),
        callbacks=[TrainingWatch(lambda *_: None, what="training", advice="lower it")],
    ).resume()
    return loss


def same_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    weights = other.state_dict()
    return all(torch.equal(tensor, weights[name]) for name, tensor in one.state_dict().items())


def test_batches_come_in_their_order_each_whole(tmp_path: Path) -> None:
    assert trained(tmp_path).seen == [*range(STEPS)]


def test_checkpoints_are_plain_model_folders_of_the_student(tmp_path: Path) -> None:
    loss = trained(tmp_path)

    read = AutoModelForMaskedLM.from_pretrained(tmp_path / f"checkpoint-{STEPS}")

    assert same_weights(read, loss.student)
    assert read.get_output_embeddings().weight is read.get_input_embeddings().weight


@pytest.mark.parametrize("step", [2, 4, 6])
def test_a_run_resumed_from_any_checkpoint_ends_in_the_same_bytes(
    tmp_path: Path, step: int
) -> None:
    whole = trained(tmp_path / "whole", save_total_limit=9)
    shutil.copytree(
        tmp_path / "whole" / f"checkpoint-{step}", tmp_path / "killed" / f"checkpoint-{step}"
    )

    resumed = trained(tmp_path / "killed")

    assert resumed.seen == [*range(step, STEPS)]
    assert same_weights(resumed.student, whole.student)


def test_the_operations_counted_are_the_students(tmp_path: Path) -> None:
    student = trained(tmp_path).student
    state = json.loads((tmp_path / f"checkpoint-{STEPS}" / "trainer_state.json").read_text())

    tokens = STEPS * 2 * 5
    assert state["total_flos"] == 6 * tokens * student.num_parameters(exclude_embeddings=True)


def test_the_student_inside_computes_in_the_precision_asked_for(tmp_path: Path) -> None:
    assert trained(tmp_path / "exact").dtypes == {torch.float32}
    assert trained(tmp_path / "half", bf16=True).dtypes == {torch.bfloat16}


def test_a_gathered_state_is_written_as_the_students_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an engine that shares out the optimiser hands it over: of the whole module, other parts among it."""
    loss = CrossEntropy(tiny_student())
    state = {name: tensor + 1 for name, tensor in loss.state_dict().items()}
    state["projection"] = torch.zeros(2)

    loss.save_student(tmp_path, state)

    other = CrossEntropy(tiny_student())
    other.load_student(tmp_path)
    expected = {name: tensor + 1 for name, tensor in tiny_student().state_dict().items()}
    for name, tensor in other.student.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize(
    "checkpoint_every", [1, 4]
)  # evaluations and checkpoints need not fall together
def test_the_best_weights_are_left_and_patience_ends_the_run(
    tmp_path: Path, checkpoint_every: int
) -> None:
    loss = trained(tmp_path, scores=[1.0, 3.0, 2.0, 3.0, 9.0], checkpoint_every=checkpoint_every)

    assert loss.seen == [0, 1, 2, 3]
    best = AutoModelForMaskedLM.from_pretrained(tmp_path / "checkpoint-2")
    assert same_weights(best, loss.student)


@pytest.mark.parametrize(
    ("scores", "checkpoint_every", "left"),
    [
        ([1.0, 3.0, 2.0, 2.5], 1, []),  # killed between the evaluation that ran out of patience and the end
        ([1.0, 3.0, 2.0, 2.5], 3, [2.5]),  # where that left no checkpoint, one step is taken again, and its evaluation
        ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 1, []),  # after the last step
        ([6.0, 1.0, 7.0, 1.0, 2.0], 4, [2.0]),  # patience counts on over the interruption
    ],
)  # fmt: skip
def test_a_run_that_is_killed_before_it_loads_its_best_weights_makes_what_the_unbroken_one_makes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    scores: list[float],
    checkpoint_every: int,
    left: list[float],
) -> None:
    whole = trained(tmp_path / "whole", scores=scores, checkpoint_every=checkpoint_every)
    with monkeypatch.context() as killed:
        killed.setattr(PreparedBatchTrainer, "load_best", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "killed", scores=scores, checkpoint_every=checkpoint_every)

    resumed = trained(tmp_path / "killed", scores=left or [0.0], checkpoint_every=checkpoint_every)

    assert len(resumed.seen) == len(left)
    assert same_weights(resumed.student, whole.student)
