"""A comparison says "better" as rarely as it promises, and what it computes can be enumerated."""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata, spearmanr
from typer.testing import CliRunner

from xeval.cli.app import app
from xeval.errors import XevalError
from xeval.statistics.compare import (
    Comparison,
    TaskComparison,
    _compare_means,
    _Pair,
    compare,
    compare_test_set,
)
from xeval.statistics.display_names import place_labels
from xeval.statistics.items import Items
from xeval.statistics.metrics import value_of, value_of_rows
from xeval.statistics.result import Result
from xeval.statistics.results_file import append_results, read_results
from xeval.statistics.significance import (
    bootstrap_differences,
    bootstrap_scores,
    holm,
    permutation_differences,
    permutation_p,
    seed_noise,
    two_sided_p,
)
from xeval.statistics.summary import summarise

Rows = np.ndarray[Any, Any]


def right_or_wrong(right: Rows) -> Rows:
    return np.stack([right, np.ones_like(right)], axis=1).astype(float)


# Statistics


@given(
    outcomes=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=8),
)
@settings(max_examples=30, deadline=None)
def test_the_exact_permutation_p_is_that_of_enumeration(outcomes: list[tuple[int, int]]) -> None:
    a = np.array([[right, 3] for right, _ in outcomes], float)
    b = np.array([[right, 3] for _, right in outcomes], float)
    observed = value_of("accuracy", a.sum(0)) - value_of("accuracy", b.sum(0))
    extreme = 0
    for swaps in product([False, True], repeat=len(outcomes)):
        first = sum(b[i] if swap else a[i] for i, swap in enumerate(swaps))
        second = sum(a[i] if swap else b[i] for i, swap in enumerate(swaps))
        difference = value_of("accuracy", first) - value_of("accuracy", second)
        extreme += abs(difference) >= abs(observed) - 1e-9

    p = permutation_p("accuracy", [a], [b], resamples=2**10, seed=0)

    assert p == pytest.approx(extreme / 2 ** len(outcomes))


def correlated(gold: Rows, noise: float, seed: int) -> Rows:
    """Rows of a model whose cosines follow the gold scores, more or less."""
    cosines = gold + noise * np.random.default_rng(seed).normal(size=len(gold))
    return np.stack([cosines, gold], axis=1)


def test_the_exact_permutation_p_of_a_correlation_is_that_of_enumeration() -> None:
    gold = np.arange(7.0)
    a, b = correlated(gold, 1, 0), correlated(gold, 3, 1)
    b[0] = a[0]
    observed = value_of_rows("cosine_spearman", a) - value_of_rows("cosine_spearman", b)
    ranks_a, ranks_b = rankdata(a[:, 0]), rankdata(b[:, 0])
    extreme = 0
    for swaps in product([False, True], repeat=7):
        first, second = np.where(swaps, ranks_b, ranks_a), np.where(swaps, ranks_a, ranks_b)
        difference = spearmanr(first, gold).statistic - spearmanr(second, gold).statistic
        extreme += abs(100 * difference) >= abs(observed) - 1e-9

    exact = permutation_p("cosine_spearman", [a], [b], resamples=2**10, seed=0)
    seen, exchanged = permutation_differences("cosine_spearman", [a], [b], resamples=4000, seed=0)

    assert exact == pytest.approx(extreme / 2**7)
    assert seen == pytest.approx(observed, abs=1e-9)
    assert two_sided_p(seen, exchanged, exhaustive=False) == pytest.approx(exact, abs=0.03)


def test_cosines_on_another_scale_are_the_same_evidence() -> None:
    gold = np.repeat(np.arange(6.0), 20)
    a, b = correlated(gold, 1.5, 0), correlated(gold, 3, 1)
    squeezed = a.copy()
    squeezed[:, 0] = 0.7 + 0.3 / (1 + np.exp(-a[:, 0]))  # in the order of before

    p, of_squeezed = (
        permutation_p("cosine_spearman", [rows], [b], resamples=500, seed=0)
        for rows in (a, squeezed)
    )

    assert of_squeezed == p < 0.05
    assert permutation_p("cosine_spearman", [a], [squeezed], resamples=500, seed=0) == 1


