"""Two runs at once: one goes on, the other is told who was first."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mergedistill.errors import StageError
from mergedistill.recipe.recipe import Recipe
from mergedistill.run.run import run
from teacherzoo.cache import alone_in


def test_the_same_recipe_twice_at_once_names_the_process_that_was_first(
    recipe_of: Callable[..., Recipe],
) -> None:
    recipe = recipe_of()
    seen: list[str] = []

    def again(done: int, total: int, what: str) -> None:
        if not seen:
            with pytest.raises(StageError, match=r"\S+run is in use by process") as refused:
                run(recipe)
            seen.append(str(refused.value))

    run(recipe, until="rank", watch=again)

    (sentence,) = seen
    assert f"process {os.getpid()} on " in sentence
    run(recipe, until="rank")  # and it is free again


def test_recipes_that_share_recordings_do_not_record_at_once(
    recipe_of: Callable[..., Recipe],
) -> None:
    recipe = recipe_of(signals="shared")

    with alone_in(Path(recipe.signals or "")), pytest.raises(StageError, match="shared is in use"):
        run(recipe, until="rank")
