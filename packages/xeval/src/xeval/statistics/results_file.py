"""Results on disk: JSON Lines, one record per figure, appended once and never half.

A record says what was judged (model, task, data set, split, language), how (protocol, seed, bootstrap), and what came
out (metric, value, n, costs). Tables, tests and pages are made from these files and never measure.
"""

import contextlib
import fcntl
import json
import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import BinaryIO

from xeval.errors import XevalError
from xeval.statistics.items import Items, write_items
from xeval.statistics.result import SCHEMA, Result

_log = logging.getLogger("xeval")


def append_result(path: Path | str, result: Result, *, items: Items | None = None) -> bool:
    """Append one record, once.

    Args:
        path: a JSON Lines file, made when absent.
        result: the record.
        items: its per-item statistics; written to a side file first. Their score must be the value.

    Returns:
        Whether it was written: False when the file already has a record of that key and of the same data.

    Raises:
        XevalError: when value and statistics disagree, or the file is of another version or damaged.

    Example:
        >>> import numpy as np, tempfile
        >>> items = Items(metric="accuracy", rows=np.array([[3, 4], [4, 4]]), test_digest="0" * 16)
        >>> result = Result(
        ...     model="small", model_digest="ab12", task="pos", dataset="ud/de_gsd", split="test", language="de",
        ...     source_language="en", protocol={"epochs": 3}, seed=1, metric="accuracy", value=items.value(), n=2,
        ... )
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "results.jsonl"
        ...     append_result(file, result, items=items), append_result(file, result, items=items)
        (True, False)
    """
    return append_results(path, [(result, items)]) == 1


def append_results(path: Path | str, results: Iterable[tuple[Result, Items | None]]) -> int:
    """Append records that the file does not have yet; see `append_result`. Returns how many were written.

    One writer at a time holds the file. A line that a killed writer left unfinished is cut off first. A figure
    may follow a record that says why there was none, or a figure on data that has changed since.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file, _held(file):
        _mend_last_line(file, path)
        file.seek(0)
        known, _ = _current(_parse(file.read(), path))
        lines = []
        for result, items in results:
            test_digest = result.test_digest if items is None else items.test_digest
            before = known.get(result.key)
            if before is not None and (
                result.value is None or before.is_of(result.train_digest, test_digest)
            ):
                continue
            if items is not None:
                result = _with_items(path, result, items)
            known[result.key] = result
            lines.append(_line(result))
        file.write("".join(lines).encode())
        file.flush()
        os.fsync(file.fileno())
    return len(lines)


def read_results(*paths: Path | str) -> list[Result]:
    """Read result files, in order.

    Where a figure follows the reason for its absence, or files repeat a record, one of each key is kept. Figures on
    test or training data that the same file later has figures of in another state are left out, with a warning in the
    log; so is an unfinished last line.

    Raises:
        XevalError: naming file and line, for a record of another version or a line that is no record; and for
            one key with two values, or figures on two states of the data in two files.
    """
    kept: dict[tuple[object, ...], Result] = {}
    for path in map(Path, paths):
        if not path.is_file():
            raise XevalError(
                f"{path}: no such results file; `xeval run` and `xeval score` write one"
            )
        current, outdated = _current(_parse(path.read_bytes(), path))
        if outdated:
            _log.warning(
                "%s: %d figures are left out: their test or training data has changed since",
                *(path, outdated),
            )
        for key, result in current.items():
            before = kept.get(key)
            if before is None or before.value is None:
                kept[key] = result
            elif result.value is not None:
                _check_same(before, result)
    return list(kept.values())


def _current(records: Iterable[Result]) -> tuple[dict[tuple[object, ...], Result], int]:
    """What a file holds now, by key, and how many figures on an earlier state of the data it holds besides.

    The last figure decides: one on other test items outdates all of its test set, one of a model that was tuned on
    other data all of that tuning.
    """
    kept: dict[tuple[object, ...], Result] = {}
    trained: dict[object, str | None] = {}
    tested: dict[object, str | None] = {}
    outdated = 0

    def forget(group: str, of: object) -> int:
        gone = [k for k, r in kept.items() if r.value is not None and getattr(r, group) == of]
        for key in gone:
            del kept[key]
        return len(gone)

    for result in records:
        if result.value is not None:
            tuning, test_set = result.tuning, result.test_set
            if trained.setdefault(tuning, result.train_digest) != result.train_digest:
                outdated += forget("tuning", tuning)
            if tested.setdefault(test_set, result.test_digest) != result.test_digest:
                outdated += forget("test_set", test_set)
            trained[tuning], tested[test_set] = result.train_digest, result.test_digest
        before = kept.get(result.key)
        if before is None or before.value is None:
            kept[result.key] = result
        elif result.value is not None:
            _check_same(before, result)
    return kept, outdated


def _check_same(before: Result, result: Result) -> None:
    if not before.is_of(result.train_digest, result.test_digest):
        raise XevalError(
            f"{result.file}: {result.where}, {result.metric}: is a figure on another state of the test or training data "
            f"than that in {before.file}; remove the older one, or score both again"
        )
    if before.value != result.value:
        raise XevalError(
            f"{result.file}: {result.where}, {result.metric}: has the value {result.value!r} here and {before.value!r} in {before.file}; remove one"
        )


def _with_items(path: Path, result: Result, items: Items) -> Result:
    value = items.value() if result.bootstrap is None else items.bootstrap_value(result.bootstrap)
    if result.value is None or abs(value - result.value) > 1e-9 * max(1.0, value):
        raise XevalError(
            f"{result.where}: the value is {result.value!r} but the item statistics give {value!r}"
        )
    if items.metric != result.metric or len(items.rows) != result.n:
        raise XevalError(
            f"{result.where}: the record is {result.metric!r} of {result.n} items, "
            f"the item statistics are {items.metric!r} of {len(items.rows)}"
        )
    content = {f.name: getattr(result, f.name) for f in fields(result)}
    return Result(
        **{**content, "items": write_items(path, items), "test_digest": items.test_digest}
    )


def _line(result: Result) -> str:
    record = asdict(result)
    del record["file"]
    record = {"schema": SCHEMA, **record, "protocol_digest": result.protocol_digest}
    return json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"


def _parse(content: bytes, path: Path) -> Iterator[Result]:
    lines = content.split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield _record(line, path, number)
        except _UnfinishedError as error:
            if number < len(lines):
                raise XevalError(
                    f"{path}:{number}: not a line of JSON ({error}); remove the line"
                ) from error
            _log.warning("%s:%d: the last line is unfinished and was ignored", path, number)


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
        raise XevalError(f"{path}:{number}: not a result of schema {SCHEMA}: {error}") from error
    except XevalError as error:
        raise XevalError(f"{path}:{number}: {error}") from error
    if digest != result.protocol_digest:
        raise XevalError(
            f"{path}:{number}: the protocol has the digest {result.protocol_digest!r}, the record says {digest!r}; "
            "the record was edited: score again"
        )
    return result


def _mend_last_line(file: BinaryIO, path: Path) -> None:
    file.seek(0)
    content = file.read()
    tail = content[content.rfind(b"\n") + 1 :]
    if not tail:
        return
    try:
        json.loads(tail)
    except ValueError:
        _log.warning("%s: cut off an unfinished last line of %d bytes", path, len(tail))
        file.truncate(len(content) - len(tail))
    else:
        file.write(b"\n")


@contextlib.contextmanager
def _held(file: BinaryIO) -> Iterator[None]:
    fcntl.flock(file.fileno(), fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(file.fileno(), fcntl.LOCK_UN)
