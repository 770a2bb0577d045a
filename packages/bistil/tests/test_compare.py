"""Comparisons: what a recipe must say, what comes of it, and that nothing is done twice."""

import json
import math
import shlex
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from bistil.cli.app import app
from bistil.compare import identity, run
from bistil.compare.identity import RecipeDigests
from bistil.compare.models import size_within
from bistil.compare.recipe import Comparison, read_comparison
from bistil.compare.run import compare, results_of, summary
from bistil.compare.systems import MODELS, PUBLISHED, SYSTEMS
from bistil.errors import AdaptError
from vocabmerge import read_vocabulary
from xeval import Items, LocalFolder, Result, append_result, read_costs, read_results, score
from xeval import compare as judge_compare
from xeval.cli.app import app as xeval_app
from xeval.cost.parameters import Parameters, parameters_of

SHORT = {
    "extract": {"steps": 4, "batch": 4, "length": 16, "checkpoint_every": 4, "precision": "float32"},
    "languages": {"steps": 3, "full_steps": 2, "batch": 4, "length": 16, "evaluate_every": 3},
    "tune": {"steps": 4, "full_steps": 2, "batch": 4, "length": 40, "evaluate_every": 4, "precision": "float32"},
}  # fmt: skip


def writer(folder, teacher, tasks, texts):
    """Writes a recipe of the made-up languages into a folder, changed as asked."""

    def write(**changes):
        stated = {
            "model": str(teacher), "corpora": {code: str(file) for code, file in texts.items()}, "targets": ["sw"],
            "tasks": ["pos"], "data": str(tasks), "seeds": 1, "out": "run", **SHORT, **changes,
        }  # fmt: skip
        file = folder / "recipe.yaml"
        file.write_text(yaml.safe_dump({k: v for k, v in stated.items() if v != "absent"}))
        return file

    return write


@pytest.fixture
def recipe(tmp_path, teacher, tasks, texts):
    return writer(tmp_path, teacher, tasks, texts)


@pytest.fixture(scope="module")
def run_of_one_system(tmp_path_factory, teacher, tasks, texts):
    folder = tmp_path_factory.mktemp("followed")
    stated = writer(folder, teacher, tasks, texts)(systems=["bistil+labels"], languages=None)
    compare(read_comparison(stated))
    return folder / "run"