def test_a_correlation_is_resampled_by_the_same_pairs_for_all_models() -> None:
    gold = np.repeat(np.arange(6.0), 30)
    a, b = correlated(gold, 1, 0), correlated(gold, 3, 1)

    draws, same, worse = bootstrap_scores("cosine_spearman", [[a], [a], [b]], resamples=500, seed=0)

    assert (draws == same).all()
    assert (draws > worse).mean() > 0.99
    assert draws.mean() == pytest.approx(value_of_rows("cosine_spearman", a), abs=1)
    verdict = compare_test_set("cosine_spearman", {0: a}, {0: b}, place="de", resamples=500)
    assert verdict.p < 0.01
    assert verdict.low > 0


def test_the_estimated_permutation_p_meets_the_exact_one() -> None:
    random = np.random.default_rng(3)
    a = [random.integers(0, 5, size=(11, 3)).astype(float)]
    b = [random.integers(0, 5, size=(11, 3)).astype(float)]

    exact = permutation_p("f1", a, b, resamples=2**11, seed=0)
    observed, exchanged = permutation_differences("f1", a, b, resamples=20_000, seed=0)

    assert len(exchanged) == 20_000
    assert two_sided_p(observed, exchanged, exhaustive=False) == pytest.approx(exact, abs=0.015)


def test_the_bootstrap_spread_is_that_of_the_paired_formula() -> None:
    random = np.random.default_rng(1)
    a, b = (random.random(400) < 0.7).astype(float), (random.random(400) < 0.6).astype(float)

    draws = bootstrap_differences(
        "accuracy", [right_or_wrong(a)], [right_or_wrong(b)], resamples=8000, seed=0
    )

    assert draws.mean() == pytest.approx(100 * (a - b).mean(), abs=0.15)
    assert draws.std() == pytest.approx(100 * (a - b).std() / 400**0.5, rel=0.03)


def test_test_sets_that_are_translations_are_resampled_together() -> None:
    random = np.random.default_rng(4)
    right = (random.random(204) < 0.5).astype(float)
    a, wrong = right_or_wrong(right), right_or_wrong(1 - right)
    b = right_or_wrong(np.zeros(204))

    # German is right where French is wrong: resampled together, what one gains the other loses.
    de, fr = (
        bootstrap_differences("accuracy", [x], [b], resamples=100, seed=0) for x in (a, wrong)
    )
    other = bootstrap_differences("accuracy", [wrong[:203]], [b[:203]], resamples=100, seed=0)

    np.testing.assert_allclose(de + fr, 100)
    assert np.std(de + other) > 1


def test_the_mean_over_translations_has_the_interval_of_the_items_they_share() -> None:
    right = (np.random.default_rng(4).random(204) < 0.5).astype(float)
    pairs = {
        "same": (right, right),
        "opposite": (right, 1 - right),
    }
    spread = {}
    for name, languages in pairs.items():
        evidence = [
            _Pair(str(i), {0: right_or_wrong(x)}, {0: right_or_wrong(np.zeros(204))})
            for i, x in enumerate(languages)
        ]
        mean = _compare_means("accuracy", evidence, level=0.05, resamples=400, seed=0)
        assert mean is not None
        spread[name] = mean.high - mean.low

    # √(0.25 / 204) · 2 · 1.96 is 13.7 points for one item set read twice; what is read both ways has no error at all.
    assert spread["same"] == pytest.approx(13.7, rel=0.15)
    assert spread["opposite"] == pytest.approx(0, abs=1e-9)


def test_the_noise_of_seeds_is_students() -> None:
    noise = seed_noise([70.0, 74.0, 72.0], resamples=100_000, seed=0)

    # t(2) has its 97.5th percentile at 4.303; the standard error of the mean is 2 / √3.
    assert np.quantile(noise, 0.975) == pytest.approx(4.303 * 2 / 3**0.5, rel=0.03)
    assert not seed_noise([70.0], resamples=10, seed=0).any()


def test_the_noise_of_one_seed_is_that_of_the_other_model_s_seeds() -> None:
    noise = seed_noise([60.0], resamples=100_000, seed=0, fallback=[70.0, 74.0, 72.0])

    assert np.quantile(noise, 0.975) == pytest.approx(4.303 * 2, rel=0.03)


