"""From records to what a table shows: means with intervals, transfer gap, worst language, and what is missing."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xeval.errors import XevalError
from xeval.statistics.comparable import (
    check_one_protocol,
    check_same_items,
    check_same_training,
)
from xeval.statistics.display_names import model_labels, place_labels
from xeval.statistics.metrics import Metric, Values, metric_of
from xeval.statistics.result import Result
from xeval.statistics.significance import bootstrap_scores, seed_noise

RESAMPLES = 1000


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A score with its 95 % interval, which is None where nothing says how uncertain it is.

    That is so without item statistics and with a single seed; and where all items are alike, as at 100 %: a bootstrap
    of them has no spread, which is no certainty.

    Args:
        value: mean over seeds.
        low: 2.5th percentile, from items and seeds together.
        high: 97.5th percentile.
        seeds: how many.
    """

    value: float
    low: float | None
    high: float | None
    seeds: int


@dataclass(frozen=True, kw_only=True)
class ModelScore:
    """One model on all languages of a task.

    Args:
        model: label.
        mean: over the languages that every model of the table has; None where there are none.
        source: on the source language, where it was scored.
        gap: how much worse the mean over the other languages is than the source; None without a source.
        worst: label and score of the worst of the common languages.
    """

    model: str
    mean: Estimate | None
    source: float | None
    gap: float | None
    worst: tuple[str, float] | None


@dataclass(frozen=True, kw_only=True)
class Table:
    """One task by one metric.

    Args:
        task: name.
        metric: key of `METRICS`.
        split: of the data.
        protocol: the settings, and their digest.
        digest: of the protocol.
        source: the source language; None for a task without tuning.
        places: labels of the test sets, with the language of each.
        common: those that every model has.
        models: labels.
        methods: how a model was asked, by model, where it says itself how.
        cells: by (model, place).
        rows: one per model.
    """

    task: str
    metric: str
    split: str
    protocol: Mapping[str, Any]
    digest: str
    source: str | None
    places: Mapping[str, str]
    common: tuple[str, ...]
    models: tuple[str, ...]
    methods: Mapping[str, str]
    cells: Mapping[tuple[str, str], Estimate]
    rows: tuple[ModelScore, ...]

    @property
    def score(self) -> Metric:
        """The metric."""
        return metric_of(self.metric)

    def best(self) -> tuple[str, ...]:
        """Labels of the models with the best mean: several where they tie, none where there is no mean."""
        means = {row.model: row.mean.value for row in self.rows if row.mean}
        if not means:
            return ()
        best = (max if self.score.higher_is_better else min)(means.values())
        return tuple(model for model, value in means.items() if abs(value - best) < 1e-9)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """All tables, the costs by model label, and what was not run, in words."""

    tables: tuple[Table, ...]
    models: tuple[str, ...]
    costs: Mapping[str, Mapping[str, Any]]
    missing: tuple[str, ...]


def summarise(results: Iterable[Result]) -> Summary:
    """Reduce records to tables.

    A cell is the mean over seeds; its 95 % interval lies between the 2.5th and 97.5th percentile of a bootstrap over items
    (Efron and Tibshirani 1993), to which the uncertainty of a mean over k seeds, s/√k · t(k − 1), is added. The transfer gap
    of a model is its score on the source language less the mean over the others (Hu et al. 2020). Records of single
    bootstraps serve where item statistics are lacking.

    Args:
        results: of any models and tasks, as `read_results` gives them.

    Returns:
        A table for each task and metric, costs, and what is missing.

    Raises:
        XevalError: for no results, results of different protocols in one task, or different test items in one column, or different
            training data of one source language.

    Example:
        >>> about = {"model": "small", "model_digest": "ab", "task": "pos", "split": "test", "source_language": "en",
        ...          "protocol": {}, "seed": 0, "metric": "accuracy", "n": 100}
        >>> results = [Result(dataset=f"ud/{l}", language=l, value=v, **about) for l, v in (("en", 95.0), ("de", 80.0))]
        >>> (table,) = summarise(results).tables
        >>> table.rows[0].mean.value, table.rows[0].gap, table.rows[0].worst
        (87.5, 15.0, ('de', 80.0))
    """
    results = list(results)
    if not results:
        raise XevalError("there are no results to report; `xeval run` makes some")
    check_one_protocol(results)
    check_same_items(results)
    check_same_training(results)
    labels = model_labels(results)
    groups = dict.fromkeys((r.task, r.split, r.metric) for r in results)
    tables, missing = [], []
    for group in groups:
        of_group = [r for r in results if (r.task, r.split, r.metric) == group]
        tables.append(_table(of_group, labels))
        if group == next(g for g in groups if g[:2] == group[:2]):
            missing += _missing(of_group, labels)
    costs: dict[str, Mapping[str, Any]] = {}
    for result in results:
        if result.cost:
            costs.setdefault(labels[result.model, result.model_digest], result.cost)
    return Summary(
        tables=tuple(tables),
        models=tuple(labels.values()),
        costs=costs,
        missing=tuple(missing),
    )


