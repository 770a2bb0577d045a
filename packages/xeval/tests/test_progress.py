"""What a user sees while waiting: lines in a log, losses and scores among them, and nothing where quiet was asked for."""

import io
import logging
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import TrainerControl, TrainerState

from xeval.cli.console import _PlainLines, plain_lines, progress, progress_line
from xeval.data.source import LocalFolder
from xeval.errors import XevalError
from xeval.evaluate.score import score
from xeval.finetune.callbacks import LossMeter, NotFiniteError, TrainingProgress
from xeval.finetune.trainer import training_arguments
from xeval.finetune.tune import tune
from xeval.protocol import Protocol

Models = Callable[[str], Path]
BRIEF = Protocol(learning_rate=3e-3, batch_size=8, steps=4, evaluate_every=2, max_length=32)


class Log(io.StringIO):
    """A log that says when it has a line three times."""

    def __init__(self, line: str = "") -> None:
        super().__init__()
        self.line, self.full = line, threading.Event()

    def write(self, text: str) -> int:
        written = super().write(text)
        if self.getvalue().count(self.line + "\n") >= 3:
            self.full.set()
        return written


def test_a_log_has_a_line_for_each_thing_its_evaluations_and_its_notes() -> None:
    log, now = Log(), 0.0
    with plain_lines(log, clock=lambda: now) as watch:
        watch(0, 1, "reading ud/en_ewt")
        for step in (1, 2):
            watch(step, 4, f"tuning, loss {step}")
            watch(0, 9, "development set")
            watch(step, 4, f"evaluated at step {step}: accuracy 90.00")
        watch(0, 0, "en_ewt: 1 of 2 sentences was cut")

    assert log.getvalue().splitlines() == [
        "reading ud/en_ewt",
        "tuning 1/4 (25 %), loss 1",
        "development set 0/9 (0 %)",
        "evaluated at step 1: accuracy 90.00",
        "evaluated at step 2: accuracy 90.00",
        "en_ewt: 1 of 2 sentences was cut",
    ]


def test_a_step_in_which_nothing_is_told_repeats_the_last_state() -> None:
    log = Log("tuning 120/800 (15 %), loss 2.31")
    with plain_lines(log, every=0.001) as watch:
        watch(120, 800, "tuning, loss 2.31")

        assert log.full.wait(timeout=60)


def test_before_anything_is_told_there_is_life() -> None:
    log = Log("starting")
    with plain_lines(log, every=0.001):
        assert log.full.wait(timeout=60)


def test_the_time_left_is_that_of_the_thing_and_not_of_what_was_done_before() -> None:
    now = 0.0
    log = Log()
    lines = _PlainLines(log, lambda: now)
    lines.watch(100, 800, "tuning")
    lines.watch(500, 800, "tuning, loss 2")
    now = 40.0
    lines.repeat(30.0)
    lines.repeat(30.0)

    assert log.getvalue().splitlines() == [
        "tuning 100/800 (12 %)",
        "tuning 500/800 (62 %), loss 2, 30 s left",
    ]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(8.4, "8 s"), (59.6, "60 s"), (90, "2 min"), (3599, "1 h 0 min"), (9000, "2 h 30 min")],
)
def test_time_is_said_in_its_own_unit(seconds: float, said: str) -> None:
    line = progress_line(1_200, 8_000, "tuning, loss 2", seconds_left=seconds)

    assert line == f"tuning 1,200/8,000 (15 %), loss 2, {said} left"


def test_quiet_keeps_notes_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(quiet=True) as watch:
        watch(1, 4, "tuning, loss 2")
        watch(2, 4, "evaluated at step 2: accuracy 90.00")
        watch(0, 0, "a note")

    assert capsys.readouterr() == ("", "a note\n")


def test_a_log_on_a_full_disk_stops_no_work() -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    with plain_lines(Full()) as watch:
        watch(1, 4, "tuning")


