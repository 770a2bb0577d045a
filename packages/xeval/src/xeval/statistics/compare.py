"""Is model A better than model B? Per language, on the same items, with a verdict in words."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from xeval.statistics.comparable import (
    check_one_protocol,
    check_same_items,
    check_same_training,
)
from xeval.statistics.display_names import of_model, place_labels
from xeval.statistics.metrics import Values, metric_of, value_of_rows
from xeval.statistics.result import Result
from xeval.statistics.significance import (
    bootstrap_differences,
    bootstrap_p,
    holm,
    permutation_differences,
    permutation_p,
    require_resamples,
    seed_noise,
    two_sided_p,
)

POWER = 0.8


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two models on one test set, or on the average of several.

    Args:
        place: the language (and data set), or "mean of N".
        n: items; the sum over languages for a mean.
        score_a: mean over the seeds of A.
        score_b: mean over the seeds of B.
        difference: A minus B.
        low: lower end of the 95 % interval of the difference.
        high: its upper end.
        p_items: of the hypothesis that these tuned models are equally good on every item.
        p: of the hypothesis that the two are equally good, seeds counted where there are several.
        p_holm: the same, corrected for the number of languages; of a mean, p itself.
        detectable: the true difference that would be found four times in five at the corrected level; None where
            the two models agree on every item and the set cannot tell.
        seeds_a: seeds of A.
        seeds_b: seeds of B.
        verdict: in words.
    """

    place: str
    n: int
    score_a: float
    score_b: float
    difference: float
    low: float
    high: float
    p_items: float
    p: float
    p_holm: float
    detectable: float | None
    seeds_a: int
    seeds_b: int
    verdict: str


@dataclass(frozen=True, kw_only=True)
class TaskComparison:
    """Two models on one task by one metric: every language both have, their mean, and what could not be compared."""

    task: str
    metric: str
    a: str
    b: str
    languages: tuple[Comparison, ...]
    mean: Comparison | None
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class _Pair:
    """The evidence on one test set."""

    place: str
    a: dict[int, NDArray[np.float64]]
    b: dict[int, NDArray[np.float64]]


def compare(
    results: Iterable[Result],
    a: str,
    b: str,
    *,
    level: float = 0.05,
    resamples: int = 10_000,
    seed: int = 0,
) -> list[TaskComparison]:
    """Compare two models on every task, metric and language that both have results of.

    On each test set two questions are asked. *These* tuned models: a paired permutation test over items (Noreen 1989).
    *Models tuned like these*: a paired bootstrap over items (Efron and Tibshirani 1993; Koehn 2004), to which the
    uncertainty of the mean over k seeds is added for each model, as seeds are nested in models:

        d* = m(Σ_items* a) − m(Σ_items* b) + t(k_A − 1) · s_A/√k_A − t(k_B − 1) · s_B/√k_B

    A model with one seed is taken to vary as the other does; with one seed each only the first question can be answered. The
    larger p counts; it is corrected over the languages of a task by Holm's method (Holm 1979), and "better" needs a
    corrected p below `level`. The mean over languages is one test of its own. The tests are in `xeval.statistics.significance`.

    Args:
        results: of both models, with per-item statistics.
        a: label of one model.
        b: label of the other.
        level: the accepted rate of false "better" in a whole family of languages.
        resamples: of bootstrap and permutation.
        seed: of the draws.

    Returns:
        One comparison per task and metric.

    Raises:
        XevalError: for an unknown model, results of different protocols, results without item statistics,
            different test items, different training data, or fewer resamples than could show anything.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from xeval import Items, Result, append_result, read_results
        >>> file = Path(tempfile.mkdtemp()) / "results.jsonl"
        >>> for model, right in (("large", 90), ("small", 60)):
        ...     rows = np.array([[i < right, 1] for i in range(100)], dtype=int)  # [n, S]: (correct, total) of each item
        ...     items = Items(metric="accuracy", rows=rows, test_digest="0" * 16)
        ...     result = Result(
        ...         model=model, model_digest=model, task="topic", dataset="sib200/de", split="test", language="de",
        ...         source_language="en", protocol={}, seed=0, metric="accuracy", value=items.value(), n=100,
        ...     )
        ...     _ = append_result(file, result, items=items)
        >>> (task,) = compare(read_results(file), "large", "small", resamples=1000)
        >>> task.languages[0].verdict
        'large better by 30.00 points'
    """
    results = [r for r in results if r.bootstrap is None]
    of_a, of_b = of_model(results, a), of_model(results, b)
    check_one_protocol([*of_a, *of_b])
    check_same_items([*of_a, *of_b])
    check_same_training([*of_a, *of_b])
    groups = dict.fromkeys((r.task, r.metric) for r in [*of_a, *of_b])
    return [
        _compare_task(
            [r for r in of_a if (r.task, r.metric) == group],
            [r for r in of_b if (r.task, r.metric) == group],
            names=(a, b),
            level=level,
            resamples=resamples,
            seed=seed,
        )
        for group in groups
    ]


