"""Two runs at once: one goes on, the other is told who was first."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mergedistill.errors import StageError
from mergedistill.recipe.recipe import Recipe
from mergedistill.run.locks import alone_in
from mergedistill.run.run import run

HELD = """
import fcntl, sys
held = open(sys.argv[1], "a")
fcntl.flock(held, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


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


def test_a_process_that_died_holds_nothing_and_one_that_lives_does(tmp_path: Path) -> None:
    command = [sys.executable, "-S", "-c", HELD, str(tmp_path / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(StageError, match="in use by another process"), alone_in(tmp_path):
            pass
        other.kill()

    with alone_in(tmp_path):
        assert (tmp_path / ".held-by.json").is_file()


def test_a_file_where_the_folder_should_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")

    for folder in (tmp_path / "file", tmp_path / "file" / "inside"):
        with pytest.raises(StageError, match="is to be a folder to work in"), alone_in(folder):
            pass
