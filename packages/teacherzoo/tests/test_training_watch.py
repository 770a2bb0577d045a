"""What a training tells its watcher, and which checkpoints it calls whole."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from teacherzoo.errors import TeacherzooError
from teacherzoo.training import watch as training_watch
from teacherzoo.training.watch import TrainingWatch, last_whole_checkpoint


class Training:
    """A Trainer's calls of its callback, under a clock of our own."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.now = 0.0
        self.said: list[tuple[int, int, str]] = []
        self.args = SimpleNamespace(
            output_dir=str(folder), learning_rate=0.5, metric_for_best_model=None
        )
        self.state = SimpleNamespace(global_step=0, max_steps=100, is_world_process_zero=True)
        self.model = torch.nn.Linear(2, 2)
        self.watch = TrainingWatch(
            lambda *report: self.said.append(report),
            what="training",
            advice="lower it",
            clock=lambda: self.now,
            **options,
        )
        self.call("train_begin")

    def call(self, event: str, **more: Any) -> None:
        getattr(self.watch, f"on_{event}")(self.args, self.state, None, model=self.model, **more)

    def steps(self, count: int, *, seconds: float, loss: float) -> str:
        self.state.global_step += count
        self.now += seconds
        self.call("log", logs={"loss": loss})
        self.call("step_end")
        return self.said[-1][2]

    def save(self) -> None:
        (Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}").mkdir()
        self.call("save")


def test_a_report_has_loss_and_the_rate_since_the_last_log(tmp_path: Path) -> None:
    training = Training(tmp_path, per_step=2048, unit="tokens")

    assert training.steps(10, seconds=5, loss=2.314) == "training, loss 2.31, 4,096 tokens/s"
    assert training.steps(1, seconds=1024, loss=2) == "training, loss 2.00, 2.0 tokens/s"
    assert training.said[-1][:2] == (11, 100)


def test_the_time_of_an_evaluation_and_of_an_earlier_run_is_not_in_the_rate(tmp_path: Path) -> None:
    training = Training(tmp_path, per_step=8)
    training.state.global_step, training.now = 50, 1000
    training.call("train_begin")  # resumed at step 50
    assert training.steps(10, seconds=4, loss=2).endswith("loss 2.00, 20 examples/s")

    training.now += 1e6
    training.call("evaluate", metrics={"eval_bits": 1.5})

    assert training.steps(10, seconds=4, loss=2).endswith("loss 2.00, 20 examples/s")


def test_an_evaluation_is_told_with_the_metrics_asked_for(tmp_path: Path) -> None:
    training = Training(
        tmp_path, evaluated={"eval_bits": "{:.3f} bits per byte", "eval_absent": "x"}
    )

    training.call("evaluate", metrics={"eval_bits": 1.5, "eval_other": 3.0})

    assert training.said == [(0, 100, "evaluated, 1.500 bits per byte")]


def test_a_small_loss_is_told_by_its_first_digits(tmp_path: Path) -> None:
    assert Training(tmp_path).steps(1, seconds=1, loss=0.000123456) == "training, loss 0.000123"


def test_without_a_number_of_units_there_is_no_rate(tmp_path: Path) -> None:
    assert Training(tmp_path).steps(10, seconds=5, loss=2) == "training, loss 2.00"


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number_ends_the_training(tmp_path: Path, loss: float) -> None:
    with pytest.raises(TeacherzooError, match=rf"The loss is {loss} at step 3; lower it \(now 0.5\)"):  # fmt: skip
        Training(tmp_path).steps(3, seconds=1, loss=loss)


def test_a_checkpoint_is_called_whole_after_every_process_has_written_its_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training(tmp_path)
    before = []
    monkeypatch.setattr(
        training_watch, "wait_for_all", lambda: before.append(last_whole_checkpoint(tmp_path))
    )

    training.save()

    assert before == [None]
    assert last_whole_checkpoint(tmp_path) == str(tmp_path / "checkpoint-0")


def test_a_checkpoint_of_weights_that_are_no_numbers_is_never_resumed(tmp_path: Path) -> None:
    training = Training(tmp_path)
    training.save()
    training.state.global_step = 7
    with torch.no_grad():
        training.model.weight[1, 0] = math.nan

    with pytest.raises(TeacherzooError, match="The weights are no longer finite at step 7; lower"):
        training.save()

    assert last_whole_checkpoint(tmp_path) == str(tmp_path / "checkpoint-0")