def _compare_task(
    of_a: Sequence[Result],
    of_b: Sequence[Result],
    *,
    names: tuple[str, str],
    level: float,
    resamples: int,
    seed: int,
) -> TaskComparison:
    example = [*of_a, *of_b][0]
    metric = example.metric
    pairs, left_out = _pair_up(of_a, of_b, names)
    seeds = any(max(len(pair.a), len(pair.b)) > 1 for pair in pairs)
    require_resamples(resamples, tests=len(pairs), level=level, seeds=seeds)
    compared = [
        compare_test_set(
            metric,
            pair.a,
            pair.b,
            place=pair.place,
            level=level / len(pairs),
            resamples=resamples,
            seed=seed,
        )
        for pair in pairs
    ]
    mean = _compare_means(metric, pairs, level=level, resamples=resamples, seed=seed)
    return TaskComparison(
        task=example.task,
        metric=metric,
        a=names[0],
        b=names[1],
        languages=with_verdicts(compared, metric, names, level),
        mean=mean and _with_verdict(mean, metric, names, level),
        left_out=tuple(left_out),
    )


def with_verdicts(
    compared: Sequence[Comparison], metric: str, names: tuple[str, str], level: float
) -> tuple[Comparison, ...]:
    """The comparisons of one family: their p corrected by Holm's method, and verdicts in words."""
    corrected = holm([comparison.p for comparison in compared])
    return tuple(
        _with_verdict(replace(comparison, p_holm=p), metric, names, level)
        for comparison, p in zip(compared, corrected, strict=True)
    )


def _pair_up(
    of_a: Sequence[Result], of_b: Sequence[Result], names: tuple[str, str]
) -> tuple[list[_Pair], list[str]]:
    """Test sets that both have figures for, and the others in words."""
    labels = place_labels([*of_a, *of_b])
    seeds: dict[tuple[str, str], tuple[dict[int, Result], dict[int, Result]]] = defaultdict(
        lambda: ({}, {})
    )
    for which, of_model_ in enumerate((of_a, of_b)):
        for result in of_model_:
            by_model = seeds[result.language, result.dataset]
            if result.value is not None:
                by_model[which][result.seed] = result
    pairs, left_out = [], []
    for place, (by_a, by_b) in sorted(seeds.items()):
        if by_a and by_b:
            pairs.append(_Pair(labels[place], _rows(by_a), _rows(by_b)))
        else:
            lacking = [name for name, has in zip(names, (by_a, by_b), strict=True) if not has]
            left_out.append(f"{labels[place]}: no result of {' and '.join(lacking)}")
    return pairs, left_out


def _rows(by_seed: dict[int, Result]) -> dict[int, NDArray[np.float64]]:
    return {seed: result.load_items().rows.astype(float) for seed, result in by_seed.items()}