@pytest.fixture
def followed_before(run_of_one_system, tmp_path):
    """A recipe of one system has been followed here: what asks for no more finds it done."""
    shutil.copytree(run_of_one_system, tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"targets": ["ru"]}, "no corpus of 'ru'"),
        ({"targets": ["hau"]}, "'hau' (did you mean 'ha'"),
        ({"target": ["sw"]}, "unknown key 'target' (did you mean 'targets'"),
        ({"languages": {"foo": 1}}, "unknown key 'languages.foo' (the keys there are steps, full_steps,"),
        ({"tune": {"stepps": 3}}, "unknown key 'tune.stepps' (did you mean 'steps'"),
        (
            {"tune_by_task": {"pos": {"stepps": 3}}},
            "'tune_by_task.pos.stepps' (did you mean 'steps'",
        ),
        ({"tune_by_task": {"poss": {"steps": 3}}}, "tune_by_task: task 'poss' is not known"),
        ({"model": "absent"}, "'model' is missing"),
        ({"systems": ["bistill"]}, "got 'bistill' (did you mean 'bistil'"),
        ({"systems": ["whole+labels"]}, "got 'whole+labels' (did you mean 'whole+full'"),
        ({"seeds": 0}, "greater than or equal to 1, got 0"),
        ({"targets": ["en"]}, "must differ"),
        (
            {"teacher_tasks": {"stepps": 3}},
            "'teacher_tasks.stepps' (did you mean 'steps'",
        ),
        (
            {"systems": ["multitask"], "tasks": ["bitext"]},
            "teacher_tasks: tasks of a teacher must name one or more",
        ),
        (
            {"systems": ["multitask"], "teacher_tasks": {"tasks": ["bitext"]}},
            "teacher_tasks: The task 'bitext' asks a model as it is",
        ),
        (
            {"seeds": True},
            "seeds: input should be a valid integer, got True (YAML reads no, yes, on and off as true or false)",
        ),
        ({"extract": {"steps": 10.0}}, "extract.steps: input should be a valid integer, got 10.0."),
        (
            {"tune": {"steps": "10"}},
            "tune.steps: input should be a valid integer, got '10' (a number stands without quotes)",
        ),
        ({"tune": {"gold": True}}, "tune.gold: input should be a valid number, got True"),
        ({"tune": {"times_t_squared": 1}}, "times_t_squared: input should be a valid boolean, got 1."),
        ({"tune": {"learning_rate": math.inf}}, "learning_rate: input should be a finite number, got inf"),
        ({"tune_by_task": {"pos": {"batch": "8"}}}, "tune_by_task.pos.batch: input should be a valid"),
        ({"languages": {"l1": "0.1"}}, "languages.l1: input should be a valid number, got '0.1'"),
        ({"languages": 3}, "languages: expected keys such as `steps:`, got 3."),
        ({"out": 7}, "out: input should be a valid string, got 7 (write it in quotes)"),
        ({"targets": "sw"}, "targets: input should be a valid list, got 'sw'."),
        ({"targets": [False]}, "targets.0: input should be a valid string, got False (YAML reads no, yes"),
        ({"corpora": {False: "no.txt", "en": "en.txt"}}, "corpora: input should be a valid string, got False (YAML reads no"),
        ({"extract": {"terms": {"hidden": "1"}}}, "extract.terms.hidden: input should be a valid number, got '1'"),
        *(
            ({"extract": {"layers": layers}}, f"extract.layers: expected last, bottom, even, outer, alternate, last-k or numbers of layers such as [0, 3, 5], got {layers!r}.")
            for layers in ("lastt", [True], [0.0, 2.0], ["0"], [-1], 3)
        ),
    ],
)  # fmt: skip
def test_a_recipe_is_refused_by_key(recipe, changes, fault):
    with pytest.raises(AdaptError, match=r"recipe\.yaml: .*") as refusal:
        read_comparison(recipe(**changes))
    assert fault in str(refusal.value)


def test_a_key_that_stands_twice_is_refused_by_its_line(recipe):
    file = recipe()
    file.write_text(file.read_text() + "seeds: 3\n")

    done = CliRunner().invoke(app, ["compare", str(file)])

    line = len(file.read_text().splitlines())
    assert done.exit_code == 2
    assert (
        done.stderr
        == f"{file}, line {line}: the key 'seeds' stands a second time; make one of the two.\n"
    )
    assert not (file.parent / "run").exists()


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"tune": {"length": 81}}, "tune.length: {model} reads at most 80 tokens, got 81; set no more than that."),
        ({"extract": {"length": 81}}, "length 81 is beyond the teacher's limit of 80 tokens; choose a smaller one."),
        ({"corpora": {"en": "blank.txt", "sw": "blank.txt"}}, "blank.txt: the corpus is empty"),
        ({"out": "blank.txt"}, "blank.txt is to be a folder, and cannot be (File exists); state another `out`."),
    ],
)  # fmt: skip
def test_what_a_comparison_is_refused_for_leaves_nothing(
    recipe, teacher, tmp_path, changes, refusal
):
    (tmp_path / "blank.txt").write_text("\n\n")
    file = recipe(systems=["bistil+labels"], languages=None, **changes)

    done = CliRunner().invoke(app, ["compare", str(file), "--quiet"])

    assert (done.exit_code, done.stdout) == (2, "")
    assert refusal.format(model=teacher) in done.stderr
    assert done.stderr.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["blank.txt", "recipe.yaml"]


def test_numbers_have_exponents_and_lists_stand_for_sequences(recipe):
    """YAML 1.1, and so PyYAML, reads 1e-3 as text."""
    file = recipe(extract={"layers": [0, 2]}, tune={"steps": 10}, teacher_tasks={"tasks": ["pos"], "languages": ["en"]})  # fmt: skip
    file.write_text(file.read_text().replace("steps: 10", "{steps: 10, learning_rate: 1e-3}"))

    stated = read_comparison(file)

    assert stated.tune.learning_rate == 0.001
    assert (stated.extract.layers, stated.targets) == ((0, 2), ("sw",))
    assert (stated.teacher_tasks.tasks, stated.teacher_tasks.languages) == (("pos",), ("en",))
    assert Comparison.model_validate(stated.model_dump()) == stated


