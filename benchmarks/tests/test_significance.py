"""The rule that tells two commits apart, held to its promise by simulated comparisons."""

import itertools
import math
import random
import statistics
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))

import significance


def test_the_rank_that_bounds_the_interval_is_that_of_all_sign_flips() -> None:
    for rounds, error in [(5, 0.05), (7, 0.05), (7, 0.01), (9, 0.025)]:
        sums = [
            sum(rank for rank, sign in enumerate(signs, 1) if sign)
            for signs in itertools.product([0, 1], repeat=rounds)
        ]
        expected = max(
            k for k in range(1, 60) if sum(w <= k - 1 for w in sums) <= error * 2**rounds
        )

        assert significance._cut(rounds, error) == expected


def test_too_few_rounds_to_show_anything_are_refused() -> None:
    with pytest.raises(ValueError, match="4 rounds cannot show anything"):
        significance.estimate([1.1] * 4, candidates=1)


@pytest.mark.parametrize("candidates", [1, 3, 20, 200])
def test_the_rounds_needed_suffice_for_as_many_suspects(candidates: int) -> None:
    rounds = significance.rounds_needed(candidates)

    assert significance.sign_of(significance.estimate([2.0] * rounds, candidates=candidates)) == 1
    assert significance.sign_of(significance.estimate([0.5] * rounds, candidates=candidates)) == -1
    assert significance.sign_of(significance.estimate([1.0] * rounds, candidates=candidates)) == 0


def test_a_small_but_certain_difference_is_within_noise() -> None:
    assert significance.sign_of(significance.estimate([1.03] * 7, candidates=1)) == 0


def test_one_wild_round_convicts_nobody() -> None:
    assert (
        significance.sign_of(
            significance.estimate([1.0, 1.01, 0.99, 1.0, 9.0, 0.98, 1.02], candidates=1)
        )
        == 0
    )


def _comparison(
    draw: random.Random, *, contenders: int, slowdown: float, noise: float
) -> list[int]:
    """Signs of contenders of which the first is `slowdown` times slower, under heavy-tailed noise."""

    def ratio(true: float) -> float:
        heavy = [draw.gauss(0, noise) / math.sqrt(draw.expovariate(1) + 0.05) for _ in range(2)]
        return true * math.exp(heavy[0] - heavy[1])

    truth = [slowdown, *[1.0] * (contenders - 1)]
    candidates = [
        i for i, true in enumerate(truth)
        if significance.differs([ratio(true) for _ in range(significance.FIRST_ROUNDS)])
    ]  # fmt: skip
    found = [0] * contenders
    for i in candidates:
        fresh = [ratio(truth[i]) for _ in range(significance.rounds_needed(len(candidates)))]
        found[i] = significance.sign_of(significance.estimate(fresh, candidates=len(candidates)))
    return found


@pytest.mark.parametrize("noise", [0.01, 0.05, 0.3])
def test_equal_commits_are_told_apart_in_one_comparison_of_twenty_at_most(noise: float) -> None:
    draw = random.Random(0)
    comparisons = [_comparison(draw, contenders=30, slowdown=1.0, noise=noise) for _ in range(400)]

    slower = statistics.mean(any(sign == 1 for sign in comparison) for comparison in comparisons)

    assert slower <= significance.ERROR


def test_a_doubled_cost_is_found_even_under_strong_noise() -> None:
    draw = random.Random(1)
    comparisons = [_comparison(draw, contenders=30, slowdown=2.0, noise=0.05) for _ in range(200)]

    assert statistics.mean(comparison[0] == 1 for comparison in comparisons) > 0.95
