"""Progress in a log: what is written, when, and that a long step shows life."""

import io
import threading
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as some

from teacherzoo.cli import console
from teacherzoo.cli.plain_lines import PlainLines, progress_line


class Hours:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def lines_of(reports: Callable[[Callable[[int, int, str], None], Hours], None]) -> list[str]:
    stream, clock = io.StringIO(), Hours()
    with PlainLines(stream, every=1e6, clock=clock) as watch:
        reports(watch, clock)
    return stream.getvalue().splitlines()


def test_a_line_at_the_start_of_each_thing_at_each_evaluation_and_at_the_end() -> None:
    def reports(watch: Callable[[int, int, str], None], _: Hours) -> None:
        watch(0, 1, "training the tokenizer")
        for step in range(1, 5):
            watch(step, 4, f"training, loss {5 - step}.00")
            if step == 2:
                watch(2, 4, "evaluated, 1.93 bits per byte")

    assert lines_of(reports) == [
        "training the tokenizer",
        "training 1/4 (25 %), loss 4.00",
        "evaluated 2/4 (50 %), 1.93 bits per byte",
        "training 4/4 (100 %), loss 1.00",
    ]


def test_the_time_left_is_told_from_what_this_run_did_of_the_thing() -> None:
    def reports(watch: Callable[[int, int, str], None], clock: Hours) -> None:
        watch(500, 1000, "training")  # resumed: half of it took this run no time
        clock.now = 60
        watch(600, 1000, "training, loss 2.00")
        watch(600, 1000, "evaluated, 2.10 bits per byte")

    assert lines_of(reports)[1] == "evaluated 600/1,000 (60 %), 2.10 bits per byte, 4 min left"


def test_an_evaluation_behind_a_label_is_one_too() -> None:
    def reports(watch: Callable[[int, int, str], None], _: Hours) -> None:
        for step in (1, 2, 3):
            watch(step, 3, f"lt-sft on sw: evaluated, score 0.{step}")

    assert lines_of(reports) == [
        f"lt-sft on sw: evaluated {step}/3 ({100 * step // 3} %), score 0.{step}"
        for step in (1, 2, 3)
    ]


def test_a_step_that_takes_long_shows_life() -> None:
    class Heard(io.StringIO):
        twice = threading.Event()

        def write(self, text: str) -> int:
            if self.getvalue().count("training"):
                self.twice.set()
            return super().write(text)

    stream = Heard()
    with PlainLines(stream, every=0.01) as watch:
        watch(1, 4, "training, loss 2.00")
        assert stream.twice.wait(timeout=60)

    heard = stream.getvalue().splitlines()
    if heard[0] == "starting":  # where a busy machine takes longer than `every` to come to the step
        del heard[0]
    assert set(heard) == {"training 1/4 (25 %), loss 2.00"}


def test_a_log_that_cannot_be_written_stops_no_work() -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    with PlainLines(Full()) as watch:
        watch(1, 4, "training")


@given(some.integers(0, 10**9), some.integers(2, 10**9), some.floats(0, 1e6))
def test_no_line_says_more_than_is_done(done: int, total: int, seconds: float) -> None:
    line = progress_line(min(done, total), total, "x", seconds_left=seconds)

    assert ("100 %" in line) == (done >= total)


@pytest.mark.parametrize("silent", ["quiet", "another process"])
def test_quiet_and_other_processes_write_nothing(
    silent: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "rank", lambda: int(silent != "quiet"))
    with console.progress(quiet=silent == "quiet") as watch:
        watch(1, 2, "training")

    assert capsys.readouterr() == ("", "")


def test_what_libraries_print_stays_out_of_the_result(capsys: pytest.CaptureFixture[str]) -> None:
    with console.progress() as watch:
        watch(1, 2, "training")
        print("noise")

    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == ["training 1/2 (50 %)", "noise"]