def test_a_recipe_that_is_no_recipe_is_refused(tmp_path):
    for text in ("- a\n", "a: [", "", "out: 2024-02-30\n"):
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


@pytest.mark.usefixtures("followed_before")
def test_a_changed_recipe_takes_nothing_of_the_old_one(recipe):
    first = read_comparison(recipe(systems=["bistil+labels"], languages=None))
    changed = {**SHORT["extract"], "steps": 5}
    second = read_comparison(recipe(systems=["bistil+labels"], languages=None, extract=changed))
    compare(first)
    results, _ = compare(second)
    rows = read_results(results)
    assert len({row.model_digest for row in rows}) == 2
    assert {row.model for row in rows} == {"bistil+labels"}
    assert len(list(results.parent.glob("*/bistil-sw-seed0"))) == 2
    for followed in (first, second):
        [counted], others = results_of(followed)
        assert counted.model_digest == RecipeDigests(followed).labels["bistil+labels"].digest
        assert others == 1


@pytest.mark.usefixtures("followed_before")
def test_only_what_a_recipe_asks_for_counts_in_its_means(recipe):
    wide = read_comparison(recipe(systems=["bistil+labels"], languages=None, seeds=2))
    compare(wide)
    narrow = read_comparison(recipe(systems=["bistil+labels"], languages=None))
    rows, others = results_of(narrow)
    assert ([row.seed for row in rows], others) == ([0], 1)
    assert results_of(wide)[1] == 0


def made(said):
    """What a comparison made, by the words it told."""
    words = {"extracting": "student", "training": "task", "pos": "score"}
    return {thing for what in said for word, thing in words.items() if what.rpartition(": ")[2].startswith(word)}  # fmt: skip


@pytest.fixture
def followed_again(tmp_path, recipe, followed_before, teacher, texts, tasks, monkeypatch):
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
                systems=["bistil+labels"], languages=None, model=str(inputs / "teacher"), data=str(inputs / "data"),
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


@pytest.mark.usefixtures("followed_before")
def test_the_command_tells_means_of_the_recipe_at_hand_and_what_it_left_out(recipe):
    settings = {"systems": ["bistil+labels"], "languages": None}
    compare(read_comparison(recipe(**settings)))
    file = recipe(**settings, tune={**SHORT["tune"], "steps": 5})
    done = CliRunner().invoke(app, ["compare", str(file), "--quiet"])
    [row], _ = results_of(read_comparison(file))
    assert f"{row.value:6.2f}" in done.stdout
    assert "1 other figures in" in done.stdout
    assert f"bistil+labels@{row.model_digest[:8]}" in done.stdout
    assert done.stderr == ""


@pytest.mark.usefixtures("followed_before")
def test_a_split_of_the_data_is_read_once_where_all_is_done(recipe, monkeypatch):
    file = recipe(systems=["bistil+labels"], languages=None)
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
    """Fine-tuning of all weights in one phase takes the steps of both phases of the others, and has a teacher that learnt so, too."""
    systems = ["bistil+labels", "bistil", "bistil+full", "whole", "whole+full"]
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
        # A teacher is made on the way to the first student that it teaches.
        assert steps == {"bistil+labels": both, "bistil": 2 * both, "bistil+full": 2 * both, "whole": 0, "whole+full": 0}  # fmt: skip


def test_a_model_is_priced_by_a_student_that_is_there(recipe):
    """The first target has no test set, and no student of it is extracted to be priced."""
    followed = read_comparison(recipe(systems=["bistil+labels"], languages=None, targets=["ha", "sw"]))  # fmt: skip
    results, _ = compare(followed)
    assert [folder.name for folder in results.parent.glob("students-*/bistil-*")] == ["bistil-sw-seed0"]  # fmt: skip
    assert len(read_costs(results.parent / "costs.jsonl")) == 1


@pytest.mark.usefixtures("followed_before")
def test_under_a_launcher_one_process_scores_and_prices(recipe, monkeypatch):
    """The others train with it, and wait for it while it appends."""
    followed = read_comparison(recipe(systems=["bistil+labels"], languages=None))
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


