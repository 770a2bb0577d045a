"""Scores from sums agree with scores from predictions."""

import numpy as np
import pytest
import sklearn.metrics as oracle
from hypothesis import given, settings
from hypothesis import strategies as st

from xeval.errors import XevalError
from xeval.statistics.metrics import METRICS, value_of


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
    assert value_of(metric, np.zeros(len(METRICS[metric].columns))) == 0


@pytest.mark.parametrize("metric", sorted(METRICS))
def test_leading_axes_are_kept(metric: str) -> None:
    sums = np.random.default_rng(0).integers(1, 9, size=(2, 5, len(METRICS[metric].columns)))

    together = value_of(metric, sums)

    assert together.shape == (2, 5)
    assert together[1, 3] == value_of(metric, sums[1, 3])


@pytest.mark.parametrize(("metric", "width"), [("accuracy", 3), ("f1", 2), ("macro_f1", 4)])
def test_a_wrong_number_of_columns_is_named(metric: str, width: int) -> None:
    with pytest.raises(XevalError, match=f"but the statistics have {width} columns"):
        value_of(metric, np.ones(width))
