"""Per-item statistics in a side file, so that bootstraps and paired tests need no model."""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xeval.errors import XevalError
from xeval.statistics.metrics import Rows, Values, check_columns, metric_of, value_of_rows

FOLDER = "items"


@dataclass(frozen=True, kw_only=True)
class Items:
    """What every item of a test set contributes to one metric.

    Args:
        metric: a key of `xeval.statistics.metrics.METRICS`.
        rows: `[n, S]`, one row of statistics per item, in the ORDER OF THE TEST SET (never of the batches).
        test_digest: `test_set_digest` of the items, the proof that two models met the same ones.
        groups: names of the classes of `macro_f1`, empty for other metrics.
    """

    metric: str
    rows: Rows
    test_digest: str
    groups: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check shape and content once."""
        if self.rows.ndim != 2 or len(self.rows) == 0:
            raise XevalError(
                f"the item statistics of {self.metric!r} must be rows [n, S] with n ≥ 1, "
                f"got shape {self.rows.shape!r}; an empty test set has no score"
            )
        if not np.isfinite(self.rows).all():
            raise XevalError(
                f"the item statistics of {self.metric!r} hold a number that is not finite; "
                "score again in float32"
            )
        check_columns(self.metric, self.rows.shape[1])

    def value(self) -> float:
        """The score of the whole test set."""
        return float(value_of_rows(self.metric, self.rows))

    def bootstrap_value(self, draw: int) -> float:
        """The score of bootstrap number `draw`; for one draw and size the same items for every model."""
        drawn = self.rows[bootstrap_rows(len(self.rows), draw)]
        return float(value_of_rows(self.metric, drawn))


def test_set_digest(items: Iterable[str]) -> str:
    """A digest of test items in order: equal exactly when their number, order and texts are.

    Args:
        items: what identifies each item: its input and its gold answer, as one string.

    Example:
        >>> test_set_digest(["ab", "c"]) == test_set_digest(["a", "bc"])
        False
    """
    digest = hashlib.sha256()
    for item in items:
        content = item.encode("utf-8", "surrogatepass")
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()[:16]


def digest_of_examples(examples: Iterable[object]) -> str:
    """`test_set_digest` of examples: texts as they are, anything else by its representation."""
    return test_set_digest(e if isinstance(e, str) else repr(e) for e in examples)


# Test runners collect functions by this prefix.
test_set_digest.__test__ = False  # type: ignore[attr-defined]  # a function accepts any attribute


def bootstrap_rows(n: int, draw: int) -> Values:
    """Which of n items are in bootstrap number `draw`: n of them with replacement, from (n, draw) alone."""
    return np.random.default_rng([n, draw]).integers(n, size=n)  # type: ignore[return-value]


def write_items(results_file: Path, items: Items) -> str:
    """Write item statistics beside a results file, once.

    The name derives from the content, so equal statistics share a file and a rewritten one is the same.

    Returns:
        The path of the side file, relative to the folder of the results file.
    """
    from safetensors.numpy import save

    rows = np.ascontiguousarray(_smallest(items.rows))
    header = {
        "metric": items.metric,
        "columns": list(metric_of(items.metric).columns),
        "groups": list(items.groups),
        "test_digest": items.test_digest,
    }
    text = json.dumps(header, sort_keys=True, ensure_ascii=False)
    content = hashlib.sha256(f"{rows.dtype}{rows.shape}{text}".encode() + rows.tobytes())
    name = f"{FOLDER}/{content.hexdigest()[:24]}.safetensors"
    target = results_file.parent / name
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        _write_whole(target, save({"rows": rows}, metadata={"xeval": text}))
    return name


def read_items(path: Path) -> Items:
    """Read a side file.

    Raises:
        XevalError: when it is absent, or is not a side file.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise XevalError(
            f"{path}: the item statistics that a result refers to are not there; keep the folder {FOLDER!r} beside the results file"
        )
    try:
        with safe_open(path, framework="numpy") as file:
            header = json.loads(file.metadata()["xeval"])
            rows = file.get_tensor("rows")
        return Items(
            metric=header["metric"],
            rows=rows,
            test_digest=header["test_digest"],
            groups=tuple(header["groups"]),
        )
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise XevalError(f"{path}: not a file of item statistics ({error}); score again") from error


def _smallest(rows: Rows) -> Rows:
    """Counts as int32, anything else as float64: sums of either are exact enough to reproduce the value."""
    whole = rows.astype(np.int32)
    return whole if np.array_equal(whole, rows) else rows.astype(np.float64)


def _write_whole(target: Path, content: bytes) -> None:
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=".", suffix=".part")
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    Path(name).chmod(0o644)  # a temporary file is its maker's alone
    Path(name).replace(target)
