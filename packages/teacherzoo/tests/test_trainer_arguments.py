"""What a Trainer of ours is told: which wishes it honours, which it refuses, and that it keeps to one device."""

import logging
import sys
from collections.abc import Iterator
from dataclasses import fields
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from transformers import TrainingArguments

from teacherzoo.training.arguments import HONOURED, trainer_arguments


class RefusalError(Exception):
    pass


def made(folder: Path, asked: dict[str, Any], **more: Any) -> TrainingArguments:
    ours = {"output_dir": str(folder), "max_steps": 3, "per_device_train_batch_size": 1, "seed": 5}
    return trainer_arguments({**ours, **more.pop("ours", {})}, asked, where="asked", error=RefusalError, **more)  # fmt: skip


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As far as a CPU build can pretend: the Trainer's arguments see four GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    yield
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("four_gpus")
def test_of_several_visible_gpus_one_is_used_and_one_line_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="teacherzoo"):
        arguments = made(tmp_path, {})

    assert arguments.device == torch.device("cuda:0")
    # An item of a data set is a whole batch: with four GPUs `Trainer` would ask for four of them.
    assert (arguments.n_gpu, arguments.train_batch_size) == (1, 1)
    (line,) = caplog.messages
    assert line.startswith("4 GPUs are visible and one of them is used")
    assert "torchrun --nproc-per-node 4" in line


def test_without_a_gpu_nothing_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="teacherzoo"):
        arguments = made(tmp_path, {})

    assert (arguments.device, arguments.train_batch_size, caplog.messages) == (torch.device("cpu"), 1, [])  # fmt: skip


def test_a_wish_is_honoured_beside_what_was_decided(tmp_path: Path) -> None:
    arguments = made(
        tmp_path,
        {"optim": "sgd", "max_grad_norm": 1, "logging_steps": 7, "gradient_accumulation_steps": 2},
        ours={"logging_steps": 2},
        overridable=["logging_steps"],
    )

    assert (arguments.optim, arguments.max_grad_norm, arguments.logging_steps) == ("sgd", 1, 7)
    assert (arguments.max_steps, arguments.seed, arguments.gradient_accumulation_steps) == (3, 5, 2)


def test_a_field_that_is_not_honoured_may_stand_at_its_default(tmp_path: Path) -> None:
    arguments = made(tmp_path, {"average_tokens_across_devices": True, "label_smoothing_factor": 0.0})  # fmt: skip

    assert arguments.average_tokens_across_devices


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"seed": 4}, "asked: seed is decided elsewhere"),
        ({"lerning_rate": 3}, r"asked: .* has no field 'lerning_rate' \(did you mean 'learning_rate'\?\); leave it out"),
        ({"_n_gpu": 3}, "asked: .* has no field '_n_gpu'"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor is not supported by this training: the loss"),
        ({"average_tokens_across_devices": False}, "average_tokens_across_devices is not supported by this training: a step"),
        ({"gradient_checkpointing": True}, "gradient_checkpointing is not supported by this training: a forward"),
        ({"fsdp": "full_shard"}, "fsdp is not supported by this training: losses read"),
        ({"train_sampling_strategy": "group_by_length"}, "train_sampling_strategy is not supported .* seed alone"),
        ({"load_best_model_at_end": True}, "load_best_model_at_end is not supported"),
        ({"neftune_noise_alpha": 5}, "neftune_noise_alpha is not supported by this training; leave it out"),
        ({"bf16": "yes"}, "bf16 must be true or false, got 'yes'"),
        ({"adam_epsilon": "1e-8"}, "adam_epsilon must be a number, got '1e-8'"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps must be a whole number from 1, got 0"),
        ({"gradient_accumulation_steps": 1.5}, "gradient_accumulation_steps must be a whole number from 1, got 1.5"),
        ({"report_to": ["nowhere"]}, "asked: report_to: nowhere is not supported"),
        ({"optim": "adamw_bnb_8bit"}, "asked: .*bitsandbytes"),
        ({"adam_beta1": 2.0}, "asked: Invalid beta parameter at index 0: 2.0"),
        ({"dataloader_persistent_workers": True}, "asked: persistent_workers option needs num_workers > 0"),
        ({"lr_scheduler_type": "sideways"}, "asked: sideways is not a valid SchedulerType"),
        ({"bf16": True, "fp16": True}, "asked: .*fp16"),
    ],
)  # fmt: skip
def test_what_a_training_cannot_honour_is_one_sentence(
    tmp_path: Path, asked: dict[str, Any], message: str
) -> None:
    with pytest.raises(RefusalError, match=message) as caught:
        made(tmp_path, asked)

    assert "\n" not in str(caught.value)


def test_the_list_names_fields_that_transformers_has() -> None:
    assert set() == HONOURED - {field.name for field in fields(TrainingArguments) if field.init}


def test_a_training_that_does_not_use_deepspeed_does_not_look_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Sentinel(MetaPathFinder):
        def find_spec(self, name: str, path: Any, target: Any = None) -> None:
            assert name != "deepspeed"

    made(tmp_path, {})
    monkeypatch.delitem(sys.modules, "deepspeed", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Sentinel(), *sys.meta_path])
    model = torch.nn.Linear(2, 2)

    assert Accelerator(cpu=True).unwrap_model(model) is model
