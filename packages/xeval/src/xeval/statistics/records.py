"""What a results file holds now; of a file that was read before, what was added since is read."""

import copy
import json
import logging
import os
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, BinaryIO

from xeval.errors import XevalError
from xeval.statistics.result import SCHEMA, Result

_log = logging.getLogger("xeval")


class Records:
    """The whole lines of a results file, as far as they were read.

    The last figure decides: one on other test items outdates all of its test set, one of a model that was tuned on
    other data all of that tuning.

    Args:
        path: of the file.

    Attributes:
        current: by key, what the file holds now.
        outdated: how many figures on an earlier state of the data it holds besides.
        end: bytes of the lines that were read.
        unfinished: what follows these, without a line end.
    """

    def __init__(self, path: Path) -> None:
        self.current: dict[tuple[object, ...], Result] = {}
        self.outdated, self.end, self.unfinished = 0, 0, b""
        self.path = path
        self.state: tuple[int, ...] = ()
        self.last_line = b""
        self._lines = 0
        self._trained: dict[object, str | None] = {}
        self._tested: dict[object, str | None] = {}

    def add(self, content: bytes) -> None:
        """Take in further lines, each with its end.

        Raises:
            XevalError: naming file and line, for a line that is no record or disagrees with one before it.
        """
        for number, line in enumerate(content.split(b"\n")[:-1], start=self._lines + 1):
            if line.strip():
                try:
                    result = _record(line, self.path, number)
                except _UnfinishedError as error:
                    raise XevalError(
                        f"{self.path}:{number}: not a line of JSON ({error}); remove the line"
                    ) from error
                self._take(result)
        self._lines += content.count(b"\n")
        self.end += len(content)
        if content:
            self.last_line = content[content.rfind(b"\n", 0, -1) + 1 :]

    def with_last_line(self) -> "Records":
        """The same with a last line that lacks its end; one that a writer left unfinished is left out, with a warning in the log."""
        if not self.unfinished.strip():
            return self
        number = self._lines + 1
        try:
            result = _record(self.unfinished, self.path, number)
        except _UnfinishedError:
            _log.warning("%s:%d: the last line is unfinished and was ignored", self.path, number)
            return self
        records = copy.copy(self)
        records.current = dict(self.current)
        records._trained, records._tested = dict(self._trained), dict(self._tested)
        records._take(result)
        return records

    def _take(self, result: Result) -> None:
        if result.value is not None:
            tuning, test_set = result.tuning, result.test_set
            if self._trained.setdefault(tuning, result.train_digest) != result.train_digest:
                self._forget("tuning", tuning)
            if self._tested.setdefault(test_set, result.test_digest) != result.test_digest:
                self._forget("test_set", test_set)
            self._trained[tuning], self._tested[test_set] = result.train_digest, result.test_digest
        before = self.current.get(result.key)
        if before is None or before.value is None:
            self.current[result.key] = result
        elif result.value is not None:
            check_same(before, result)

    def _forget(self, group: str, of: object) -> None:
        gone = [k for k, r in self.current.items() if r.value is not None and getattr(r, group) == of]  # fmt: skip
        for key in gone:
            del self.current[key]
        self.outdated += len(gone)


_remembered: dict[Path, Records] = {}  # of the file that was read or written last


def read_on(file: BinaryIO, path: Path) -> Records:
    """The records of an open file: those that are remembered and what was added since, or all of it.

    Raises:
        XevalError: see `Records.add`.
    """
    records = _remembered.pop(path, None)
    if records is None or not _is_grown(file, records):
        records = Records(path)
    file.seek(records.end)
    content = file.read()
    whole = content.rfind(b"\n") + 1
    records.add(content[:whole])
    records.unfinished = content[whole:]
    return records


def remember(records: Records, file: BinaryIO) -> None:
    """Keep the records of a file as it is now, in place of any other's."""
    records.state = _state_of(file)
    _remembered.clear()
    _remembered[records.path] = records


def _is_grown(file: BinaryIO, records: Records) -> bool:
    """Whether it is the file that was read, as it was or with more behind it; any other change makes another file of it."""
    state = _state_of(file)
    if state == records.state:
        return True
    same_file, longer = state[:2] == records.state[:2], state[2] > records.state[2]
    if not same_file or not longer:
        return False
    file.seek(records.end - len(records.last_line))
    return file.read(len(records.last_line)) == records.last_line


def _state_of(file: BinaryIO) -> tuple[int, ...]:
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def check_same(before: Result, result: Result) -> None:
    """Refuse two records of one key that say different things.

    Raises:
        XevalError: naming both files.
    """
    if not before.is_of(result.train_digest, result.test_digest):
        raise XevalError(
            f"{result.file}: {result.where}, {result.metric}: is a figure on another state of the test or training data "
            f"than that in {before.file}; remove the older one, or score both again"
        )
    if before.value != result.value:
        raise XevalError(
            f"{result.file}: {result.where}, {result.metric}: has the value {result.value!r} here and {before.value!r} in {before.file}; remove one"
        )


def _strange(record: dict[str, Any]) -> str:
    """Which fields keep a record from being a result."""
    required = {
        f.name for f in fields(Result) if f.default is MISSING and f.default_factory is MISSING
    }
    if lacking := sorted(required - record.keys()):
        return f"it lacks {', '.join(lacking)}"
    unknown = sorted(record.keys() - {f.name for f in fields(Result)})
    return f"it has {', '.join(unknown)}, which is no part of it"


class _UnfinishedError(Exception):
    """A line that is no JSON, as a killed writer leaves one."""


def _record(line: bytes, path: Path, number: int) -> Result:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise _UnfinishedError(str(error)) from error
    schema = record.pop("schema", None) if isinstance(record, dict) else None
    if schema != SCHEMA:
        raise XevalError(
            f"{path}:{number}: expected a result of schema {SCHEMA}, got schema {schema!r}; "
            "score again with this version, or read it with the version that wrote it"
        )
    digest = record.pop("protocol_digest", None)
    try:
        result = Result(**record, file=path)
    except TypeError as error:
        is_cost = "parameters" in record and "task" not in record
        raise XevalError(
            f"{path}:{number}: a cost of a model and no result; give this file as --costs, and files that `xeval run` or `xeval score` wrote as results"
            if is_cost
            else f"{path}:{number}: not a result of schema {SCHEMA}: {_strange(record)}; score again with this version"
        ) from error
    except XevalError as error:
        raise XevalError(f"{path}:{number}: {error}") from error
    if digest != result.protocol_digest:
        raise XevalError(
            f"{path}:{number}: the protocol has the digest {result.protocol_digest!r}, the record says {digest!r}; "
            "the record was edited: score again"
        )
    return result
