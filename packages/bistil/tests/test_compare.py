"""Comparisons: what a recipe must say, what comes of it, and that nothing is done twice."""

import pytest
import yaml

from bistil.compare import compare, summary
from bistil.compare_recipe import SYSTEMS, read_comparison
from bistil.errors import AdaptError
from xeval import compare as judge_compare
from xeval import read_costs, read_results

SHORT = {
    "extract": {"steps": 4, "batch": 4, "length": 16, "checkpoint_every": 4},
    "languages": {"steps": 3, "full_steps": 2, "batch": 4, "length": 16, "evaluate_every": 3},
    "tune": {"steps": 4, "full_steps": 2, "batch": 4, "length": 40, "evaluate_every": 4, "precision": "float32"},
}  # fmt: skip


@pytest.fixture
def recipe(tmp_path, teacher, tasks, texts):
    """Writes a recipe of the made-up languages, changed as asked."""

    def write(**changes):
        stated = {
            "model": str(teacher), "corpora": {code: str(file) for code, file in texts.items()}, "targets": ["sw"],
            "tasks": ["pos"], "data": str(tasks), "seeds": 1, "out": "run", **SHORT, **changes,
        }  # fmt: skip
        file = tmp_path / "recipe.yaml"
        file.write_text(yaml.safe_dump({k: v for k, v in stated.items() if v != "absent"}))
        return file

    return write


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"targets": ["ru"]}, "no corpus of 'ru'"),
        ({"targets": ["hau"]}, "'hau', did you mean 'ha'"),
        ({"target": ["sw"]}, "unknown key 'target', did you mean 'targets'"),
        ({"tune": {"stepps": 3}}, "unknown key 'tune.stepps', did you mean 'steps'"),
        (
            {"tune_by_task": {"pos": {"stepps": 3}}},
            "'tune_by_task.pos.stepps', did you mean 'steps'",
        ),
        ({"tune_by_task": {"poss": {"steps": 3}}}, "tune_by_task: task 'poss' is not known"),
        ({"model": "absent"}, "'model' is missing"),
        ({"systems": ["bistill"]}, "got 'bistill'"),
        ({"seeds": 0}, "greater than or equal to 1, got 0"),
        ({"targets": ["en"]}, "must differ"),
    ],
)
def test_a_recipe_is_refused_by_key(recipe, changes, fault):
    with pytest.raises(AdaptError, match=r"recipe\.yaml: .*") as refusal:
        read_comparison(recipe(**changes))
    assert fault in str(refusal.value)


def test_a_recipe_that_is_no_recipe_is_refused(tmp_path):
    for text in ("- a\n", "a: [", ""):
        (tmp_path / "r.yaml").write_text(text)
        with pytest.raises(AdaptError, match=r"r\.yaml"):
            read_comparison(tmp_path / "r.yaml")
    with pytest.raises(AdaptError, match="cannot be read"):
        read_comparison(tmp_path / "none.yaml")


def test_a_second_run_does_nothing_and_a_missing_test_set_is_told(recipe):
    followed = read_comparison(recipe(systems=["bistil"], languages=None, targets=["sw", "ha"]))
    results, notes = compare(followed)
    assert len(notes) == 1
    assert notes[0].startswith("pos ha was left out")
    before = results.read_bytes()
    said = []
    compare(followed, watch=lambda done, total, what: said.append(what))
    assert results.read_bytes() == before
    assert {each.rpartition(": ")[2] for each in said} == {"looking"}
    [row] = read_results(results)
    assert (row.model, row.language, row.seed) == ("bistil", "sw", 0)
    assert summary(results) == {"pos": {"bistil": row.value}}


def test_a_changed_recipe_takes_nothing_of_the_old_one(recipe):
    first = read_comparison(recipe(systems=["no-task-teacher"], languages=None))
    changed = {**SHORT["extract"], "steps": 5}
    second = read_comparison(recipe(systems=["no-task-teacher"], languages=None, extract=changed))
    compare(first)
    results, _ = compare(second)
    rows = read_results(results)
    assert len({row.model_digest for row in rows}) == 2
    assert {row.model for row in rows} == {"no-task-teacher"}
    assert len(list(results.parent.glob("*/bistil-sw-seed0"))) == 2


def test_recipes_that_differ_in_the_learning_of_tasks_alone_share_their_students(recipe):
    changed = {**SHORT["tune"], "steps": SHORT["tune"]["steps"] + 1}
    compare(read_comparison(recipe(systems=["no-task-teacher"], languages=None)))
    said = []
    second = read_comparison(recipe(systems=["no-task-teacher"], languages=None, tune=changed))
    results, _ = compare(second, watch=lambda done, total, what: said.append(what))
    assert len({row.model_digest for row in read_results(results)}) == 2
    assert len(list(results.parent.glob("*/bistil-sw-seed0"))) == 1
    assert not any("extracting" in each for each in said)


def test_a_task_is_learnt_as_the_recipe_says_for_it(recipe):
    asked = {"pos": {"pooling": "mean", "steps": 5}, "topic": {"steps": 7}}
    followed = read_comparison(
        recipe(systems=["no-task-teacher"], languages=None, tune_by_task=asked)
    )
    results, _ = compare(followed)
    [row] = read_results(results)
    assert (row.protocol["pooling"], row.protocol["steps"]) == ("mean", 5)
    assert row.protocol["batch_size"] == SHORT["tune"]["batch"]
    assert followed.tuning_of("topic") == followed.tune.model_copy(update={"steps": 7})
    assert followed.tuning_of("ner") == followed.tune


def test_a_task_without_any_test_set_is_refused(recipe):
    with pytest.raises(AdaptError, match="no test set of 'pos'"):
        compare(read_comparison(recipe(targets=["ha"])))


@pytest.mark.slow
def test_every_system_is_scored_and_the_judge_can_test_them(recipe):
    results, _ = compare(read_comparison(recipe()))
    rows = read_results(results)
    assert {row.model for row in rows} == set(SYSTEMS)
    assert len({row.protocol_digest for row in rows}) == 1
    assert len(read_costs(results.parent / "costs.jsonl")) == len(SYSTEMS)
    [verdict] = judge_compare(rows, "bistil", "full-teacher")
    assert verdict.task == "pos"
