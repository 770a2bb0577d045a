"""Scores as functions of rows: every metric is computed from statistics of the test items.

A test item (a sentence, a question, a pair) contributes one row of statistics, such as (correct, total). The score
of any set of items is a function of the sum of their rows or, of a correlation, of the rows themselves; so a bootstrap,
a permutation or a subset needs no model: it takes other rows.
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
    """A metric: which statistics it takes of each item, and what it makes of them.

    Args:
        title: its name for people.
        columns: the statistics of one item, in order. Those of `macro_f1` are (tp, fp, fn) once per class.
        of_sums: sums `[..., S]` over items to values `[...]`; None for what is no function of sums.
        of_rows: for that: rows `[n, S]` of n items, and how often `[D, n]` each stands, to values `[D]`.
        exchangeable: for that: rows `[n, S]` of one model to rows of the same value that may be exchanged with another model's.
        unit: "%" for shares, else a unit in words.
        lowest: the lowest value there is.
        highest: the highest.
        higher_is_better: the direction of progress.
    """

    title: str
    columns: tuple[str, ...]
    of_sums: Callable[[Values], Values] | None = None
    of_rows: Callable[[Values, Values], Values] | None = None
    exchangeable: Callable[[Values], Values] = lambda rows: rows
    unit: str = "%"
    lowest: float = 0.0
    highest: float = 100.0
    higher_is_better: bool = True

    @property
    def largest_difference(self) -> float:
        """Of two values."""
        return self.highest - self.lowest

    @property
    def digits(self) -> int:
        """Decimals in which two models are told apart: two of what goes up to 100, four of rates."""
        return 2 if self.highest == 100 else 4


def value_of(metric: str, sums: Rows) -> Values:
    """The value of a metric from summed item statistics; leading axes are kept.

    Args:
        metric: a key of `METRICS` that is a function of sums.
        sums: `[..., S]`, with the columns that `METRICS[metric]` names.

    Returns:
        `[...]`, float64. A ratio whose denominator is zero is 0.

    Raises:
        XevalError: for a metric that is not known or is no function of sums, or a number of columns that is not the metric's.

    Example:
        >>> float(value_of("accuracy", np.array([45, 60])))
        75.0
        >>> value_of("f1", np.array([[8, 2, 2], [5, 5, 5]])).tolist()
        [80.0, 50.0]
    """
    score = metric_of(metric)
    sums = np.asarray(sums, dtype=np.float64)
    check_columns(metric, sums.shape[-1])
    if score.of_sums is None:
        raise XevalError(
            f"metric {metric!r} is no function of sums; it needs the rows (`value_of_rows`)"
        )
    return score.of_sums(sums)


def value_of_rows(metric: str, rows: Rows, weights: Values | None = None) -> Values:
    """The value of a metric from the rows of its items.

    Args:
        metric: a key of `METRICS`.
        rows: `[n, S]`, one row per item, with the columns that `METRICS[metric]` names.
        weights: `[D, n]`, how often each item stands in D sets of items; every item once in one set when None.

    Returns:
        `[D]`, float64; `[]` without weights.

    Raises:
        XevalError: for a metric that is not known, or a number of columns that is not the metric's.

    Example:
        >>> float(value_of_rows("accuracy", np.array([[1, 1], [0, 1]])))
        50.0
        >>> rows = np.array([[0.9, 5], [0.7, 3], [0.8, 1]])
        >>> value_of_rows("cosine_spearman", rows, np.array([[1, 1, 1], [1, 1, 0], [0, 1, 1]])).tolist()
        [50.0, 100.0, -100.0]
    """
    score = metric_of(metric)
    rows = np.asarray(rows, dtype=np.float64)
    check_columns(metric, rows.shape[-1])
    if score.of_rows is not None:
        once = np.ones((1, len(rows))) if weights is None else np.asarray(weights, dtype=np.float64)
        values = score.of_rows(rows, once)
        return values if weights is not None else values[0]
    return value_of(metric, rows.sum(axis=0) if weights is None else weights @ rows)


def check_columns(metric: str, width: int) -> None:
    """Refuse statistics whose columns are not those of the metric."""
    columns = metric_of(metric).columns
    unit = len(columns)
    if width == 0 or (width % unit if metric == "macro_f1" else width != unit):
        expected = ", ".join(columns) + (" per class" if metric == "macro_f1" else "")
        raise XevalError(
            f"metric {metric!r} takes the columns ({expected}), but the statistics have {width} columns"
        )


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


def _spearman(rows: Values, weights: Values) -> Values:
    """Spearman's ρ of two columns, times 100: Pearson's correlation of their ranks, ties at their mean rank.

    Where a column is constant there is no order to agree with, and the value is 0.
    """
    times = np.ascontiguousarray(weights.T)  # [n, D], so that ordering items copies whole rows
    middle = (times.sum(axis=0) + 1) / 2
    first, second = (weighted_ranks(column, times) - middle for column in rows.T)
    products = "nd,nd,nd->d"
    above = np.einsum(products, times, first, second)
    spread = np.einsum(products, times, first, first) * np.einsum(products, times, second, second)
    return np.clip(100.0 * _ratio(above, np.sqrt(spread)), -100.0, 100.0)


def _with_ranks(rows: Values) -> Values:
    """Rows with the ranks of the first column in its place: what the correlation takes of it, on one scale for all models."""
    ranks = weighted_ranks(rows[:, 0], np.ones((len(rows), 1)))
    return np.concatenate([ranks, rows[:, 1:]], axis=1)


def weighted_ranks(values: Values, times: Values) -> Values:
    """Ranks `[n, D]` from 1 of values `[n]` that stand `times` `[n, D]` each; equal values share the mean of theirs."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    counts = np.add.reduceat(times[order], np.flatnonzero(starts), axis=0)
    group = np.empty(len(values), dtype=np.intp)
    group[order] = np.cumsum(starts) - 1
    ranks = np.cumsum(counts, axis=0) - (counts - 1) / 2
    return np.asarray(ranks[group])


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
    "bitext_to_source": Metric(
        title="accuracy@1, target → source", columns=_SHARE, of_sums=_percentage
    ),
    "bitext_from_source": Metric(
        title="accuracy@1, source → target", columns=_SHARE, of_sums=_percentage
    ),
    "main_score": Metric(title="main score of mteb", columns=_MEAN, of_sums=_percentage),
    "cosine_spearman": Metric(
        title="Spearman of cosine × 100",
        columns=("cosine", "gold"),
        of_rows=_spearman,
        exchangeable=_with_ranks,
        unit="points",
        lowest=-100.0,
    ),
    "ndcg_at_10": Metric(title="nDCG@10", columns=_MEAN, of_sums=_percentage),
    "mrr_at_10": Metric(title="MRR@10", columns=_MEAN, of_sums=_percentage),
    "map": Metric(title="MAP", columns=_MEAN, of_sums=_percentage),
    "recall_at_100": Metric(title="recall@100", columns=_MEAN, of_sums=_percentage),
    "bits_per_byte": Metric(
        title="bits per byte",
        columns=("bits", "bytes"),
        of_sums=_rate,
        unit="bits/byte",
        highest=float("inf"),
        higher_is_better=False,
    ),
}