@pytest.mark.usefixtures("followed_before")
def test_recipes_that_differ_in_the_learning_of_tasks_alone_share_their_students(recipe):
    changed = {**SHORT["tune"], "steps": SHORT["tune"]["steps"] + 1}
    compare(read_comparison(recipe(systems=["bistil+labels"], languages=None)))
    said = []
    second = read_comparison(recipe(systems=["bistil+labels"], languages=None, tune=changed))
    results, _ = compare(second, watch=lambda done, total, what: said.append(what))
    assert len({row.model_digest for row in read_results(results)}) == 2
    assert len(list(results.parent.glob("*/bistil-sw-seed0"))) == 1
    assert not any("extracting" in each for each in said)


def test_code_that_learns_tasks_otherwise_takes_students_as_they_are(recipe, monkeypatch):
    stated = read_comparison(recipe(systems=["bistil+labels"]))
    before = RecipeDigests(stated)

    monkeypatch.setattr(identity, "_VERSION_OF_TASKS", -1)
    other_tasks = RecipeDigests(stated)
    monkeypatch.setattr(identity, "_VERSION", -1)
    other_students = RecipeDigests(stated)

    assert other_tasks.before_tasks == before.before_tasks != other_students.before_tasks
    assert len({digests.of_all for digests in (before, other_tasks, other_students)}) == 3
    assert other_tasks.labels["bistil+labels"] != before.labels["bistil+labels"]


