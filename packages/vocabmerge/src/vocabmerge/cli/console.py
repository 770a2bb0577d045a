"""How the commands behave: refusals in one sentence, progress on standard error, results alone on standard output."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Annotated, Any, TextIO

import typer

from vocabmerge.errors import VocabularyError
from vocabmerge.progress import ProgressCallback, no_progress

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on standard error.")]


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    """One sentence on standard error and exit status 2 for what the caller can mend."""
    try:
        yield
    except (VocabularyError, OSError) as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt as interrupted:
        typer.echo(str(interrupted) or "Interrupted; nothing was written.", err=True)
        raise typer.Exit(130) from None


@contextlib.contextmanager
def progress(*, quiet: bool = False) -> Iterator[ProgressCallback]:
    """Progress on standard error: a bar in a terminal, elsewhere plain lines.

    Args:
        quiet: say nothing.
    """
    with contextlib.redirect_stdout(sys.stderr):  # some libraries talk on import
        if quiet:
            yield no_progress
        elif sys.stderr.isatty():
            with _bar() as watch:
                yield watch
        else:
            with PlainLines(sys.stderr) as watch:
                yield watch


@contextlib.contextmanager
def _bar() -> Iterator[ProgressCallback]:
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns: list[Any] = [SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn()]  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading", total=None)
        yield lambda done, total, what: bar.update(
            task, description=progress_line(done, total, what)
        )


class PlainLines:
    """Progress for a log: a line when a thing begins and, from a thread of its own, whenever half a minute had none.

    Args:
        stream: where the lines go.
        every: seconds without a line after which the state is written again.
        clock: the time in seconds.

    Example:
        >>> with PlainLines(sys.stdout) as watch:
        ...     watch(2, 8, "rounds of calibration")
        2 of 8 rounds of calibration
    """

    def __init__(
        self, stream: TextIO, *, every: float = 30.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream, self._every, self._clock = stream, every, clock
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._repeater = threading.Thread(target=self._repeat, daemon=True)
        self._state: tuple[int, int | None, str] = (0, None, "reading")
        self._began, self._done_before = clock(), 0
        self._due = clock() + every

    def __enter__(self) -> ProgressCallback:
        """Start the repeating thread."""
        self._repeater.start()
        return self._watch

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        """Stop the repeating thread."""
        self._ended.set()
        self._repeater.join()

    def _watch(self, done: int, total: int | None, what: str) -> None:
        with self._lock:
            new = what != self._state[2]
            self._state = (done, total, what)
            if new:
                self._began, self._done_before = self._clock(), done
                self._write()

    def _repeat(self) -> None:
        while not self._ended.wait(max(0.0, self._due - self._clock())):
            with self._lock:
                if self._clock() >= self._due:
                    self._write()

    def _write(self) -> None:
        self._due = self._clock() + self._every
        done, total, _ = self._state
        elapsed, more = self._clock() - self._began, done - self._done_before
        left = elapsed / more * (total - done) if total and more > 0 and elapsed > 0 else None
        with contextlib.suppress(OSError, ValueError):  # a log that is full or closed stops no work
            self._stream.write(progress_line(*self._state, seconds_left=left) + "\n")
            self._stream.flush()


def progress_line(
    done: int, total: int | None, what: str, *, seconds_left: float | None = None
) -> str:
    """One line about a state.

    Example:
        >>> progress_line(3, 8, "rounds of calibration", seconds_left=100)
        '3 of 8 rounds of calibration, 2 min left'
        >>> progress_line(4000, None, "lines counted")
        '4,000 lines counted'
    """
    if not done and not total:
        return what
    of = f" of {total:,}" if total else ""
    left = ""
    if seconds_left:
        left = f", {seconds_left:.0f} s left" if seconds_left < 60 else f", {seconds_left / 60:.0f} min left"  # fmt: skip
    return f"{done:,}{of} {what}{left}"
