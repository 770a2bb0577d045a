"""Scores as functions of sums: every metric is computed from additive statistics of the test items.

A test item (a sentence, a question, a pair) contributes one row of statistics, such as (correct, total). The score
of any set of items is a function of the sum of their rows, so a bootstrap, a permutation or a subset needs no model:
it sums other rows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xeval.errors import XevalError

Rows = NDArray[Any]
Values = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric: which statistics it sums, and what it makes of the sums.

    Args:
        title: its name for people.
        columns: the statistics of one item, in order. Those of `macro_f1` are (tp, fp, fn) once per class.
        of_sums: sums `[..., S]` to values `[...]`.
        unit: "%" for scores from 0 to 100, else a unit in words.
        higher_is_better: the direction of progress.
    """

    title: str
    columns: tuple[str, ...]
    of_sums: Callable[[Values], Values]
    unit: str = "%"
    higher_is_better: bool = True


def value_of(metric: str, sums: Rows) -> Values:
    """The value of a metric from summed item statistics; leading axes are kept.

    Args:
        metric: a key of `METRICS`.
        sums: `[..., S]`, with the columns that `METRICS[metric]` names.

    Returns:
        `[...]`, float64. A ratio whose denominator is zero is 0.

    Raises:
        XevalError: for a metric that is not known, or a number of columns that is not the metric's.

    Example:
        >>> float(value_of("accuracy", np.array([45, 60])))
        75.0
        >>> value_of("f1", np.array([[8, 2, 2], [5, 5, 5]])).tolist()
        [80.0, 50.0]
    """
    score = metric_of(metric)
    sums = np.asarray(sums, dtype=np.float64)
    width, unit = sums.shape[-1], len(score.columns)
    if width == 0 or (width % unit if metric == "macro_f1" else width != unit):
        expected = ", ".join(score.columns) + (" per class" if metric == "macro_f1" else "")
        raise XevalError(
            f"metric {metric!r} sums the columns ({expected}), but the statistics have {width} columns"
        )
    return score.of_sums(sums)


def metric_of(metric: str) -> Metric:
    """The metric of that name, or an error that lists the names."""
    if metric not in METRICS:
        raise XevalError(f"metric {metric!r} is not known; known are {', '.join(sorted(METRICS))}")
    return METRICS[metric]


def _percentage(sums: Values) -> Values:
    return 100.0 * _ratio(sums[..., 0], sums[..., 1])


def _rate(sums: Values) -> Values:
    return _ratio(sums[..., 0], sums[..., 1])


def _f1(sums: Values) -> Values:
    """2·tp / (2·tp + fp + fn), the harmonic mean of precision and recall."""
    tp, fp, fn = sums[..., 0], sums[..., 1], sums[..., 2]
    return 100.0 * _ratio(2.0 * tp, 2.0 * tp + fp + fn)


def _macro_f1(sums: Values) -> Values:
    """Mean F1 of the classes that occur in gold or prediction."""
    classes = sums.reshape(*sums.shape[:-1], -1, 3)
    occurs = classes.sum(axis=-1) > 0
    return _ratio((_f1(classes) * occurs).sum(axis=-1), occurs.sum(axis=-1).astype(np.float64))


def _ratio(above: Values, below: Values) -> Values:
    empty = below == 0
    return np.where(empty, 0.0, above / np.where(empty, 1.0, below))


_SHARE = ("correct", "total")
_COUNTS = ("tp", "fp", "fn")
_MEAN = ("sum", "count")

METRICS: dict[str, Metric] = {
    "accuracy": Metric(title="accuracy", columns=_SHARE, of_sums=_percentage),
    "macro_f1": Metric(title="macro F1", columns=_COUNTS, of_sums=_macro_f1),
    "f1": Metric(title="F1", columns=_COUNTS, of_sums=_f1),
    "uas": Metric(title="UAS", columns=_COUNTS, of_sums=_f1),
    "las": Metric(title="LAS", columns=_COUNTS, of_sums=_f1),
    "clas": Metric(title="CLAS", columns=_COUNTS, of_sums=_f1),
    "exact_match": Metric(title="exact match", columns=_MEAN, of_sums=_percentage),
    "answer_f1": Metric(title="answer F1", columns=_MEAN, of_sums=_percentage),
    "squad_f1": Metric(title="answer F1, as SQuAD", columns=_MEAN, of_sums=_percentage),
    "squad_exact_match": Metric(title="exact match, as SQuAD", columns=_MEAN, of_sums=_percentage),
    "retrieval_to_source": Metric(
        title="accuracy@1, target → source", columns=_SHARE, of_sums=_percentage
    ),
    "retrieval_from_source": Metric(
        title="accuracy@1, source → target", columns=_SHARE, of_sums=_percentage
    ),
    "main_score": Metric(title="main score of mteb", columns=_MEAN, of_sums=_percentage),
    "bits_per_byte": Metric(
        title="bits per byte",
        columns=("bits", "bytes"),
        of_sums=_rate,
        unit="bits/byte",
        higher_is_better=False,
    ),
}
