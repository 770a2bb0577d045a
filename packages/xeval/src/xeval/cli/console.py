"""How the commands behave: refusals in one sentence, progress on standard error, results alone on standard output."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TextIO

import typer

from xeval.errors import XevalError
from xeval.progress import ProgressCallback


@contextlib.contextmanager
def one_sentence() -> Iterator[None]:
    """What the user can mend is said in one sentence, and the exit status is 2."""
    try:
        yield
    except (XevalError, OSError) as error:
        typer.echo(f"xeval: {error}", err=True)
        raise typer.Exit(2) from error
    except KeyboardInterrupt as error:
        typer.echo("xeval: interrupted; the same command does what is not done yet", err=True)
        raise typer.Exit(130) from error


def table_console() -> Any:
    """A console that does not fold tables in a file to the width of no terminal."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=160)


@contextlib.contextmanager
def progress(*, quiet: bool = False) -> Iterator[ProgressCallback]:
    """Progress on standard error: a bar in a terminal, elsewhere plain lines. Notes stay in either."""
    # Read by transformers when it is imported: no report on loaded weights, no bars.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # Libraries greet on stdout, which is for results.
    with contextlib.redirect_stdout(sys.stderr):
        if quiet:
            yield _notes_alone(sys.stderr)
        elif sys.stderr.isatty():
            with _bar() as watch:
                yield watch
        else:
            with plain_lines(sys.stderr) as watch:
                yield watch


def _notes_alone(stream: TextIO) -> ProgressCallback:
    def watch(_done: int, total: int, what: str) -> None:
        if not total:
            _write(stream, what)

    return watch


@contextlib.contextmanager
def _bar() -> Iterator[ProgressCallback]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns: list[Any] = [
        TextColumn("{task.description}", markup=False),
        *(BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()),
    ]
    with Progress(*columns, console=console, transient=True) as bar:
        shown: dict[str, Any] = {}

        def watch(done: int, total: int, what: str) -> None:
            if not total or what.startswith("evaluated"):
                console.print(what, markup=False, highlight=False, soft_wrap=True)
                return
            name = what.partition(",")[0]
            if name not in shown:
                for old in shown.values():
                    bar.remove_task(old)
                shown.clear()
                shown[name] = bar.add_task(what, total=total)
            bar.update(shown[name], completed=done, description=what)

        yield watch


@contextlib.contextmanager
def plain_lines(
    stream: TextIO, *, every: float = 30.0, clock: Callable[[], float] = time.monotonic
) -> Iterator[ProgressCallback]:
    """Progress for a log: a line at the start of each thing, at each evaluation, and after so many seconds without one.

    What is watched is a thing and, behind a comma, its figures. A thread repeats the last state, so that one long step
    shows life, too.

    Args:
        stream: where the lines go.
        every: seconds without a line after which the state is written.
        clock: the time in seconds.

    Example:
        >>> with plain_lines(sys.stdout) as watch:
        ...     watch(120, 800, "tuning, loss 2.31")
        tuning 120/800 (15 %), loss 2.31
    """
    lines = _PlainLines(stream, clock)
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(lines.seconds_until_due(every)):
            lines.repeat(every)

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield lines.watch
    finally:
        ended.set()
        thread.join()


class _PlainLines:
    """The state that the watching and the repeating thread share."""

    def __init__(self, stream: TextIO, clock: Callable[[], float]) -> None:
        self._stream, self._clock = stream, clock
        self._lock = threading.Lock()
        self._written_at = self._began = clock()
        self._state: tuple[int, int, str] | None = None
        self._thing, self._done_before = "", 0
        self._announced: set[str] = set()

    def watch(self, done: int, total: int, what: str) -> None:
        with self._lock:
            if not total or what.startswith("evaluated"):
                self._write(what)
                return
            thing = what.partition(",")[0]
            if thing != self._thing:
                self._thing, self._began, self._done_before = thing, self._clock(), done
            self._state = (done, total, what)
            if thing not in self._announced:
                self._announced.add(thing)
                self._write(self._line())

    def seconds_until_due(self, every: float) -> float:
        with self._lock:
            return max(0.0, self._written_at + every - self._clock())

    def repeat(self, every: float) -> None:
        with self._lock:
            if self._clock() - self._written_at >= every:
                self._write(self._line())

    def _write(self, line: str) -> None:
        self._written_at = self._clock()
        _write(self._stream, line)

    def _line(self) -> str:
        if self._state is None:
            return "starting"
        done, total, what = self._state
        elapsed, more = self._clock() - self._began, done - self._done_before
        left = elapsed / more * (total - done) if more > 0 and elapsed > 0 else None
        return progress_line(done, total, what, seconds_left=left)


def progress_line(done: int, total: int, what: str, *, seconds_left: float | None = None) -> str:
    """One line about a state.

    Args:
        done: how much is done.
        total: of how much; 1 for a thing that is not counted.
        what: the thing and, behind a comma, its figures.
        seconds_left: until it is done, where that can be told.

    Example:
        >>> progress_line(120, 800, "tuning, loss 2.31, 41 examples/s", seconds_left=540)
        'tuning 120/800 (15 %), loss 2.31, 41 examples/s, 9 min left'
    """
    thing, comma, figures = what.partition(",")
    count = f" {done:,}/{total:,} ({100 * done // total} %)" if total > 1 else ""
    left = "" if seconds_left is None or done >= total else f", {_duration(seconds_left)} left"
    return f"{thing}{count}{comma}{figures}{left}"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _write(stream: TextIO, line: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # a log that is full or closed stops no work
        stream.write(line + "\n")
        stream.flush()
