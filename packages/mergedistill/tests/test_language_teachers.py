import pytest

from mergedistill.errors import StageError
from mergedistill.recipe.language_teachers import (
    TeacherEnsemble,
    choose_teachers,
    needs_ranking,
    teachers_in_use,
)
from mergedistill.recipe.recipe import Recipe

BITS = {"de": {"a": 1.5, "b": 1.0, "c": 5.0}, "fi": {"a": 2.0, "b": 3.0, "c": 2.5}}


def _recipe(**changes: object) -> Recipe:
    return Recipe.model_validate(
        {
            "out": "run",
            "languages": {"de": "de.txt", "fi": "fi.txt"},
            "teachers": [{"teacher": f"x/{name}"} for name in "abc"],
            "assign": "rank",
            **changes,
        }
    )


def test_ranking_assigns_to_each_language_the_teacher_with_the_fewest_bits() -> None:
    found = choose_teachers(_recipe(), BITS)

    assert {language: its.weights for language, its in found.items()} == {
        "de": {"b": 1.0},
        "fi": {"a": 1.0},
    }
    used = teachers_in_use(_recipe(), found)
    assert {name: languages for name, (_, languages) in used.items()} == {"a": ["fi"], "b": ["de"]}


def test_weights_by_rank_are_the_odds_after_s_bytes() -> None:
    recipe = _recipe(combine={"de": "mixture"}, rank={"sharpness": 2.0})

    found = choose_teachers(recipe, BITS)

    # a and b differ by half a bit per byte, over 2 bytes: one to two; c would have less than 1 %.
    assert found["de"] == TeacherEnsemble(
        combine="mixture", weights=pytest.approx({"b": 2 / 3, "a": 1 / 3})
    )  # type: ignore[arg-type]  # compares as one
    assert found["de"].primary == "b"
    assert found["fi"].weights == {"a": 1.0}


def test_stated_weights_need_no_ranking() -> None:
    recipe = _recipe(
        assign="stated",
        combine="mixture",
        teachers=[
            {"teacher": "a", "languages": ["de"], "weight": 1},
            {"teacher": "b", "languages": ["de"], "weight": 3},
            {"teacher": "c", "languages": ["fi"]},
        ],
    )

    assert not needs_ranking(recipe)
    assert choose_teachers(recipe)["de"].weights == {"b": 0.75, "a": 0.25}


def test_a_choice_without_weights_waits_for_the_ranking() -> None:
    recipe = _recipe(
        assign="stated",
        teachers=[
            {"teacher": "a", "languages": ["de", "fi"]},
            {"teacher": "b", "languages": ["de"]},
        ],
    )

    assert needs_ranking(recipe)
    with pytest.raises(StageError, match=r"de: a has not been ranked"):
        choose_teachers(recipe)
    assert choose_teachers(recipe, BITS)["de"].weights == {"b": 1.0}
