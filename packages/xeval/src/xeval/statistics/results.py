"""Results on disk: JSON Lines, one record per figure, appended once and never half.

A record says what was judged (model, task, data set, split, language), how (protocol, seed, bootstrap), and what came
out (metric, value, n, costs). Tables, tests and pages are made from these files and never measure.
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, BinaryIO

from xeval.errors import XevalError
from xeval.statistics.items import Items, read_items, write_items
from xeval.statistics.metrics import score_of

SCHEMA = 1
COST_COLUMNS = (
    "parameters",
    "embedding_parameters",
    "bytes",
    "flops",
    "latency_ms",
    "throughput",
    "threads",
    "batch",
    "length",
    "device",
    "dtype",
)

_log = logging.getLogger("xeval")


@dataclass(frozen=True, kw_only=True)
class Result:
    """One figure, or the reason why there is none.

    Args:
        model: its name for people.
        model_digest: digest of the weights that were handed in, before any tuning; the same for every seed.
        task: such as "pos".
        dataset: such as "ud/de_gsd"; may differ from language to language.
        split: such as "test".
        language: of the test items.
        source_language: of the tuning data; the language itself where nothing was tuned.
        protocol: every setting that changes the figure and is the same for all languages and seeds of the task.
        seed: of the tuning run.
        bootstrap: None for the test set as it is, else the number of the resample (`Items.bootstrap_value`).
        metric: a key of `xeval.statistics.metrics.SCORES`.
        value: the figure; None where nothing could be run, and then `skipped` says why.
        n: how many items it stands on.
        skipped: why there is no figure, in words.
        cost: optional columns, of `COST_COLUMNS`.
        items: the side file of per-item statistics, relative to the results file; filled in by `append_results`.
        test_digest: digest of the test items; filled in by `append_results`.
        train_digest: digest of the data of the tuning; None where nothing was tuned, or by a version that kept none.
        file: where the record was read from; not written.
    """

    model: str
    model_digest: str
    task: str
    dataset: str
    split: str
    language: str
    source_language: str
    protocol: Mapping[str, Any]
    seed: int
    metric: str
    value: float | None
    n: int
    bootstrap: int | None = None
    skipped: str | None = None
    cost: Mapping[str, Any] | None = None
    items: str | None = None
    test_digest: str | None = None
    train_digest: str | None = None
    file: Path | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        """Refuse a record that would mislead."""
        metric = score_of(self.metric)
        if self.value is None:
            if not self.skipped:
                raise XevalError(
                    f"{self.where}: a result without a value needs the reason in `skipped`"
                )
        elif self.skipped:
            raise XevalError(
                f"{self.where}: a result has a value or a reason for having none, not both"
            )
        elif self.n < 1:
            raise XevalError(f"{self.where}: a value needs at least one item, got n={self.n!r}")
        elif not 0 <= self.value <= (100 if metric.unit == "%" else float("inf")):
            raise XevalError(
                f"{self.where}: {self.metric} must lie between 0 and {'100' if metric.unit == '%' else 'infinity'}, got {self.value!r}"
            )
        if strange := sorted(set(self.cost or ()) - set(COST_COLUMNS)):
            raise XevalError(
                f"{self.where}: unknown cost column {strange[0]!r}; known are {', '.join(COST_COLUMNS)}"
            )

    @property
    def protocol_digest(self) -> str:
        """`digest_of` the protocol."""
        return digest_of(self.protocol)

    @property
    def key(self) -> tuple[object, ...]:
        """What makes a record the same as another: all but the outcome and the contents of the data."""
        return (
            self.model,
            self.model_digest,
            self.task,
            self.dataset,
            self.split,
            self.language,
            self.source_language,
            self.protocol_digest,
            self.seed,
            self.bootstrap,
            self.metric,
        )

    @property
    def tuning(self) -> tuple[object, ...]:
        """The part of the key that figures of one tuned model share."""
        model = (self.model, self.model_digest, self.task)
        return (*model, self.source_language, self.protocol_digest, self.seed)

    @property
    def test_set(self) -> tuple[object, ...]:
        """The part of the key that figures of one tuned model on one test set by one metric share."""
        return (*self.tuning, self.dataset, self.split, self.language, self.metric)

    def is_of(self, train_digest: str | None, test_digest: str | None) -> bool:
        """Whether it is a figure on this data; where no test items are stated, on any."""
        same = test_digest is None or test_digest == self.test_digest
        return self.value is not None and same and train_digest == self.train_digest

    @property
    def where(self) -> str:
        """The record in words, for messages."""
        return f"{self.model} on {self.task}, {self.language} ({self.dataset}, {self.split}, seed {self.seed})"

    def load_items(self) -> Items:
        """The per-item statistics behind the value.

        Raises:
            XevalError: when the record has none, or they are not where it says, or are of other test items.
        """
        if self.items is None or self.file is None:
            raise XevalError(
                f"{self.where}: the record refers to no item statistics; score again to get them"
            )
        items = read_items(self.file.parent / self.items)
        if items.test_digest != self.test_digest or items.metric != self.metric:
            raise XevalError(
                f"{self.file.parent / self.items}: holds {items.metric!r} of test set {items.test_digest!r}, "
                f"but the record says {self.metric!r} of {self.test_digest!r}; score again"
            )
        return items


def digest_of(protocol: Mapping[str, Any]) -> str:
    """A digest of settings that does not depend on their order."""
    text = json.dumps(protocol, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


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
