"""What stays: rules against brute force."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vocabmerge.errors import VocabularyError
from vocabmerge.trim.choose_pieces import choose_by_threshold, choose_top, close_over_merges
from vocabmerge.trim.fair_choice import choose_fair
from vocabmerge.trim.probabilities import unigram_probabilities

NONE = np.zeros(6, dtype=bool)


def best_worst_coverage(counts, budget, always):
    """Brute force over every choice."""
    p = unigram_probabilities(counts)
    forced = set(np.flatnonzero(always))
    free = [i for i in range(p.shape[1]) if i not in forced]
    best = 0.0
    for extra in itertools.combinations(free, min(budget - len(forced), len(free))):
        best = max(best, p[:, [*forced, *extra]].sum(axis=1).min())
    return best


@st.composite
def small_cases(draw):
    languages, pieces = draw(st.integers(1, 4)), draw(st.integers(2, 9))
    row = st.lists(st.integers(0, 9), min_size=pieces, max_size=pieces).filter(any)
    counts = np.array(draw(st.lists(row, min_size=languages, max_size=languages)))
    always = np.array(draw(st.lists(st.booleans(), min_size=pieces, max_size=pieces)))
    return counts, draw(st.integers(int(always.sum()), pieces)), always


@settings(max_examples=60, deadline=None)
@given(small_cases())
def test_the_fair_choice_serves_the_worst_language_as_brute_force_does(case):
    counts, budget, always = case
    found = choose_fair(counts, budget, always=always)
    optimum = best_worst_coverage(counts, budget, always)

    assert found.keep.sum() == min(budget, counts.shape[1])
    assert found.keep[always].all()
    assert found.bound >= optimum - 1e-9
    # One exchange at a time can stop short of the optimum by no more than a piece per further language.
    free = unigram_probabilities(counts)[:, ~always]
    slack = (len(counts) - 1) * (free.max() if free.size else 0)
    assert optimum - slack - 1e-9 <= found.coverage.min() <= optimum + 1e-9


@pytest.mark.property
@settings(max_examples=2000, deadline=None)
@given(small_cases())
def test_the_fair_choice_serves_the_worst_language_as_brute_force_does_at_length(case):
    test_the_fair_choice_serves_the_worst_language_as_brute_force_does.hypothesis.inner_test(case)


# The second half are cases in which rounding alone, without the exchange of pieces, falls short.
@pytest.mark.parametrize("seed", [0, 1, 2, 3, 41, 42, 46, 49, 56, 93, 94, 111])
def test_the_fair_choice_is_optimal_for_two_languages(seed):
    counts = np.random.default_rng(seed).zipf(1.5, size=(2, 12)).clip(max=500)
    found = choose_fair(counts, 5, always=np.zeros(12, dtype=bool))
    assert found.coverage.min() == pytest.approx(
        best_worst_coverage(counts, 5, np.zeros(12, dtype=bool))
    )


def test_the_fair_choice_gives_the_small_language_what_global_frequency_would_not():
    shared = np.zeros(100, dtype=int)
    large, small = shared.copy(), shared.copy()
    large[:50], small[50:] = 1000 * np.arange(50, 0, -1), np.arange(50, 0, -1)
    counts = np.stack([large, small])

    fair = choose_fair(counts, 40, always=shared.astype(bool))
    by_frequency = np.argsort(-counts.sum(axis=0), kind="stable")[:40]

    p = unigram_probabilities(counts)
    assert p[:, by_frequency].sum(axis=1).min() == 0
    assert fair.coverage.min() == pytest.approx(p[0, :20].sum())
    assert fair.bound == pytest.approx(fair.coverage.min(), abs=0.02)


def test_the_bound_is_close_on_many_pieces_of_unlike_languages():
    generator = np.random.default_rng(0)
    slopes = np.array(
        [[0.6], [0.9], [1.2], [1.5]]
    )  # the first spreads its tokens, the last needs few pieces
    counts = generator.permuted(1e6 / np.arange(1, 3001) ** slopes, axis=1).astype(int)
    found = choose_fair(counts, 800, always=np.zeros(3000, dtype=bool))
    even = choose_top(counts.mean(axis=0, keepdims=True), 800, always=np.zeros(3000, dtype=bool))
    p = unigram_probabilities(counts)
    assert found.coverage.min() > p[:, even].sum(axis=1).min() + 0.01
    assert found.bound - found.coverage.min() < 0.001


def test_the_threshold_is_on_the_maximum_over_languages():
    counts = [[999_999, 1, 0, 0, 0, 0], [10, 0, 0, 1_999_989, 1, 0]]
    always = [0, 0, 0, 0, 0, 1]
    assert choose_by_threshold(counts, always=always).tolist() == [
        True,
        True,
        False,
        True,
        False,
        True,
    ]


def test_threshold_zero_keeps_everything():
    assert choose_by_threshold([[1, 0, 0, 0, 0, 0]], always=NONE, threshold=0).all()


def test_top_takes_the_lower_id_of_equals():
    assert choose_top([[1, 1, 1, 0, 0, 0]], 2, always=NONE).tolist() == [1, 1, 0, 0, 0, 0]
    assert choose_top([[0, 0, 1, 0, 0, 1]], 4, always=NONE).tolist() == [1, 1, 1, 0, 0, 1]


@pytest.mark.parametrize("choose", [choose_top, choose_fair])
def test_a_budget_below_what_always_stays_is_refused(choose):
    with pytest.raises(VocabularyError, match=r"4 pieces stay always .* ask for 4 or more"):
        choose(np.ones((1, 6), dtype=int), 3, always=[1, 1, 1, 1, 0, 0])


def test_a_language_without_tokens_is_refused():
    with pytest.raises(VocabularyError, match="none in row 1"):
        choose_top([[1, 0], [0, 0]], 1, always=[0, 0])


@st.composite
def merge_trees(draw):
    """Merges as BPE training makes them: parents exist before their child; some children have two pairs of parents."""
    known = draw(st.integers(2, 5))
    total = known + draw(st.integers(0, 12))
    merges = [
        [draw(st.integers(0, result - 1)), draw(st.integers(0, result - 1)), result]
        for result in range(known, total)
        for _ in range(draw(st.integers(1, 2)))
    ]
    keep = draw(st.lists(st.booleans(), min_size=total, max_size=total))
    return np.array(keep), np.array(merges).reshape(-1, 3)


@settings(max_examples=60, deadline=None)
@given(merge_trees())
def test_closure_holds_every_ancestor_and_nothing_else_and_closing_twice_is_closing_once(case):
    keep, merges = case
    parents = {}
    for left, right, result in merges.tolist():
        parents.setdefault(result, set()).update((left, right))
    wanted, queue = set(), list(np.flatnonzero(keep))
    while queue:
        piece = int(queue.pop())
        if piece not in wanted:
            wanted.add(piece)
            queue.extend(parents.get(piece, ()))

    closed = close_over_merges(keep, merges)

    assert set(np.flatnonzero(closed).tolist()) == wanted
    assert np.array_equal(close_over_merges(closed, merges), closed)
