"""Progress as plain lines, for logs: at the start of each new thing, at each evaluation, and every half minute."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TextIO

from teacherzoo.progress import ProgressCallback

_EVALUATION = re.compile(r"(^|: )evaluated\b")


class PlainLines:
    """A context that gives a watcher `(done, total, what)`, where `what` is a thing and, behind a comma, its figures.

    A thread repeats the last state, so that even one long step shows life.

    Args:
        stream: where the lines go.
        every: seconds without a line after which the state is repeated.
        clock: the time in seconds.

    Example:
        >>> import sys
        >>> with PlainLines(sys.stdout) as watch:
        ...     watch(120, 800, "training, loss 2.31")
        training 120/800 (15 %), loss 2.31
    """

    def __init__(
        self,
        stream: TextIO,
        *,
        every: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream, self._every, self._clock = stream, every, clock
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._repeater = threading.Thread(target=self._repeat, daemon=True)
        self._due = clock() + every
        self._state = (0, 0, "starting")
        self._since = (clock(), 0)  # the thing's first report: when, and how much was done already
        self._thing = ""
        self._announced: set[str] = set()
        self._written = ""

    def __enter__(self) -> ProgressCallback:
        """Start repeating."""
        self._repeater.start()
        return self._watch

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        """Say how it ended, unless it failed."""
        self._ended.set()
        self._repeater.join()
        if kind is None and self._thing:
            self._write()

    def _watch(self, done: int, total: int, what: str) -> None:
        thing = what.partition(",")[0]
        with self._lock:
            self._state = (done, total, what)
            evaluation = _EVALUATION.search(what) is not None
            if not evaluation and thing != self._thing:
                self._thing, self._since = thing, (self._clock(), done)
            if evaluation or thing not in self._announced:
                self._announced.add(thing)
                self._write()

    def _repeat(self) -> None:
        while not self._ended.wait(self._due - self._clock()):
            with self._lock:
                if self._clock() >= self._due:
                    self._write(again=True)

    def _write(self, *, again: bool = False) -> None:
        self._due = self._clock() + self._every
        done, total, what = self._state
        line = progress_line(done, total, what, seconds_left=self._seconds_left(done, total))
        if line == self._written and not again:
            return
        self._written = line
        with contextlib.suppress(OSError, ValueError):  # a log that is full or closed stops no work
            self._stream.write(line + "\n")
            self._stream.flush()

    def _seconds_left(self, done: int, total: int) -> float | None:
        start, before = self._since
        elapsed = self._clock() - start
        if not elapsed or done <= before or done >= total:
            return None
        return elapsed * (total - done) / (done - before)


def progress_line(done: int, total: int, what: str, *, seconds_left: float | None = None) -> str:
    """One line about a state.

    Args:
        done: how much is done.
        total: of how much; 0 where nobody knows, 1 for a thing that is not counted.
        what: the thing and, behind a comma, its figures.
        seconds_left: until it is done, where that can be told.

    Example:
        >>> progress_line(120, 800, "training, loss 2.31, 4,100 tokens/s", seconds_left=540)
        'training 120/800 (15 %), loss 2.31, 4,100 tokens/s, 9 min left'
        >>> progress_line(2000, 0, "reading en")
        'reading en 2,000'
    """
    thing, comma, figures = what.partition(",")
    count = f" {done:,}/{total:,} ({100 * done // total} %)" if total > 1 else ""
    if not total and done:
        count = f" {done:,}"
    left = "" if seconds_left is None else f", {_duration(seconds_left)} left"
    return f"{thing}{count}{comma}{figures}{left}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"
