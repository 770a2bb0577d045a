"""Is a contender faster, slower, or within noise, from paired runs of two commits?

The rule has two steps, so that many contenders may be watched without crying wolf.

1. A few rounds of every question. A contender whose median ratio strays by more than `STRAY` is a suspect.
2. Fresh rounds of the questions with suspects. A suspect is judged by these alone: the exact interval of the Wilcoxon
   signed-rank test over the logarithms of the paired ratios, at 5 % divided by the number of suspects on the side it
   strayed to. It is convicted if the whole interval lies beyond 1 and the estimate beyond `STRAY`.

Two equal commits are therefore told apart in at most 5 % of all duels, whatever the shape of the noise, as long as it
strikes both sides alike; they take turns, so it does.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

STRAY = 1.05
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


def strays(ratios: Sequence[float]) -> bool:
    """Whether the first rounds make a contender a suspect."""
    middle = statistics.median(ratios)
    return middle > STRAY or middle < 1 / STRAY


def observed(ratios: Sequence[float]) -> Interval:
    """The median of a few rounds, and their range."""
    return Interval(
        ratio=statistics.median(ratios), low=min(ratios), high=max(ratios), rounds=len(ratios)
    )


def rounds_needed(suspects: int) -> int:
    """Fresh rounds with which as many suspects can be judged at all."""
    return max(FRESH_ROUNDS, math.ceil(math.log2(max(suspects, 1) / ERROR)))


def estimate(ratios: Sequence[float], *, suspects: int) -> Interval:
    """The Hodges-Lehmann estimate of the ratio, with the exact interval of the signed-rank test.

    Args:
        ratios: one per fresh round.
        suspects: over how many contenders the 5 % are divided.
    """
    logs = [math.log(ratio) for ratio in ratios]
    walsh = sorted((a + b) / 2 for i, a in enumerate(logs) for b in logs[i:])
    cut = _cut(len(logs), ERROR / max(suspects, 1))
    return Interval(
        ratio=math.exp(statistics.median(walsh)),
        low=math.exp(walsh[cut - 1]),
        high=math.exp(walsh[-cut]),
        rounds=len(ratios),
    )


def _cut(rounds: int, error: float) -> int:
    """The rank of the mean of pairs that bounds the interval on one side: the largest k with P(W <= k - 1) <= error."""
    ways = [1]  # ways[w]: sets of ranks that sum up to w
    for rank in range(1, rounds + 1):
        ways = [
            (ways[w] if w < len(ways) else 0) + (ways[w - rank] if w >= rank else 0)
            for w in range(len(ways) + rank)
        ]
    below, cut = 0, 0
    for count in ways:
        below += count
        if below > error * 2**rounds:
            break
        cut += 1
    if cut == 0:
        raise ValueError(f"{rounds} rounds cannot show anything at {error:g}: take more.")
    return cut


def judge(interval: Interval) -> int:
    """1: costs more; -1: costs less; 0: within noise."""
    if interval.low > 1 and interval.ratio > STRAY:
        return 1
    if interval.high < 1 and interval.ratio < 1 / STRAY:
        return -1
    return 0