def _table(results: Sequence[Result], labels: Mapping[tuple[str, str], str]) -> Table:
    example = results[0]
    places = place_labels(results)
    transferred = [r.source_language for r in results if r.source_language != r.language]
    by_cell: dict[tuple[str, str], list[Result]] = {}
    for r in results:
        if r.value is not None:
            key = (labels[r.model, r.model_digest], places[r.language, r.dataset])
            by_cell.setdefault(key, []).append(r)
    models = tuple(m for m in labels.values() if any(m == model for model, _ in by_cell))
    languages = {label: language for (language, _), label in sorted(places.items())}
    scored = {m: {p for model, p in by_cell if model == m} for m in models}
    common = tuple(p for p in languages if all(p in scored[m] for m in models))
    cells: dict[tuple[str, str], Estimate] = {}
    totals = {m: np.zeros(RESAMPLES) for m in models}
    for place in languages:
        of_place = {m: by_cell[m, place] for m in models if (m, place) in by_cell}
        for model, (draws, values, known) in _draws(example.metric, of_place).items():
            cells[model, place] = _estimate(example.metric, draws, values, known)
            if place in common:
                totals[model] += draws if known else np.nan
    source = transferred[0] if transferred else None
    rows = tuple(
        _model_score(m, cells, by_cell, totals[m], languages, common, source, example.metric)
        for m in models
    )
    return Table(
        task=example.task,
        metric=example.metric,
        split=example.split,
        protocol=example.protocol,
        digest=example.protocol_digest,
        source=source,
        places=languages,
        common=common,
        models=models,
        methods={labels[r.model, r.model_digest]: r.method for r in results if r.method},
        cells=cells,
        rows=rows,
    )


def _draws(
    metric: str, of_place: Mapping[str, Sequence[Result]]
) -> dict[str, tuple[Values, list[float], bool]]:
    """For each model on one test set: resampled means over seeds, the value of each seed, and whether the draws tell anything."""
    whole = {m: {r.seed: r for r in rs if r.bootstrap is None} for m, rs in of_place.items()}
    with_items = [
        m for m, by_seed in whole.items() if by_seed and all(r.items for r in by_seed.values())
    ]
    samples = [[r.load_items().rows.astype(float) for r in whole[m].values()] for m in with_items]
    drawn = (
        dict(
            zip(
                with_items,
                bootstrap_scores(metric, samples, resamples=RESAMPLES, seed=0),
                strict=True,
            )
        )
        if samples
        else {}
    )
    draws_of = {}
    for model, results in of_place.items():
        resampled = _recorded_bootstraps(results)
        values = [float(r.value) for r in whole[model].values() if r.value is not None] or [
            float(np.mean([r.value for r in results if r.value is not None]))
        ]
        draws = drawn.get(model, resampled)
        known = draws is not None
        draws_of[model] = (
            np.full(RESAMPLES, np.mean(values)) if draws is None else draws,
            values,
            known,
        )
    return draws_of