def compare_test_set(
    metric: str,
    of_a: Mapping[int, NDArray[np.float64]],
    of_b: Mapping[int, NDArray[np.float64]],
    *,
    place: str,
    level: float = 0.05,
    resamples: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Compare two models on one test set; the statistics of `compare`, before the correction over languages.

    Args:
        metric: a key of `xeval.statistics.metrics.METRICS`.
        of_a: rows `[n, S]` of model A by seed.
        of_b: rows `[n, S]` of model B by seed.
        place: what the test set is called.
        level: at which `detectable` holds.
        resamples: of bootstrap and permutation.
        seed: of the draws.
    """
    a, b = list(of_a.values()), list(of_b.values())
    values_a, values_b = ([_value(metric, rows) for rows in rows_of] for rows_of in (a, b))
    return _summarise(
        metric,
        place=place,
        n=len(a[0]),
        values_a=values_a,
        values_b=values_b,
        items=bootstrap_differences(metric, a, b, resamples=resamples, seed=seed),
        p_items=permutation_p(metric, a, b, resamples=resamples, seed=seed),
        level=level,
        seed=seed,
    )


def _compare_means(
    metric: str, pairs: Sequence[_Pair], *, level: float, resamples: int, seed: int
) -> Comparison | None:
    """The unweighted mean over languages; its seeds are those that were scored on every language."""
    if len(pairs) < 2:
        return None
    seeds_a, seeds_b = (
        sorted(set.intersection(*(set(getattr(pair, side)) for pair in pairs))) for side in "ab"
    )
    if not seeds_a or not seeds_b:
        return None
    items, observed, exchanged = np.zeros(resamples), 0.0, np.zeros(resamples)
    for pair in pairs:
        a, b = [pair.a[s] for s in seeds_a], [pair.b[s] for s in seeds_b]
        items += bootstrap_differences(metric, a, b, resamples=resamples, seed=seed)
        difference, differences = permutation_differences(
            metric, a, b, resamples=resamples, seed=seed
        )
        observed += difference
        exchanged += differences
    return _summarise(
        metric,
        place=f"mean of {len(pairs)}",
        n=sum(len(next(iter(pair.a.values()))) for pair in pairs),
        values_a=[float(np.mean([_value(metric, p.a[s]) for p in pairs])) for s in seeds_a],
        values_b=[float(np.mean([_value(metric, p.b[s]) for p in pairs])) for s in seeds_b],
        items=items / len(pairs),
        p_items=two_sided_p(observed, exchanged, exhaustive=False),
        level=level,
        seed=seed,
    )


def _summarise(
    metric: str,
    *,
    place: str,
    n: int,
    values_a: list[float],
    values_b: list[float],
    items: Values,
    p_items: float,
    level: float,
    seed: int,
) -> Comparison:
    draws = len(items)
    spread = (
        items
        + seed_noise(values_a, resamples=draws, seed=2 * seed, fallback=values_b)
        - seed_noise(values_b, resamples=draws, seed=2 * seed + 1, fallback=values_a)
    )
    several = max(len(values_a), len(values_b)) > 1
    p = max(p_items, bootstrap_p(spread)) if several else p_items
    most = metric_of(metric).largest_difference
    low, high = np.quantile(spread, [0.025, 0.975]).clip(-most, most)
    reach = np.quantile(spread, [level / 2, 1 - POWER, POWER, 1 - level / 2])
    return Comparison(
        place=place,
        n=n,
        score_a=float(np.mean(values_a)),
        score_b=float(np.mean(values_b)),
        difference=float(np.mean(values_a) - np.mean(values_b)),
        low=float(low),
        high=float(high),
        p_items=p_items,
        p=p,
        p_holm=p,
        detectable=float(reach[3] - reach[0] + reach[2] - reach[1]) / 2 or None,
        seeds_a=len(values_a),
        seeds_b=len(values_b),
        verdict="",
    )


def _with_verdict(
    comparison: Comparison, metric: str, names: tuple[str, str], level: float
) -> Comparison:
    score = metric_of(metric)
    unit = "points" if score.unit == "%" else score.unit
    digits = score.digits
    if comparison.p_holm < level and comparison.difference != 0:
        a_leads = (comparison.difference > 0) == score.higher_is_better
        verdict = f"{names[0] if a_leads else names[1]} better by {abs(comparison.difference):.{digits}f} {unit}"
    elif comparison.detectable is None:
        same = "no difference: the same score on every item"
        verdict = same if comparison.difference == 0 else "no difference shown"
    elif comparison.detectable > score.largest_difference:
        verdict = f"no difference shown, nor would one of {score.largest_difference:g} points have been: too few seeds or test items"
    else:
        verdict = f"no difference shown; one of {comparison.detectable:.{digits}f} {unit} would have been, 4 times in 5"
    return replace(comparison, verdict=verdict)


def _value(metric: str, rows: NDArray[np.float64]) -> float:
    return float(value_of_rows(metric, rows))
