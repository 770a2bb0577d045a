import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xeval.errors import XevalError
from xeval.statistics.metrics import value_of
from xeval.task_templates.trees import (
    CONTENT,
    FUNCTIONAL,
    RELATIONS,
    best_tree,
    check_tree,
    tree_counts,
)


def is_tree(heads: tuple[int, ...]) -> bool:
    if heads.count(0) != 1:
        return False
    for word in range(1, len(heads) + 1):
        seen = set()
        while word:
            if word in seen:
                return False
            seen.add(word)
            word = heads[word - 1]
    return True


def total(scores: np.ndarray, heads: tuple[int, ...] | list[int]) -> float:
    return float(sum(scores[word, head] for word, head in enumerate(heads)))


def brute_force(scores: np.ndarray) -> float:
    words = len(scores)
    every = itertools.product(*([h for h in range(words + 1) if h != w + 1] for w in range(words)))
    return max(total(scores, heads) for heads in every if is_tree(heads))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(0, 10**6), st.sampled_from([0.0, 8.0, -8.0]))
def test_the_tree_found_is_the_best_of_all_single_root_trees(
    words: int, seed: int, root_bonus: float
) -> None:
    scores = np.random.default_rng(seed).normal(size=(words, words + 1)) * 3
    scores[:, 0] += root_bonus

    found = best_tree(scores)

    assert is_tree(tuple(found))
    assert total(scores, found) == pytest.approx(brute_force(scores))


@pytest.mark.property
@settings(max_examples=400, deadline=None)
@given(st.integers(2, 6), st.integers(0, 10**9))
def test_the_tree_found_is_the_best_of_all_at_length(words: int, seed: int) -> None:
    # Whole numbers, so that ties are many.
    scores = np.random.default_rng(seed).integers(-3, 4, size=(words, words + 1)).astype(float)

    assert total(scores, best_tree(scores)) == pytest.approx(brute_force(scores))


def test_a_forest_of_roots_is_never_returned_however_much_the_root_attracts() -> None:
    scores = np.zeros((40, 41))
    scores[:, 0] = 1e4

    check_tree(best_tree(scores), "here")


def test_the_relations_are_the_37_universal_ones() -> None:
    assert len(RELATIONS) == 37
    assert not CONTENT & FUNCTIONAL


# "He has eaten the big apples": 3 is the root; aux and det are functional.
GOLD = ([3, 3, 0, 6, 6, 3], ["nsubj", "aux", "root", "det", "amod", "obj"])


def scores_of(guess: tuple[list[int], list[str]]) -> dict[str, float]:
    return {
        metric: float(value_of(metric, np.array(c)))
        for metric, c in tree_counts(GOLD, guess).items()
    }


def test_gold_scores_one_hundred() -> None:
    assert scores_of(GOLD) == {"uas": 100.0, "las": 100.0, "clas": 100.0}


def test_a_wrong_function_word_costs_las_but_not_clas() -> None:
    guess = ([3, 3, 0, 3, 6, 3], GOLD[1])

    assert scores_of(guess) == pytest.approx({"uas": 500 / 6, "las": 500 / 6, "clas": 100.0})


def test_subtypes_do_not_count() -> None:
    assert (
        scores_of((GOLD[0], ["nsubj:pass", "aux:pass", "root", "det", "amod", "obj"]))["las"]
        == 100.0
    )


def test_a_content_word_guessed_functional_leaves_clas_precision_alone() -> None:
    # Gold has 4 content words; the guess calls "big" a determiner: 3 content words, all right. F1 = 2·3 / (4 + 3).
    guess = (GOLD[0], ["nsubj", "aux", "root", "det", "det", "obj"])

    assert scores_of(guess) == pytest.approx({"uas": 100.0, "las": 500 / 6, "clas": 600 / 7})


def test_a_function_word_guessed_content_costs_clas_precision() -> None:
    # 4 content words in gold, 5 in the guess, 4 right: 2·4 / (4 + 5).
    guess = (GOLD[0], ["nsubj", "aux", "root", "nummod", "amod", "obj"])

    assert scores_of(guess)["clas"] == pytest.approx(800 / 9)


@pytest.mark.parametrize(
    ("heads", "fault"),
    [([0, 0, 1], "2 roots"), ([2, 1], "0 roots"), ([0, 3, 2], "cycle through the words 2, 3")],
)
def test_what_is_no_single_root_tree_is_refused(heads: list[int], fault: str) -> None:
    with pytest.raises(XevalError, match=fault):
        check_tree(heads, "en.conllu:7")