def test_tuning_tells_loss_speed_and_every_evaluation(
    models: Models, data: Path, tmp_path: Path
) -> None:
    told: list[tuple[int, int, str]] = []

    tune(
        models("bert"), tmp_path / "t", task="pos", source=LocalFolder(data), language="xx",
        protocol=BRIEF, watch=lambda *state: told.append(state),
    )  # fmt: skip

    steps = [(done, what) for done, total, what in told if what.startswith("tuning,")]
    assert [done for done, _ in steps] == [1, 2, 3, 4]
    assert all(re.match(r"tuning, loss \d[.\d]*, [\d,.]+ examples/s", what) for _, what in steps)
    first, second = (what for *_, what in told if what.startswith("evaluated"))
    assert re.fullmatch(r"evaluated at step 2: accuracy \d+\.\d\d, the best so far", first)
    assert re.match(r"evaluated at step 4: accuracy \d+\.\d\d, ", second)
    assert told[0] == (0, 1, "reading ud/xx_made")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(10.0, "6.4 examples/s"), (0.04, "1,600 examples/s"), (0.0, "loss 2.00")],
)
def test_the_speed_of_a_tuning_has_no_exponent(seconds: float, said: str) -> None:
    told: list[str] = []
    times = iter([0.0, seconds, seconds])
    losses = LossMeter()
    told_by = TrainingProgress(
        losses, batch_size=32, metric="accuracy", watch=lambda *state: told.append(state[2]),
        clock=lambda: next(times),
    )  # fmt: skip
    state = TrainerState(global_step=0, max_steps=8)
    told_by.on_train_begin(None, state, TrainerControl())
    losses.add(torch.tensor(4.0), 1)
    state.global_step = 2
    told_by.on_step_end(None, state, TrainerControl(should_evaluate=False))

    assert told[-1].endswith(said)


def test_scoring_tells_the_figure_of_every_test_set(
    tuned_pos: Path, data: Path, tmp_path: Path
) -> None:
    told: list[tuple[int, int, str]] = []

    results = score(
        tuned_pos, tmp_path / "r", source=LocalFolder(data), languages=["xx", "yy"],
        watch=lambda *state: told.append(state),
    )  # fmt: skip

    assert [state for state in told if state[2].startswith("evaluated")] == [
        (i, 2, f"evaluated pos {r.dataset.removeprefix('ud/')}: accuracy {r.value:.2f}")
        for i, r in enumerate(results, 1)
    ]


def test_the_meter_sums_batches_and_begins_anew_when_taken() -> None:
    meter = LossMeter()
    for loss in (0.5, 0.25):
        meter.add(torch.tensor(loss), 3)

    assert meter.take() == 0.75
    meter.add(torch.tensor(2.0), 4)
    assert meter.take() == 2.0


@pytest.mark.parametrize("fault", [float("nan"), float("inf")])
def test_the_first_loss_that_is_not_finite_is_named_however_late_one_looks(fault: float) -> None:
    meter = LossMeter()
    for step, loss in enumerate((1.0, fault, 2.0, -float("inf"))):
        meter.add(torch.tensor(loss), step)

    with pytest.raises(NotFiniteError, match=f"the loss became {fault} at step 1$"):
        meter.take()


def test_noting_a_loss_waits_for_no_device() -> None:
    meter = LossMeter()

    # What a fake tensor holds cannot be asked for: `float` and `bool` of it are errors.
    with FakeTensorMode():
        for step in range(3):
            meter.add(torch.empty(()), step)

        with pytest.raises(Exception, match=r"item|local_scalar|data-dependent"):
            meter.take()


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As far as a CPU build can pretend: the Trainer's arguments see four GPUs."""
    from accelerate.state import AcceleratorState

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("four_gpus")
def test_of_several_visible_gpus_one_is_used_and_one_line_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="xeval"):
        arguments = training_arguments(
            tmp_path, BRIEF, metric="accuracy", at_a_time=BRIEF.batch_size, bf16=True, seed=0
        )

    assert (arguments.device, arguments.n_gpu) == (torch.device("cuda:0"), 1)
    assert arguments.train_batch_size == BRIEF.batch_size
    assert caplog.messages == [
        "tuning uses cuda:0, one of 4 visible GPUs; CUDA_VISIBLE_DEVICES chooses another"
    ]


def test_a_launcher_of_several_processes_is_refused(
    models: Models, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")

    with pytest.raises(XevalError, match="a launcher started 2; start it without torchrun"):
        tune(models("bert"), tmp_path / "t", task="pos", source=LocalFolder(data), language="xx")