def test_holm_by_hand() -> None:
    # Sorted 0.001 0.01 0.02 0.04 0.3; times 5 4 3 2 1; running maximum.
    assert holm([0.04, 0.001, 0.3, 0.02, 0.01]) == pytest.approx([0.08, 0.005, 0.3, 0.06, 0.04])
    assert holm([0.02, 0.021]) == pytest.approx([0.04, 0.04])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@given(p=st.lists(st.floats(0, 1), min_size=1, max_size=6), level=st.floats(0.01, 0.3))
@settings(max_examples=50, deadline=None)
def test_holm_rejects_what_the_step_down_procedure_rejects(p: list[float], level: float) -> None:
    order = sorted(range(len(p)), key=p.__getitem__)
    rejected = set()
    for rank, index in enumerate(order):
        if (len(p) - rank) * p[index] > level:
            break
        rejected.add(index)

    assert {i for i, q in enumerate(holm(p)) if q <= level} == rejected


# Error rates, on simulated models


def false_alarms(
    *, trials: int, seeds: int | tuple[int, int], seed_spread: float
) -> tuple[float, float]:
    """Of pairs of equally good models, how many were told apart: by the verdict, and by items alone."""
    random = np.random.default_rng(11)
    n, by_verdict, by_items = 150, 0, 0
    for trial in range(trials):
        difficulty = random.normal(0.8, 1.0, size=n)
        models = []
        for k in seeds if isinstance(seeds, tuple) else (seeds, seeds):
            skill = random.normal(0, seed_spread, size=(k, 1))
            right = random.random((k, n)) < 1 / (1 + np.exp(-difficulty - skill))
            models.append({s: right_or_wrong(r) for s, r in enumerate(right)})
        found = compare_test_set("accuracy", *models, place="", resamples=400, seed=trial)
        by_verdict += found.p < 0.05
        a, b = (list(model.values()) for model in models)
        by_items += permutation_p("accuracy", a, b, resamples=400, seed=trial) < 0.05
    return by_verdict / trials, by_items / trials


def test_one_seed_without_noise_of_tuning_raises_false_alarms_at_the_nominal_rate() -> None:
    rate, _ = false_alarms(trials=400, seeds=1, seed_spread=0.0)

    assert 0.025 <= rate <= 0.08


def test_noise_of_tuning_does_not_raise_false_alarms_once_seeds_are_counted() -> None:
    rate, by_items_alone = false_alarms(trials=200, seeds=3, seed_spread=0.6)

    assert rate <= 0.08
    assert by_items_alone > 0.2


@pytest.mark.parametrize("seeds", [(4, 1), (1, 4)])
def test_noise_of_tuning_is_counted_for_a_model_with_one_seed_beside_one_with_several(
    seeds: tuple[int, int],
) -> None:
    rate, _ = false_alarms(trials=200, seeds=seeds, seed_spread=0.6)

    assert rate <= 0.08


def test_a_difference_of_the_detectable_size_is_found_four_times_in_five() -> None:
    random = np.random.default_rng(5)
    n, trials, found, detectable = 400, 200, 0, []
    difference = 0.09
    for trial in range(trials):
        a = {0: right_or_wrong(random.random(n) < 0.6 + difference)}
        b = {0: right_or_wrong(random.random(n) < 0.6)}
        result = compare_test_set("accuracy", a, b, place="", resamples=400, seed=trial)
        found += result.p < 0.05
        assert result.detectable is not None
        detectable.append(result.detectable)

    # √(0.69·0.31 + 0.6·0.4) / √400 · (1.96 + 0.84) is 9.4 points: a little more than the true 9.
    assert np.mean(detectable) == pytest.approx(9.44, rel=0.05)
    assert 0.68 <= found / trials <= 0.87


# From files


def write(
    file: Path,
    model: str,
    scores: dict[str, Rows],
    *,
    seed: int = 0,
    metric: str = "accuracy",
    **changes: Any,
) -> None:
    records = []
    for language, rows in scores.items():
        digest = changes.get("test_digest", f"items of {language}")
        items = Items(metric=metric, rows=rows, test_digest=digest)
        result = Result(
            model=model,
            model_digest=changes.get("model_digest", model),
            task=changes.get("task", "topic"),
            dataset="sib200",
            split="test",
            language=language,
            source_language="en",
            protocol=changes.get("protocol", {"epochs": 3}),
            seed=seed,
            metric=metric,
            value=items.value(),
            n=len(rows),
        )
        records.append((result, items))
    append_results(file, records)