def _recorded_bootstraps(results: Sequence[Result]) -> Values | None:
    """Draws from records of single bootstraps, at least twenty of them; the mean over seeds of each."""
    by_draw: dict[int, list[float]] = {}
    for r in results:
        if r.bootstrap is not None and r.value is not None:
            by_draw.setdefault(r.bootstrap, []).append(r.value)
    if len(by_draw) < 20:
        return None
    means = np.array([np.mean(by_draw[draw]) for draw in sorted(by_draw)])
    return np.random.default_rng(len(means)).choice(means, size=RESAMPLES)


def _estimate(metric: str, draws: Values, values: Sequence[float], known: bool) -> Estimate:
    spread = draws + seed_noise(values, resamples=len(draws), seed=0)
    if not (known or len(values) > 1) or np.isnan(spread).any() or np.ptp(spread) < 1e-9:
        return Estimate(value=float(np.mean(values)), low=None, high=None, seeds=len(values))
    score = metric_of(metric)
    low, high = np.quantile(spread, [0.025, 0.975]).clip(score.lowest, score.highest)
    return Estimate(
        value=float(np.mean(values)), low=float(low), high=float(high), seeds=len(values)
    )


def _model_score(
    model: str,
    cells: Mapping[tuple[str, str], Estimate],
    by_cell: Mapping[tuple[str, str], Sequence[Result]],
    total: Values,
    languages: Mapping[str, str],
    common: Sequence[str],
    source: str | None,
    metric: str,
) -> ModelScore:
    sign = 1.0 if metric_of(metric).higher_is_better else -1.0
    at_home = [cells[model, p].value for p in common if languages[p] == source]
    abroad = [cells[model, p].value for p in common if languages[p] != source]
    if not common:
        return ModelScore(model=model, mean=None, source=None, gap=None, worst=None)
    mean = _estimate(metric, total / len(common), _seed_means(model, by_cell, common), known=True)
    if not np.isclose(mean.value, value := float(np.mean(at_home + abroad))):
        mean = Estimate(value=value, low=mean.low, high=mean.high, seeds=mean.seeds)
    worst = min(common, key=lambda p: sign * cells[model, p].value)
    return ModelScore(
        model=model,
        mean=mean,
        source=float(np.mean(at_home)) if at_home else None,
        gap=sign * float(np.mean(at_home) - np.mean(abroad)) if at_home and abroad else None,
        worst=(worst, cells[model, worst].value),
    )


def _seed_means(
    model: str, by_cell: Mapping[tuple[str, str], Sequence[Result]], common: Sequence[str]
) -> list[float]:
    """The mean over languages of each seed that was scored on all of them."""
    by_place = [
        {r.seed: r.value for r in by_cell[model, p] if r.bootstrap is None and r.value is not None}
        for p in common
    ]
    seeds = sorted(set.intersection(*(set(values) for values in by_place)))
    means = [float(np.mean([values[s] for values in by_place])) for s in seeds]
    return means or [
        float(
            np.mean(
                [
                    np.mean([r.value for r in by_cell[model, p] if r.value is not None])
                    for p in common
                ]
            )
        )
    ]


def _missing(results: Sequence[Result], labels: Mapping[tuple[str, str], str]) -> list[str]:
    """Who has no figure where others have, and why; and who has fewer seeds than the others."""
    places = place_labels(results)
    present: dict[tuple[str, str], set[int]] = {}
    reasons: dict[tuple[str, str], str] = {}
    for r in results:
        key = (labels[r.model, r.model_digest], places[r.language, r.dataset])
        if r.value is not None:
            present.setdefault(key, set()).add(r.seed)
        elif r.skipped:
            reasons[key] = r.skipped
    most = max((len(seeds) for seeds in present.values()), default=0)
    grouped: dict[tuple[str, str], list[str]] = {}
    for model in labels.values():
        for place in sorted(set(places.values())):
            seeds = present.get((model, place), set())
            if not seeds:
                why = reasons.get((model, place), "not run")
            elif len(seeds) < most:
                why = f"{len(seeds)} of {most} seeds"
            else:
                continue
            grouped.setdefault((model, why), []).append(place)
    task = results[0].task
    everywhere = len(set(places.values()))
    return [
        f"{model}, {task}: {why}" + ("" if len(where) == everywhere else f" ({', '.join(where)})")
        for (model, why), where in grouped.items()
    ]
