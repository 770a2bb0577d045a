import importlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from mergedistill.cli.app import app
from mergedistill.errors import RecipeError, StageError
from mergedistill.recipe.read import altered
from mergedistill.recipe.recipe import Recipe
from mergedistill.run.ablate import (
    Variant,
    ablate,
    baselines,
    grid,
    mean_and_interval,
    read_over,
    read_seeds,
)


def test_variants_are_trained_on_one_recording_and_one_vocabulary(
    recipe_of: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    running: Any = importlib.import_module(
        "mergedistill.run.run"
    )  # the package calls a function so, too

    counts = {"recorded": 0, "merged": 0}
    record, merge = running.record_language, running.merge_vocabularies

    def counted(name: str, function: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **named: object) -> object:
            counts[name] += 1
            return function(*arguments, **named)

        return call

    monkeypatch.setattr(running, "record_language", counted("recorded", record))
    monkeypatch.setattr(running, "merge_vocabularies", counted("merged", merge))
    recipe = recipe_of(train={"steps": 2, "tokens": 256})
    variants = grid({"distil.alpha": [0, 1]})

    outcomes = ablate(recipe, variants, seeds=(0, 1))

    assert counts == {"recorded": 2, "merged": 1}  # each language once; one union
    assert [outcome.variant.name for outcome in outcomes] == ["alpha=0", "alpha=1"]
    for outcome in outcomes:
        assert set(outcome.bits_per_byte) == set(recipe.languages)
        assert all(
            len(set(its)) == 2 for its in outcome.bits_per_byte.values()
        )  # seeds differ, and so do their students
    written = _written(recipe)
    again = ablate(recipe, variants, seeds=(0, 1))
    assert again == outcomes
    assert written == _written(recipe)


def _written(recipe: Recipe) -> dict[Path, int]:
    """All files but digests of inputs, which are remembered when those have lain still for a while."""
    return {
        path: path.stat().st_mtime_ns
        for path in Path(recipe.out).rglob("*")
        if path.is_file() and path.name != "digests.json"
    }


def test_the_command_prints_every_figure_as_json(
    recipe_of: Callable[..., Recipe], tmp_path: Path
) -> None:
    recipe_of(train={"steps": 1, "tokens": 64})
    file = str(tmp_path / "recipe.yaml")

    done = CliRunner().invoke(app, ["ablate", file, "--over", "distil.tail=bucket,drop", "--json"])

    assert done.exit_code == 0, done.output
    records = json.loads(done.stdout)
    assert {(its["variant"], its["language"], its["measure"]) for its in records} == {
        (f"tail={tail}", language, measure)
        for tail in ("bucket", "drop")
        for language in ("qav", "qag")
        for measure in ("bits_per_byte", "accuracy")
    }
    assert all(its["interval"] is None for its in records)  # of one seed
    table = CliRunner().invoke(app, ["ablate", file, "--over", "distil.tail=bucket,drop"])
    assert "tail=bucket" in table.stdout
    assert f"{records[0]['mean']:.3f}" in table.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--over", "distil.alfa=1"], "unknown key 'distil.alfa' (did you mean 'alpha'?)"),
        (["--over", "distil.alpha=2"], "distil.alpha: input should be less than or equal to 1"),
        (["--over", "distill.alpha=1"], "no such key"),
        (["--over", "alpha"], "--over must be KEY=VALUE"),
        (["--over", "alpha= "], "--over must be KEY=VALUE"),
        (["--over", "distil.alpha=@"], "write in quotes what YAML reads as a sign of its own"),
        (["--over", "states.layer=1,2"], "states.layer: the recipe has no states; add that part"),
        (["--over", "seed=1,2"], "seed: every variant is trained with the same seeds"),
        (["--over", "out=a,b"], "out: every variant has a folder of its own"),
        (["--over", "signals=a,b"], "signals: all variants learn from the same recordings"),
        (["--over", "seed=1", "--over", "seed=2"], "twice"),
        (["--over", "distil.k=4", "--seeds", "0,x"], "--seeds must be different numbers"),
        ([], "nothing to compare"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_runs(
    recipe_of: Callable[..., Recipe], tmp_path: Path, arguments: list[str], message: str
) -> None:
    recipe = recipe_of()

    done = CliRunner().invoke(app, ["ablate", str(tmp_path / "recipe.yaml"), *arguments])

    assert done.exit_code == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not Path(recipe.out).exists()


def test_a_grid_is_every_combination() -> None:
    made = grid(read_over(["distil.alpha=0,0.5", "student.layers=2,4"]))

    assert [variant.name for variant in made] == [
        "alpha=0, layers=2",
        "alpha=0, layers=4",
        "alpha=0.5, layers=2",
        "alpha=0.5, layers=4",
    ]
    assert made[-1].changes == {"distil.alpha": 0.5, "student.layers": 4}


def test_values_are_read_as_yaml() -> None:
    assert read_over(["vocabulary.max_size=null,500"]) == {"vocabulary.max_size": [None, 500]}
    assert read_over(["states.languages=[de],[de,fi]"]) == {
        "states.languages": [["de"], ["de", "fi"]]
    }
    assert read_over(["combine={de: mixture, fi: best}"]) == {
        "combine": [{"de": "mixture", "fi": "best"}]
    }
    assert read_over(["train.learning_rate=1e-3,2E-3"]) == {"train.learning_rate": [0.001, 0.002]}
    assert read_seeds("0, 3") == (0, 3)


def test_baselines_fit_the_recipe(recipe_of: Callable[..., Recipe]) -> None:
    recipe = recipe_of()

    made = {variant.name: altered(recipe, variant.changes) for variant in baselines(recipe)}

    assert made["mlm only"].distil.alpha == 0
    assert made["distillation only"].distil.alpha == 1
    assert made["online teachers"].distil.online
    assert [sorted(each.languages) for each in made["only wp"].teachers] == [["qag", "qav"]]
    swapped = {each.called: each.languages for each in made["random teachers"].teachers}
    assert swapped == {"wp": ("qag",), "foreign": ("qav",)}


@given(st.lists(st.integers(1, 3), min_size=2, max_size=5), st.integers(0, 20))
def test_random_teachers_keep_their_share_and_not_all_their_languages(
    sizes: list[int], seed: int
) -> None:
    codes = iter(f"l{number}" for number in range(sum(sizes)))
    teachers = [
        {"teacher": f"t{number}", "languages": [next(codes) for _ in range(size)]}
        for number, size in enumerate(sizes)
    ]
    every = [code for its in teachers for code in its["languages"]]
    recipe = Recipe.model_validate(
        {
            "out": "o",
            "languages": dict.fromkeys(every, "x"),
            "teachers": teachers,
            "seed": seed,
        }
    )

    dealt = altered(recipe, baselines(recipe)[-1].changes)

    assert [len(each.languages) for each in dealt.teachers] == sizes
    assert sorted(code for each in dealt.teachers for code in each.languages) == sorted(every)
    before = [set(each.languages) for each in recipe.teachers]
    assert [set(each.languages) for each in dealt.teachers] != before


# t for 95 %: 4.303 at 2 degrees of freedom, 2.228 at 10, 2.086 at 20 (any table of Student's t).
@pytest.mark.parametrize(("count", "t"), [(3, 4.303), (11, 2.228), (12, 2.201), (21, 2.086)])
def test_the_interval_is_student_s(count: int, t: float) -> None:
    values = [float(number) for number in range(count)]
    mean = sum(values) / count
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (count - 1))

    found = mean_and_interval(values)

    assert found == pytest.approx((mean, t * deviation / math.sqrt(count)), rel=2e-3)


def test_one_value_has_no_interval() -> None:
    mean, half = mean_and_interval([2.0])

    assert mean == 2.0
    assert math.isnan(half)


def test_a_variant_s_values_replace_the_recipe_s(recipe_of: Callable[..., Recipe]) -> None:
    recipe = recipe_of()

    changed = altered(recipe, {"distil.alpha": 0.25, "languages.qav.limit": 7})

    assert (changed.distil.alpha, changed.languages["qav"].limit) == (0.25, 7)
    assert recipe.distil.alpha == 0.7  # untouched
    with pytest.raises(RecipeError, match=r"distil\.k"):
        altered(recipe, Variant(name="x", changes={"distil.k": "many"}).changes)


def test_a_student_begins_in_the_space_of_its_teacher_among_the_baselines_too(
    recipe_of: Callable[..., Recipe],
) -> None:
    carried = {"layers": 1, "width": 32, "start": "carried", "teacher": "foreign"}

    names = [variant.name for variant in baselines(recipe_of(student=carried))]

    assert [name for name in names if name.startswith("only ")] == ["only foreign"]


def test_a_student_that_cannot_begin_so_is_refused_before_any_variant_runs(
    recipe_of: Callable[..., Recipe],
) -> None:
    recipe = recipe_of(student={"layers": 1, "width": 64})  # its teachers are 32 wide

    with pytest.raises(StageError, match=r"start=carried: student\.width is 64, but .* 32 wide"):
        ablate(recipe, grid({"student.start": ["scratch", "carried"]}))

    assert not (Path(recipe.out) / "ablations").exists()
