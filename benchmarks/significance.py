"""Is a contender faster, slower, or within noise, from paired runs of two commits?

The rule has two steps, so that many contenders may be watched without crying wolf.

1. A few rounds of every question. A contender whose median ratio differs from 1 by more than `SMALLEST` is a candidate.
2. Fresh rounds of the questions with candidates. A candidate is judged by these alone: the exact interval of the Wilcoxon
   signed-rank test over the logarithms of the paired ratios, at 5 % divided by the number of candidates, on the side it
   differs to. It changed if the whole interval lies beyond 1 and the estimate beyond `SMALLEST`.

Two equal commits are therefore told apart in at most 5 % of all comparisons, whatever the shape of the noise, as long as it
strikes both sides alike; they take turns, so it does.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SMALLEST = 1.05
"""The smallest ratio that is looked for: below it, machines and memory layouts differ by themselves."""
ERROR = 0.05
FIRST_ROUNDS, FRESH_ROUNDS = 3, 7


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A ratio of costs, new to base, and the interval it lies in."""

    ratio: float
    low: float
    high: float
    rounds: int


def differs(ratios: Sequence[float]) -> bool:
    """Whether the first rounds make a contender a candidate."""
    return not 1 / SMALLEST <= statistics.median(ratios) <= SMALLEST


def observed(ratios: Sequence[float]) -> Interval:
    """The median of a few rounds, and their range."""
    return Interval(
        ratio=statistics.median(ratios), low=min(ratios), high=max(ratios), rounds=len(ratios)
    )


def rounds_needed(candidates: int) -> int:
    """Fresh rounds with which as many candidates can be judged at all."""
    return max(FRESH_ROUNDS, math.ceil(math.log2(max(candidates, 1) / ERROR)))


def estimate(ratios: Sequence[float], *, candidates: int) -> Interval:
    """The Hodges-Lehmann estimate of the ratio, with the exact interval of the signed-rank test.

    Both are order statistics of the Walsh averages, the means of all pairs of logarithms, each with itself included
    (Hollander, Wolfe & Chicken 2014, section 3.2 and 3.3). scipy's `wilcoxon` has the test, but not its interval.

    Args:
        ratios: one per fresh round.
        candidates: over how many contenders the 5 % are divided.
    """
    logs = np.log(ratios)
    walsh = np.sort(np.add.outer(logs, logs)[np.triu_indices(len(logs))] / 2)
    cut = _cut(len(logs), ERROR / max(candidates, 1))
    ratio, low, high = np.exp([np.median(walsh), walsh[cut - 1], walsh[-cut]]).tolist()
    return Interval(ratio=ratio, low=low, high=high, rounds=len(ratios))


def _cut(rounds: int, error: float) -> int:
    """The rank of the Walsh average that bounds the interval on one side: the largest k with P(W <= k - 1) <= error."""
    # Sets of ranks by their sum: the coefficients of (1 + x)(1 + x²)…(1 + xⁿ).
    factors = ([1] + [0] * (rank - 1) + [1] for rank in range(1, rounds + 1))
    sets = functools.reduce(np.convolve, factors)
    cut = int(np.searchsorted(sets.cumsum(), error * 2**rounds, side="right"))
    if cut == 0:
        raise ValueError(f"{rounds} rounds cannot show anything at {error:g}: take more.")
    return cut


def sign_of(interval: Interval) -> int:
    """1: costs more; -1: costs less; 0: within noise."""
    if interval.low > 1 and interval.ratio > SMALLEST:
        return 1
    if interval.high < 1 and interval.ratio < 1 / SMALLEST:
        return -1
    return 0
