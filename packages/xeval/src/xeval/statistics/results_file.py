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
from xeval.statistics.records import Records, check_same, read_on, remember
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
    may follow a record that says why there was none, or a figure on data that has changed since. Of a file that this process
    has read or written before, only what was added since is read.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file, _held(file):
        records = read_on(file, path)
        _mend_last_line(file, path, records)
        added: dict[tuple[object, ...], Result] = {}
        lines = []
        for result, items in results:
            key = result.key
            test_digest = result.test_digest if items is None else items.test_digest
            before = added.get(key) or records.current.get(key)
            if before is not None and (
                result.value is None or before.is_of(result.train_digest, test_digest)
            ):
                continue
            added[key] = result if items is None else _with_items(path, result, items)
            lines.append(_line(added[key]))
        content = "".join(lines).encode()
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
        records.add(content)
        remember(records, file)
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
    return list(results_by_key(*paths).values())


def require_no_folder(path: Path) -> None:
    """Refuse a folder where a file is to be written or read.

    Raises:
        XevalError: naming a file in it.
    """
    if path.is_dir():
        raise XevalError(f"{path}: is a folder; name a file in it")


def results_by_key(*paths: Path | str) -> dict[tuple[object, ...], Result]:
    """The same under their keys."""
    kept: dict[tuple[object, ...], Result] = {}
    for path in map(Path, paths):
        require_no_folder(path)
        if not path.is_file():
            raise XevalError(
                f"{path}: no such results file; `xeval run` and `xeval score` write one"
            )
        with path.open("rb") as file:
            records = read_on(file, path)
            remember(records, file)
        records = records.with_last_line()
        if records.outdated:
            _log.warning(
                "%s: figures whose test or training data has changed since are left out: %d",
                *(path, records.outdated),
            )
        for key, result in records.current.items():
            before = kept.get(key)
            if before is None or before.value is None:
                kept[key] = result
            elif result.value is not None:
                check_same(before, result)
    return kept


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


def _mend_last_line(file: BinaryIO, path: Path, records: Records) -> None:
    if not (last := records.unfinished):
        return
    try:
        json.loads(last)
    except ValueError:
        _log.warning("%s: cut off an unfinished last line of %d bytes", path, len(last))
        file.truncate(records.end)
    else:
        file.write(b"\n")
        records.add(last + b"\n")
    records.unfinished = b""


@contextlib.contextmanager
def _held(file: BinaryIO) -> Iterator[None]:
    fcntl.flock(file.fileno(), fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(file.fileno(), fcntl.LOCK_UN)
