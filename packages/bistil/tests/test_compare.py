"""Comparisons: what a recipe must say, what comes of it, and that nothing is done twice."""

import shutil

import pytest
import yaml
from typer.testing import CliRunner

from bistil.cli.app import app
from bistil.compare.identity import RecipeDigests
from bistil.compare.recipe import SYSTEMS, read_comparison
from bistil.compare.run import compare, results_of, summary
from bistil.errors import AdaptError
from xeval import LocalFolder, read_costs, read_results
from xeval import compare as judge_compare

SHORT = {
    "extract": {"steps": 4, "batch": 4, "length": 16, "checkpoint_every": 4, "precision": "float32"},
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
    assert results_of(followed) == ([row], 0)
    assert summary([row]) == {"pos": {"bistil": row.value}}


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
    for followed in (first, second):
        [counted], others = results_of(followed)
        assert counted.model_digest == RecipeDigests(followed).labels["no-task-teacher"].digest
        assert others == 1


def test_only_what_a_recipe_asks_for_counts_in_its_means(recipe):
    wide = read_comparison(recipe(systems=["no-task-teacher"], languages=None, seeds=2))
    compare(wide)
    narrow = read_comparison(recipe(systems=["no-task-teacher"], languages=None))
    rows, others = results_of(narrow)
    assert ([row.seed for row in rows], others) == ([0], 1)
    assert results_of(wide)[1] == 0


def made(said):
    """What a comparison made, by the words it told."""
    words = {"extracting": "student", "training": "task", "pos": "score"}
    return {thing for what in said for word, thing in words.items() if what.rpartition(": ")[2].startswith(word)}  # fmt: skip


@pytest.fixture
def followed_again(tmp_path, recipe, teacher, texts, tasks, monkeypatch):
    """Follows a recipe over copies of its inputs, and again after a change to them; what is made the second time."""

    def follow(change, *, moved=False):
        inputs = tmp_path / "inputs"
        inputs.mkdir()
        shutil.copytree(teacher, inputs / "teacher")
        shutil.copytree(tasks, inputs / "data")
        for file in texts.values():
            shutil.copy(file, inputs)

        def stated(inputs):
            return recipe(
                systems=["no-task-teacher"], languages=None, model=str(inputs / "teacher"), data=str(inputs / "data"),
                corpora={code: str(inputs / file.name) for code, file in texts.items()},
            )  # fmt: skip

        results, _ = compare(read_comparison(stated(inputs)))
        before = results.read_text()
        change(inputs)
        if moved:
            inputs = inputs.rename(tmp_path / "elsewhere")
            monkeypatch.chdir(tmp_path)
        said = []
        again = read_comparison(stated(inputs.relative_to(tmp_path) if moved else inputs))
        compare(again, watch=lambda done, total, what: said.append(what))
        assert results.read_text().startswith(before)
        return made(said), results_of(again)

    return follow


def test_a_comparison_that_moved_makes_nothing_anew(followed_again):
    anew, (rows, others) = followed_again(lambda inputs: None, moved=True)
    assert (anew, len(rows), others) == (set(), 1, 0)


@pytest.mark.parametrize(
    ("place", "anew"),
    [
        (
            "ha.txt",
            {"student", "task", "score"},
        ),  # students of all the corpora stand in the same folder
        ("data/ud/en_made/train.conllu", {"task", "score"}),
        ("data/ud/sw_made/test.conllu", {"score"}),
        ("data/ner/en/train.txt", set()),
    ],
)
def test_what_depends_on_changed_text_or_data_is_made_anew(followed_again, place, anew):
    def change(inputs):
        file = inputs / place
        file.write_text("\n".join(file.read_text().split("\n")[::-1]) if file.suffix == ".txt" else file.read_text() * 2)  # fmt: skip

    done, (rows, others) = followed_again(change)
    assert done == anew
    # Figures on an earlier state of the data are left out by the judge's own reader already.
    assert (len(rows), others) == (1, 1 if "student" in anew else 0)


def test_the_command_tells_means_of_the_recipe_at_hand_and_what_it_left_out(recipe):
    settings = {"systems": ["no-task-teacher"], "languages": None}
    compare(read_comparison(recipe(**settings)))
    file = recipe(**settings, tune={**SHORT["tune"], "steps": 5})
    done = CliRunner().invoke(app, ["compare", str(file), "--quiet"])
    [row], _ = results_of(read_comparison(file))
    assert f"{row.value:6.2f}" in done.stdout
    assert "1 other figures in" in done.stdout
    assert f"no-task-teacher@{row.model_digest[:8]}" in done.stdout
    assert done.stderr == ""


def test_a_split_of_the_data_is_read_once_where_all_is_done(recipe, monkeypatch):
    file = recipe(systems=["no-task-teacher"], languages=None)
    compare(read_comparison(file))
    seen = []
    for name in ("read", "digest"):
        real = getattr(LocalFolder, name)

        def noted(source, task, data_set, split, real=real, name=name):
            seen.append((name, data_set.name, split))
            return real(source, task, data_set, split)

        monkeypatch.setattr(LocalFolder, name, noted)
    done = CliRunner().invoke(app, ["compare", str(file), "--quiet"])
    assert done.exit_code == 0
    assert sorted(seen) == sorted({*seen})
    assert seen


def test_every_system_takes_the_same_number_of_steps(recipe):
    """Fine-tuning of all weights in one phase takes the steps of both phases of the others."""
    systems = ["no-task-teacher", "full-fine-tuning", "full-teacher"]
    for full_steps in (2, None):
        tune = {**SHORT["tune"], "full_steps": full_steps, "evaluate_every": 1}
        steps = dict.fromkeys(systems, 0)

        def watch(done, total, what, steps=steps):
            # In training; of a test set that was scored it is "evaluated TASK SET".
            if ": evaluated," in what:
                steps[what.split()[3]] += 1

        followed = read_comparison(recipe(systems=systems, languages=None, tune=tune, out=f"run{full_steps}"))  # fmt: skip
        compare(followed, watch=watch)
        both = (full_steps or tune["steps"]) + tune["steps"]
        # The teacher's own file is made on the way to the first student that it teaches.
        assert steps == {"no-task-teacher": both, "full-fine-tuning": 2 * both, "full-teacher": 0}


def test_a_model_is_priced_by_a_student_that_is_there(recipe):
    """The first target has no test set, and no student of it is extracted to be priced."""
    followed = read_comparison(recipe(systems=["no-task-teacher"], languages=None, targets=["ha", "sw"]))  # fmt: skip
    results, _ = compare(followed)
    assert [folder.name for folder in results.parent.glob("students-*/bistil-*")] == ["bistil-sw-seed0"]  # fmt: skip
    assert len(read_costs(results.parent / "costs.jsonl")) == 1


def test_under_a_launcher_one_process_scores_and_prices(recipe, monkeypatch):
    """The others train with it, and wait for it while it appends."""
    followed = read_comparison(recipe(systems=["no-task-teacher"], languages=None))
    results, _ = compare(followed)
    rows, costs = results.read_bytes(), (results.parent / "costs.jsonl").read_bytes()
    for file in (results, results.parent / "costs.jsonl"):
        file.unlink()
    with monkeypatch.context() as second:
        second.setitem(compare.__globals__, "rank", lambda: 1)
        compare(followed)
    assert not results.exists()
    assert not (results.parent / "costs.jsonl").exists()
    compare(followed)
    assert results.read_bytes() == rows
    assert len((results.parent / "costs.jsonl").read_bytes().splitlines()) == len(costs.splitlines()) == 1  # fmt: skip


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
