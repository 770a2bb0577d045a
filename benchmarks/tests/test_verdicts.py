"""The rule that tells two commits apart, held to its promise by simulated duels."""

import itertools
import math
import random
import statistics
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))

import verdicts


def test_the_rank_that_bounds_the_interval_is_that_of_all_sign_flips() -> None:
    for rounds, error in [(5, 0.05), (7, 0.05), (7, 0.01), (9, 0.025)]:
        sums = [
            sum(rank for rank, sign in enumerate(signs, 1) if sign)
            for signs in itertools.product([0, 1], repeat=rounds)
        ]
        expected = max(
            k for k in range(1, 60) if sum(w <= k - 1 for w in sums) <= error * 2**rounds
        )

        assert verdicts._cut(rounds, error) == expected


def test_too_few_rounds_to_show_anything_are_refused() -> None:
    with pytest.raises(ValueError, match="4 rounds cannot show anything"):
        verdicts.estimate([1.1] * 4, suspects=1)


@pytest.mark.parametrize("suspects", [1, 3, 20, 200])
def test_the_rounds_needed_suffice_for_as_many_suspects(suspects: int) -> None:
    rounds = verdicts.rounds_needed(suspects)

    assert verdicts.judge(verdicts.estimate([2.0] * rounds, suspects=suspects)) == 1
    assert verdicts.judge(verdicts.estimate([0.5] * rounds, suspects=suspects)) == -1
    assert verdicts.judge(verdicts.estimate([1.0] * rounds, suspects=suspects)) == 0


def test_a_small_but_certain_difference_is_within_noise() -> None:
    assert verdicts.judge(verdicts.estimate([1.03] * 7, suspects=1)) == 0


def test_one_wild_round_convicts_nobody() -> None:
    assert (
        verdicts.judge(verdicts.estimate([1.0, 1.01, 0.99, 1.0, 9.0, 0.98, 1.02], suspects=1)) == 0
    )


def _duel(draw: random.Random, *, contenders: int, slowdown: float, noise: float) -> list[int]:
    """Verdicts on contenders of which the first is `slowdown` times slower, under heavy-tailed noise."""

    def ratio(true: float) -> float:
        heavy = [draw.gauss(0, noise) / math.sqrt(draw.expovariate(1) + 0.05) for _ in range(2)]
        return true * math.exp(heavy[0] - heavy[1])

    truth = [slowdown, *[1.0] * (contenders - 1)]
    suspects = [
        i for i, true in enumerate(truth)
        if verdicts.strays([ratio(true) for _ in range(verdicts.FIRST_ROUNDS)])
    ]  # fmt: skip
    found = [0] * contenders
    for i in suspects:
        fresh = [ratio(truth[i]) for _ in range(verdicts.rounds_needed(len(suspects)))]
        found[i] = verdicts.judge(verdicts.estimate(fresh, suspects=len(suspects)))
    return found


@pytest.mark.parametrize("noise", [0.01, 0.05, 0.3])
def test_equal_commits_are_told_apart_in_one_duel_of_twenty_at_most(noise: float) -> None:
    draw = random.Random(0)
    duels = [_duel(draw, contenders=30, slowdown=1.0, noise=noise) for _ in range(400)]

    slower = statistics.mean(any(sign == 1 for sign in duel) for duel in duels)

    assert slower <= verdicts.ERROR


def test_a_doubled_cost_is_found_even_under_strong_noise() -> None:
    draw = random.Random(1)
    duels = [_duel(draw, contenders=30, slowdown=2.0, noise=0.05) for _ in range(200)]

    assert statistics.mean(duel[0] == 1 for duel in duels) > 0.95
