"""A Trainer over prepared batches: their order, the loss inside the forward pass, plain checkpoints, exact resume."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForMaskedLM, BertConfig, BertForMaskedLM, set_seed

from teacherzoo.errors import TeacherError
from teacherzoo.training.arguments import trainer_arguments
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


def trained(folder: Path, **wishes: Any) -> CrossEntropy:
    """As a run in `folder` leaves it, which resumes there."""
    ours = {
        "output_dir": str(folder),
        "max_steps": STEPS,
        "per_device_train_batch_size": 1,
        "learning_rate": 0.01,
        "save_strategy": "steps",
        "save_steps": 2,
        "logging_steps": 2,
    }
    loss = CrossEntropy(tiny_student())
    PreparedBatchTrainer(
        model=loss,
        args=trainer_arguments(ours, wishes, where="wishes", error=TeacherError),
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
