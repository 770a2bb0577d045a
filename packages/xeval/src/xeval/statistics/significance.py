"""What a difference between two models on the same items is worth: bootstrap, permutation, Holm.

Notation: model A was tuned with k_A seeds, B with k_B; each seed gives every item i of n a row of statistics x_i. Seeds are
nested in models (seed 1 of A has nothing in common with seed 1 of B); items are crossed with both, hence the pairing. A
score is a function m of the sum of rows, and d = m(Σ a_i) − m(Σ b_i) the difference that was observed. A rank correlation
is a function of the rows themselves; it is taken of the rows drawn or exchanged, else all is the same. Exchanged are the
ranks that a model gives its items, for one model's cosines lie between 0.7 and 1 and another's between 0 and 1: the pairs of
both in one set would be ordered by the model that they come from.

*   Paired bootstrap (Efron and Tibshirani 1993; for test sets, Koehn 2004): draw n items with replacement, the same for A
    and B, and take d* of them; the quantiles of many d* are an interval of d.
*   Paired permutation, or approximate randomization (Noreen 1989; Yeh 2000): under the hypothesis that A and B are alike on
    every item, exchanging a_i and b_i changes nothing. p is the share of exchanges with |d*| ≥ |d|; where they are drawn and
    not all gone through, (1 + #{|d*| ≥ |d|}) / (1 + number drawn) (Phipson and Smyth 2010).
*   Holm 1979: of m tests, the smallest p is multiplied by m, the next by m − 1, and so on; the rate of any false "better"
    among them stays below the level, whatever they have to do with each other.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from xeval.errors import XevalError
from xeval.statistics.metrics import Values, metric_of, value_of, value_of_rows

_CHUNK = 1 << 22  # numbers drawn at a time: 32 MiB

Sample = Sequence[NDArray[np.float64]]
"""The rows `[n, S]` of one model, one array per seed."""


def bootstrap_scores(
    metric: str, samples: Sequence[Sample], *, resamples: int, seed: int
) -> list[Values]:
    """Mean scores of several models over resampled items, the same items for all of them.

    The draws depend on (seed, n) alone. Test sets of equal size are therefore resampled together, which is what
    translations of one another (SIB-200, XQuAD) need when they are averaged, and does no harm to unrelated sets.

    Args:
        metric: a key of `xeval.statistics.metrics.METRICS`.
        samples: rows of each model per seed, all of the same n items.
        resamples: how many.
        seed: of the draws.

    Returns:
        For each model, `[resamples]`.
    """
    n = len(samples[0][0])
    random = np.random.default_rng([seed, n, 0])
    parts: list[list[Values]] = [[] for _ in samples]
    for count in _chunks(resamples, n):
        drawn = random.integers(n, size=(count, n)) + n * np.arange(count)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=count * n).reshape(count, n).astype(float)
        for part, sample in zip(parts, samples, strict=True):
            part.append(np.mean([value_of_rows(metric, rows, weights) for rows in sample], axis=0))
    return [np.concatenate(part) for part in parts]


def bootstrap_differences(
    metric: str, a: Sample, b: Sample, *, resamples: int, seed: int
) -> Values:
    """Differences of mean score, A minus B, over resampled items: `[resamples]`."""
    of_a, of_b = bootstrap_scores(metric, [a, b], resamples=resamples, seed=seed)
    return of_a - of_b


def seed_noise(
    values: Sequence[float], *, resamples: int, seed: int, fallback: Sequence[float] = ()
) -> Values:
    """Draws of the error of a mean over k seeds: s/√k · t(k−1).

    One seed tells nothing about others: its s and degrees of freedom are then those of `fallback`, the values of the model
    it is compared with. Where that has no more than one either, there are none to tell, and the draws are zeros.
    """
    k, known = len(values), values if len(values) > 1 else fallback
    if len(known) < 2:
        return np.zeros(resamples)
    random = np.random.default_rng([seed, k, 1])
    spread = float(np.std(known, ddof=1)) / k**0.5
    return spread * random.standard_t(len(known) - 1, size=resamples)


def permutation_differences(
    metric: str, a: Sample, b: Sample, *, resamples: int, seed: int, exhaustive: bool = False
) -> tuple[float, Values]:
    """Differences when the names A and B are exchanged on a random half of the items.

    Under the hypothesis that the two are equally good on every item, exchanging changes nothing. Rows are averaged
    over seeds first, so the statistic is the score of the average sums.

    Args:
        metric: a key of `xeval.statistics.metrics.METRICS`.
        a: rows of model A per seed.
        b: rows of model B per seed.
        resamples: how many exchanges.
        seed: of the draws, which depend on it and n alone, as in `bootstrap_differences`.
        exhaustive: go through all 2^m exchanges of the m items on which the models differ, instead of drawing.

    Returns:
        The observed difference, and `[resamples]` or `[2^m]` differences under exchange.
    """
    mean_a, mean_b = _mean_rows(metric, a), _mean_rows(metric, b)
    observed = float(value_of_rows(metric, mean_a) - value_of_rows(metric, mean_b))
    gap = mean_a - mean_b
    differ = np.flatnonzero(gap.any(axis=1))
    draws = (
        _every_exchange(len(differ))
        if exhaustive
        else _random_exchanges(len(gap), differ, resamples, seed)
    )
    if metric_of(metric).of_sums is None:
        both = np.concatenate([mean_a, mean_b])
        return observed, np.concatenate(
            [
                _exchanged_rows(metric, both, differ, coins)
                for drawn in draws
                for coins in np.array_split(drawn, -(-len(drawn) * len(both) // _CHUNK))
            ]
        )
    total_a, total_b = mean_a.sum(axis=0), mean_b.sum(axis=0)
    parts = []
    for exchanged in draws:
        moved = exchanged @ gap[differ]
        parts.append(value_of(metric, total_a - moved) - value_of(metric, total_b + moved))
    return observed, np.concatenate(parts)


def _mean_rows(metric: str, sample: Sample) -> Values:
    """The rows `[n, S]` of a model, on a scale that it shares with others, as the mean over its seeds."""
    exchangeable = metric_of(metric).exchangeable
    return np.asarray(np.mean([exchangeable(rows) for rows in sample], axis=0))


def _exchanged_rows(metric: str, both: Values, differ: NDArray[np.intp], coins: Values) -> Values:
    """Differences `[D]` of a metric of rows where `coins` `[D, m]` exchange the m of n rows that differ.

    Args:
        metric: a key of `METRICS`.
        both: `[2n, S]`, the rows of A and then those of B.
        differ: `[m]`, places of the rows that differ.
        coins: 1 where a row is exchanged.
    """
    n = len(both) // 2
    of_a = np.concatenate([np.ones((len(coins), n)), np.zeros((len(coins), n))], axis=1)
    of_a[:, differ] = 1 - coins
    of_a[:, n + differ] = coins
    return value_of_rows(metric, both, of_a) - value_of_rows(metric, both, 1 - of_a)


def permutation_p(metric: str, a: Sample, b: Sample, *, resamples: int, seed: int) -> float:
    """The p of the paired permutation test: exact where all exchanges are no more than `resamples`, else estimated."""
    differ = int((_mean_rows(metric, a) != _mean_rows(metric, b)).any(axis=1).sum())
    exhaustive = 2 ** min(differ, 62) <= resamples
    observed, exchanged = permutation_differences(
        metric, a, b, resamples=resamples, seed=seed, exhaustive=exhaustive
    )
    return two_sided_p(observed, exchanged, exhaustive=exhaustive)


def two_sided_p(observed: float, exchanged: Values, *, exhaustive: bool) -> float:
    """The share of exchanges whose difference is at least as large; an estimate counts the observation itself too."""
    extreme = int((np.abs(exchanged) >= abs(observed) - 1e-9).sum())
    if exhaustive:
        return extreme / len(exchanged)
    return (1 + extreme) / (1 + len(exchanged))


def bootstrap_p(differences: Values) -> float:
    """Twice the smaller share of resampled differences on one side of zero."""
    below = int((differences <= 0).sum())
    above = int((differences >= 0).sum())
    return min(1.0, 2 * (1 + min(below, above)) / (1 + len(differences)))


def require_resamples(resamples: int, *, tests: int, level: float, seeds: bool) -> None:
    """Refuse so few draws that no difference, however large, could be shown.

    Of R draws the p of exchanges is 1 / (R + 1) at least, and that of the bootstrap, which counts seeds, 2 / (R + 1).

    Args:
        resamples: R.
        tests: in the family that Holm's method corrects.
        level: of the family.
        seeds: whether a model has several.

    Raises:
        XevalError: naming the number that is needed.

    Example:
        >>> require_resamples(8200, tests=205, level=0.05, seeds=True)
    """
    least = (2 if seeds else 1) * tests
    if least >= level * (resamples + 1):
        raise XevalError(
            f"{resamples} resamples cannot show a difference at the level {level:g} in {tests} tests, however large it is; "
            f"take at least {math.floor(least / level)} (--resamples)"
        )


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment: the smallest of m is multiplied by m, the next by m − 1, never decreasing.

    Example:
        >>> [round(q, 3) for q in holm([0.01, 0.04, 0.03])]
        [0.03, 0.06, 0.06]
    """
    adjusted = [0.0] * len(p)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        highest = max(highest, min(1.0, (len(p) - rank) * p[index]))
        adjusted[index] = highest
    return adjusted


def _every_exchange(m: int) -> Iterator[Values]:
    yield (np.arange(2**m)[:, None] >> np.arange(m) & 1).astype(float)


def _random_exchanges(
    n: int, differ: NDArray[np.intp], resamples: int, seed: int
) -> Iterator[Values]:
    """One coin per item of the set, also for items on which the models agree: coins depend on (seed, n) alone."""
    random = np.random.default_rng([seed, n, 2])
    for count in _chunks(resamples, n):
        coins = np.unpackbits(
            random.integers(256, size=(count, -(-n // 8)), dtype=np.uint8), axis=1, count=n
        )
        yield coins[:, differ].astype(float)


def _chunks(resamples: int, n: int) -> Iterator[int]:
    size = max(1, _CHUNK // n)
    for start in range(0, resamples, size):
        yield min(size, resamples - start)