def test_a_task_is_learnt_as_the_recipe_says_for_it(recipe):
    asked = {"pos": {"pooling": "mean", "steps": 5}, "topic": {"steps": 7}}
    followed = read_comparison(
        recipe(systems=["bistil+labels"], languages=None, tune_by_task=asked)
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
    assert {row.model for row in rows} == {*PUBLISHED}
    assert len({row.protocol_digest for row in rows}) == 1
    assert len(read_costs(results.parent / "costs.jsonl")) == len(PUBLISHED)
    [verdict] = judge_compare(rows, "bistil", "whole")
    assert verdict.task == "pos"


def test_a_system_is_a_model_and_how_it_learns():
    assert {*PUBLISHED} < {*SYSTEMS}
    taught = [name for name, system in SYSTEMS.items() if system.taught]
    assert all("labels" not in name for name in taught)
    assert [name for name in SYSTEMS if name.startswith("whole")] == ["whole", "whole+full"]
    assert len(SYSTEMS) == 2 + 6 * (len(MODELS) - 1)
    assert {name for name, system in SYSTEMS.items() if system.text} < {*taught}


def test_a_system_with_text_lets_its_teacher_label_lines_of_source_and_target(recipe):
    systems = ["bistil", "bistil+text"]
    tune = {**SHORT["tune"], "lines": 7}
    results, _ = compare(read_comparison(recipe(systems=systems, languages=None, tune=tune)))
    made = results.parent.glob("*/pos-*/adapted/*/run.json")
    read = {file.parent.name: json.loads(file.read_text())["record"].get("text") for file in made}
    assert read == {"bistil-sw-seed0": None, "bistil+text-sw-seed0": {"en": 7, "sw": 7}}
    with pytest.raises(
        AdaptError,
        match=r"^dp: lines of text are no examples of it; leave the systems with \+text out",
    ):
        compare(
            read_comparison(
                recipe(systems=systems, languages=None, tasks=["pos", "dp"], out="other")
            )
        )
    assert not results.parent.with_name("other").exists()


def test_what_people_do_instead_of_distilling_starts_from_the_same_model(recipe):
    """The trim has all layers, the student's untrained self its layers, and the smaller trim as many parameters as that."""
    systems = ["trimmed+labels", "cut", "small+full+labels", "states+labels"]
    results, _ = compare(read_comparison(recipe(systems=systems, languages=None)))
    assert {row.model for row in read_results(results)} == {*systems}
    [trimmed], [cut], [small], [states] = (
        list(results.parent.glob(f"students-*/{model}-sw-seed0")) for model in ("trimmed", "cut", "small", "states")
    )  # fmt: skip
    counts = {folder: parameters_of(folder) for folder in (trimmed, cut, small, states)}
    rows = [len(read_vocabulary(folder)) for folder in (trimmed, cut, small)]
    assert counts[trimmed].body == 2 * counts[cut].body
    assert rows[0] == rows[1] >= rows[2]
    assert 0 <= counts[cut].total - counts[small].total < counts[trimmed].body
    assert counts[states] == counts[cut]
    log = json.loads((cut / "run.json").read_text())["log"]
    assert log == []
    assert not (cut / "curves.png").exists()


@given(
    st.integers(1, 10**7), st.integers(4, 50_000), st.integers(1, 24), st.integers(1, 400), st.integers(1, 10**5)
)  # fmt: skip
def test_a_size_fills_the_room_with_layers_first_and_pieces_then(room, pieces, layers, width, layer):  # fmt: skip
    model = Parameters(architecture="", vocabulary=pieces * width, embeddings=pieces * width + 7, body=layers * layer, head=3)  # fmt: skip

    def total(kept, depth):
        return kept * width + depth * layer + 10

    size = size_within(room, model, pieces=pieces, layers=layers)
    if size is None:
        assert total(-(-pieces // 4), 1) > room
        return
    kept, depth = size
    assert total(kept, depth) <= room
    assert kept == pieces or total(kept + 1, depth) > room
    assert depth == layers or total(-(-pieces // 4), depth + 1) > room


def test_one_student_can_stand_for_all_targets(recipe):
    settings = {"systems": ["bistil+labels", "minilmv2"], "languages": None}
    results, _ = compare(read_comparison(recipe(**settings, students="shared")))
    made = {folder.name for folder in results.parent.glob("students-*/*-seed0")}
    assert made == {"bistil-all-seed0", "minilmv2-all-seed0"}
    for name in made:
        [run] = results.parent.glob(f"students-*/{name}/run.json")
        assert json.loads(run.read_text())["plan"]["languages"] == ["en", "ha", "sw"]


@pytest.mark.parametrize(
    ("students", "groups"), [("shared", [["de", "sw"]]), ("pairs", [["de"], ["sw"]])]
)
def test_one_student_is_asked_for_all_targets_at_once_where_it_does_not_learn(students, groups):
    sets = dict.fromkeys([("bitext", "de"), ("bitext", "sw"), ("pos", "de"), ("pos", "sw")], ())
    together = run._asked_together(SimpleNamespace(students=students), SimpleNamespace(sets=sets))
    assert together == [*(("bitext", group) for group in groups), ("pos", ["de"]), ("pos", ["sw"])]


def test_the_terms_and_heads_of_a_recipe_are_those_of_its_students(recipe):
    extract = {**SHORT["extract"], "terms": {"hidden": 2.0}, "width": 16, "heads": 2}
    systems = ["bistil+labels", "trimmed+labels"]
    results, _ = compare(read_comparison(recipe(systems=systems, languages=None, extract=extract)))
    [run] = results.parent.glob("students-*/bistil-sw-seed0/run.json")
    plan = json.loads(run.read_text())["plan"]
    assert plan["terms"] == {"hidden": 2.0}
    assert [len(heads) for heads in plan["heads"]] == [2, 2]
    [trimmed] = results.parent.glob("students-*/trimmed-sw-seed0/config.json")
    assert json.loads(trimmed.read_text())["num_attention_heads"] == 4
    with pytest.raises(AdaptError, match="There is no term or setting 'hiden'"):
        read_comparison(recipe(extract={**SHORT["extract"], "terms": {"hiden": 1.0}}))


def test_the_teacher_of_multitask_is_tuned_first_and_its_tasks_decide_that_system_alone(recipe, tasks):  # fmt: skip
    settings = {"systems": ["multitask+labels", "cut+labels"], "languages": None}
    tuned = {"tasks": ["pos", "topic"], "steps": 4, "batch": 4, "evaluate_every": 4}

    first = read_comparison(recipe(**settings, teacher_tasks=tuned))
    results, _ = compare(first)
    said = []
    second = read_comparison(recipe(**settings, teacher_tasks={**tuned, "steps": 2}))
    compare(second, watch=lambda done, total, what: said.append(what))

    one, other = ({row.model: row.model_digest for row in results_of(followed)[0]} for followed in (first, second))  # fmt: skip
    assert one.keys() == other.keys() == {*settings["systems"]}
    assert [name for name in one if one[name] == other[name]] == ["cut+labels"]
    assert {what.rpartition(": ")[0] for what in said if "extracting" in what} == {"1 of 2: multitask+labels pos sw seed 0"}  # fmt: skip
    runs = [json.loads(run.read_text())["plan"]["tuned"] for run in results.parent.glob("students-*/multitask-*/run.json")]  # fmt: skip
    assert sorted(run["steps"] for run in runs) == [2, 4]
    assert [score["data_set"] for score in runs[0]["scores"]] == ["ud/en_made", "sib200/en"]
    [cut] = results.parent.glob("students-*/cut-sw-seed0/run.json")
    assert json.loads(cut.read_text())["plan"]["tuned"] is None


def test_a_task_without_a_head_asks_what_a_system_would_tune(recipe, sentence_teacher, tasks, tmp_path):  # fmt: skip
    """Translations and probed tags of a sentence encoder, the whole one and its student; nothing is done twice."""
    data = tmp_path / "pairs"
    (data / "tatoeba").mkdir(parents=True)
    (data / "ud").symlink_to(tasks / "ud")
    lines = [line for line in (tasks / "ud" / "en_made" / "test.conllu").read_text().split("\n") if line.startswith("# text")]  # fmt: skip
    texts = [line.partition("= ")[2] for line in lines] or ["ab ba", "ba ab ab", "aa bb"]
    (data / "tatoeba" / "sw.tsv").write_text("".join(f"{text}\t{text}\n" for text in texts))
    followed = read_comparison(
        recipe(model=str(sentence_teacher), systems=["whole", "cut"], tasks=["bitext", "pos_probe"], languages=None, data=str(data))
    )  # fmt: skip
    results, _ = compare(followed)
    before = results.read_bytes()
    rows, others = results_of(followed)
    assert ({row.model for row in rows}, others) == ({"whole", "cut"}, 0)
    assert summary(rows)["bitext"]["whole"] == 100
    alone = score(
        sentence_teacher,
        tmp_path / "alone.jsonl",
        source=LocalFolder(data),
        languages=["sw"],
        task="pos_probe",
    )
    assert [row.value for row in rows if (row.task, row.model) == ("pos_probe", "whole")] == [
        row.value for row in alone
    ]
    assert set(summary(rows)["pos_probe"]) == {"whole", "cut"}
    compare(followed)
    assert results.read_bytes() == before


@pytest.mark.parametrize(("systems", "others"), [(["bistil"], 0), (["bistil"], 1), (["bistil", "whole", "small"], 0), (["bistil", "whole", "small"], 1)])  # fmt: skip
def test_what_the_command_names_for_tests_and_intervals_goes_through(
    systems, others, tmp_path, monkeypatch
):
    items = Items(metric="accuracy", rows=np.array([[1, 1], [0, 1]] * 10), test_digest="0" * 16)
    file = tmp_path / "results.jsonl"
    digests = [(system, f"{system}-0123456789") for system in systems]
    earlier = [("bistil", "another-0123456789")] if others else []
    for system, digest in [*earlier, *digests]:
        figure = Result(
            model=system, model_digest=digest, task="topic", dataset="sib200/sw", split="test", language="sw",
            source_language="en", protocol={}, seed=0, metric="accuracy", value=items.value(), n=20,
        )  # fmt: skip
        append_result(file, figure, items=items)
    rows = [row for row in read_results(file) if (row.model, row.model_digest) in digests]
    monkeypatch.setattr(sys.modules["bistil.compare.recipe"], "read_comparison", lambda _file: None)
    monkeypatch.setattr(identity, "WantedResults", lambda _recipe: None)
    monkeypatch.setattr(identity, "results_of", lambda *_: (rows, others))
    monkeypatch.setattr(run, "compare", lambda *_, **__: (file, []))

    told = CliRunner().invoke(app, ["compare", "recipe.yaml"])

    assert told.exit_code == 0, told.output
    _, command, _ = told.stdout.split("`")
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(xeval_app, shlex.split(command)[1:])
    assert done.exit_code == 0, done.output
    assert ("no second system" in told.stdout) == (len(systems) == 1)
