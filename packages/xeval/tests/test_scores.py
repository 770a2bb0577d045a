"""Scores from sums agree with scores from predictions."""

import numpy as np
import pytest
import sklearn.metrics as oracle
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata, spearmanr

from xeval.errors import XevalError
from xeval.statistics.metrics import METRICS, value_of, value_of_rows, weighted_ranks


@given(
    pairs=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30),
    classes=st.integers(4, 6),
)
@settings(max_examples=40, deadline=None)
def test_accuracy_and_macro_f1_agree_with_sklearn(
    pairs: list[tuple[int, int]], classes: int
) -> None:
    gold, predicted = zip(*pairs, strict=True)
    counts = np.zeros((classes, 3))
    for g, p in pairs:
        if g == p:
            counts[g, 0] += 1
        else:
            counts[p, 1] += 1
            counts[g, 2] += 1

    assert value_of("macro_f1", counts.reshape(-1)) == pytest.approx(
        100 * oracle.f1_score(gold, predicted, average="macro", zero_division=0)
    )
    assert value_of("accuracy", [counts[:, 0].sum(), len(pairs)]) == pytest.approx(
        100 * oracle.accuracy_score(gold, predicted)
    )


def test_f1_is_the_harmonic_mean_of_precision_and_recall() -> None:
    precision, recall = 6 / 8, 6 / 12

    assert value_of("f1", [6, 2, 6]) == pytest.approx(
        100 * 2 * precision * recall / (precision + recall)
    )


def test_las_of_equal_words_is_the_share_of_right_words() -> None:
    assert value_of("las", [30, 10, 10]) == pytest.approx(75)


def test_bits_per_byte_is_a_ratio_of_sums_and_lower_is_better() -> None:
    assert value_of("bits_per_byte", [24.0, 16.0]) == 1.5
    assert not METRICS["bits_per_byte"].higher_is_better


@pytest.mark.parametrize("metric", sorted(METRICS))
def test_nothing_at_all_scores_zero_and_not_nan(metric: str) -> None:
    assert value_of_rows(metric, np.zeros((3, len(METRICS[metric].columns)))) == 0


@pytest.mark.parametrize("metric", sorted(METRICS))
def test_weights_say_how_often_an_item_stands(metric: str) -> None:
    draw = np.random.default_rng(0)
    rows = draw.integers(1, 9, size=(6, len(METRICS[metric].columns)))
    weights = draw.integers(0, 3, size=(20, 6))

    together = value_of_rows(metric, rows, weights)

    alone = [value_of_rows(metric, np.repeat(rows, times, axis=0)) for times in weights]
    np.testing.assert_allclose(together, alone, atol=1e-9)


@pytest.mark.parametrize("metric", sorted(m for m in METRICS if METRICS[m].of_sums))
def test_leading_axes_are_kept(metric: str) -> None:
    sums = np.random.default_rng(0).integers(1, 9, size=(2, 5, len(METRICS[metric].columns)))

    together = value_of(metric, sums)

    assert together.shape == (2, 5)
    assert together[1, 3] == value_of(metric, sums[1, 3])


@given(values=st.lists(st.integers(0, 6), min_size=2, max_size=30), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_spearman_is_that_of_scipy_ties_included(values: list[int], seed: int) -> None:
    other = np.random.default_rng(seed).integers(0, 5, size=len(values))
    assume(len(set(values)) > 1 and len(set(other.tolist())) > 1)
    rows = np.stack([values, other], axis=1)

    assert value_of_rows("cosine_spearman", rows) == pytest.approx(
        100 * spearmanr(values, other).statistic, abs=1e-9
    )
    once = np.ones((len(values), 1))
    np.testing.assert_array_equal(weighted_ranks(rows[:, 0], once)[:, 0], rankdata(values))


def test_a_metric_of_rows_has_no_value_of_sums() -> None:
    with pytest.raises(XevalError, match="needs the rows"):
        value_of("cosine_spearman", [1.0, 2.0])


@pytest.mark.parametrize(("metric", "width"), [("accuracy", 3), ("f1", 2), ("macro_f1", 4)])
def test_a_wrong_number_of_columns_is_named(metric: str, width: int) -> None:
    with pytest.raises(XevalError, match=f"but the statistics have {width} columns"):
        value_of(metric, np.ones(width))
