"""One figure, or the reason why there is none: how it came about, and what it stands on."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xeval.errors import XevalError
from xeval.statistics.items import Items, read_items
from xeval.statistics.metrics import metric_of

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
        metric: a key of `xeval.statistics.metrics.METRICS`.
        value: the figure; None where nothing could be run, and then `skipped` says why.
        n: how many items it stands on.
        method: how the model was asked, in words, where it says itself how, as a sentence encoder does.
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
    method: str | None = None
    bootstrap: int | None = None
    skipped: str | None = None
    cost: Mapping[str, Any] | None = None
    items: str | None = None
    test_digest: str | None = None
    train_digest: str | None = None
    file: Path | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        """Refuse a record that would mislead."""
        metric = metric_of(self.metric)
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
        elif not metric.lowest <= self.value <= metric.highest:
            most = "infinity" if metric.highest == float("inf") else f"{metric.highest:g}"
            raise XevalError(
                f"{self.where}: {self.metric} must lie between {metric.lowest:g} and {most}, got {self.value!r}"
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