def flips(rate: float, seed: int, n: int = 204) -> Rows:
    return right_or_wrong(np.random.default_rng(seed).random(n) < rate)


def by_place(task: TaskComparison) -> dict[str, Comparison]:
    return {one.place: one for one in task.languages}


def test_a_clear_winner_is_named_and_a_small_lead_is_not(tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    write(file, "A", {"de": flips(0.9, 1), "yo": flips(0.60, 2)})
    write(file, "B", {"de": flips(0.5, 3), "yo": flips(0.58, 4)})

    (task,) = compare(read_results(file), "A", "B", resamples=2000)

    places = by_place(task)
    assert places["de"].verdict.startswith("A better by")
    assert places["yo"].verdict.startswith("no difference shown; one of ")
    assert places["de"].low < places["de"].difference < places["de"].high
    assert task.mean is not None
    assert task.mean.difference == pytest.approx(
        (places["de"].difference + places["yo"].difference) / 2
    )
    assert task.mean.verdict.startswith("A better by")


def test_exchanging_the_models_exchanges_the_verdict(tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    write(file, "A", {"de": flips(0.9, 1)})
    write(file, "B", {"de": flips(0.5, 3)})
    results = read_results(file)

    (ab,), (ba,) = (
        compare(results, *names, resamples=500)[0].languages for names in (("A", "B"), ("B", "A"))
    )

    assert (ab.difference, ab.low, ab.p) == (-ba.difference, -ba.high, ba.p)
    assert ab.verdict == ba.verdict


def write_bits(file: Path, *, mean: float, more: float) -> None:
    """Bits of 100 texts of ten bytes by A, and by B, which takes `more` for each."""
    bits = np.random.default_rng(0).normal(mean, 3, size=(100, 1))
    for model, taken in (("A", bits), ("B", bits + more)):
        rows = np.hstack([taken, np.full((100, 1), 10.0)])
        write(file, model, {"de": rows}, metric="bits_per_byte")


def test_fewer_bits_per_byte_are_better(tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    write_bits(file, mean=20, more=1)

    (task,) = compare(read_results(file), "A", "B", resamples=500)

    assert task.languages[0].verdict == "A better by 0.1000 bits/byte"


def test_a_small_difference_of_a_rate_is_not_shown_as_none(tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    write_bits(file, mean=12, more=0.03)

    said = CliRunner().invoke(app, ["compare", "A", "B", str(file)]).output

    assert "-0.0030" in said
    assert "A better by 0.0030 bits/byte" in " ".join(said.split())


@pytest.mark.parametrize(("seeds", "level"), [(1, 0.05), (2, 0.05), (1, 0.01)])
def test_resamples_that_could_show_nothing_are_refused_and_the_named_number_suffices(
    seeds: int, level: float, tmp_path: Path
) -> None:
    file = tmp_path / "r.jsonl"
    for model, right in (("A", 1.0), ("B", 0.0)):
        for seed in range(seeds):
            scores = {f"l{i}": right_or_wrong(np.full(30, right)) for i in range(3)}
            write(file, model, scores, seed=seed)
    results = read_results(file)
    needed = round(3 * seeds / level)

    with pytest.raises(XevalError, match=rf"{needed - 1} resamples cannot .* at least {needed} "):
        compare(results, "A", "B", level=level, resamples=needed - 1)
    (task,) = compare(results, "A", "B", level=level, resamples=needed)

    assert {one.verdict for one in task.languages} == {"A better by 100.00 points"}


def test_equal_predictions_show_no_difference_and_claim_no_reach(tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    write(file, "A", {"de": flips(0.8, 1)})
    write(file, "B", {"de": flips(0.8, 1)})

    (task,) = compare(read_results(file), "A", "B", resamples=500)

    assert task.languages[0].p == 1
    assert task.languages[0].detectable is None
    assert task.languages[0].verdict == "no difference: the same score on every item"


def test_no_difference_beyond_all_points_is_named_as_what_could_have_been_shown(
    tmp_path: Path,
) -> None:
    file = tmp_path / "r.jsonl"
    for seed, shares in enumerate([(0.95, 0.5), (0.6, 0.4)]):
        for model, share in zip("AB", shares, strict=True):
            write(file, model, {"de": flips(share, seed)}, seed=seed)

    (task,) = compare(read_results(file), "A", "B", resamples=500)

    (one,) = task.languages
    assert one.detectable is not None
    assert one.detectable > 100
    assert one.verdict == (
        "no difference shown, nor would one of 100 points have been: too few seeds or test items"
    )
    # Student's t of one degree of freedom goes far beyond what two shares can differ by, and what one can be.
    assert (one.low, one.high) == (-100, 100)
    (table,) = summarise(read_results(file)).tables
    assert (table.cells["A", "de"].low, table.cells["A", "de"].high) == (0, 100)


def test_seeds_count_and_few_of_them_widen_the_interval(tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    for seed, rate in enumerate((0.70, 0.80, 0.90)):
        write(file, "A", {"de": flips(rate, seed, n=2000)}, seed=seed)
        write(file, "B", {"de": flips(rate - 0.06, 10 + seed, n=2000)}, seed=seed)

    (task,) = compare(read_results(file), "A", "B", resamples=2000)

    (one,) = task.languages
    assert (one.seeds_a, one.seeds_b) == (3, 3)
    assert one.low < 0 < one.high
    assert one.verdict.startswith("no difference shown")


def test_a_language_of_one_model_only_is_named(tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    write(file, "A", {"de": flips(0.8, 1), "fr": flips(0.8, 2)})
    write(file, "B", {"de": flips(0.8, 3)})

    (task,) = compare(read_results(file), "A", "B", resamples=500)

    assert [one.place for one in task.languages] == ["de"]
    assert task.left_out == ("fr: no result of B",)
    assert task.mean is None


def test_places_have_the_shortest_name_that_is_theirs_alone() -> None:
    sets = [("de", "ud/de_gsd"), ("de", "ud/de_pud"), ("fr", "ud/fr_gsd"), ("hi", "a"), ("hi", "b")]
    sets += [("fi", "ud/fi_tdt"), ("fi", "old/fi_tdt")]
    results = [
        Result(
            model="A", model_digest="A", task="pos", dataset=dataset, split="test", language=language,
            source_language="en", protocol={}, seed=0, metric="accuracy", value=1.0, n=1,
        )
        for language, dataset in sets
    ]  # fmt: skip

    assert list(place_labels(results).values()) == [
        *("de_gsd", "de_pud", "fr", "hi a", "hi b"),
        *("fi ud/fi_tdt", "fi old/fi_tdt"),
    ]


def test_other_test_items_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    write(file, "A", {"de": flips(0.8, 1)})
    write(file, "B", {"de": flips(0.8, 3)}, test_digest="others")

    with pytest.raises(XevalError, match=r"different test items \(items of de and others\)"):
        compare(read_results(file), "A", "B")


def test_other_protocols_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    write(file, "A", {"de": flips(0.8, 1)})
    write(file, "B", {"de": flips(0.8, 3)}, protocol={"epochs": 9})

    with pytest.raises(XevalError, match="epochs: 3 and 9"):
        compare(read_results(file), "A", "B")


def test_an_unknown_model_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    write(file, "A", {"de": flips(0.8, 1)})
    write(file, "A", {"de": flips(0.8, 1)}, model_digest="0123456789")

    with pytest.raises(XevalError, match="there are results of 'A@A', 'A@01234567'"):
        compare(read_results(file), "A", "B")


def test_the_same_seed_gives_the_same_figures(tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    write(file, "A", {"de": flips(0.8, 1)})
    write(file, "B", {"de": flips(0.7, 3)})
    results = read_results(file)

    assert compare(results, "A", "B", resamples=500) == compare(results, "A", "B", resamples=500)


def test_of_no_results_no_models_are_named() -> None:
    with pytest.raises(XevalError, match="no results of a model 'A'; there are none at all"):
        compare([], "A", "B")
