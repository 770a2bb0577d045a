import math
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from mergedistill.cli.app import app
from mergedistill.errors import RecipeError
from mergedistill.recipe.read import read_recipe, without_places

GOOD = {
    "out": "run",
    "languages": {"de": "de.txt", "fi": {"corpus": "fi.txt", "limit": 10}},
    "teachers": [{"teacher": "a/x", "languages": ["de"]}, {"teacher": "b/y", "languages": ["fi"]}],
}


def _write(folder: Path, stated: object) -> Path:
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(stated))
    return file


def test_the_shortest_recipe_gets_good_defaults(tmp_path: Path) -> None:
    (tmp_path / "de.txt").write_text("x")

    recipe = read_recipe(_write(tmp_path, GOOD))

    assert [each.called for each in recipe.candidates("fi")] == ["y"]
    assert recipe.languages["de"].corpus == str(tmp_path / "de.txt")  # from the recipe's folder
    assert recipe.languages["fi"].corpus == "fi.txt"  # not there: perhaps a name on the Hub
    assert (recipe.distil.k, recipe.distil.alpha, recipe.distil.tail) == (8, 0.7, "bucket")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"langauges": {}}, "unknown key 'langauges' (did you mean 'languages'?)"),
        ({"distil": {"alfa": 1}}, "unknown key 'distil.alfa' (did you mean 'alpha'?)"),
        (
            {"distil": {"foo": 1}},
            "unknown key 'distil.foo' (the keys there are sampler, k, draws,",
        ),
        ({"distil": {"alpha": 2}}, "distil.alpha: input should be less than or equal to 1, got 2"),
        ({"languages": {"de": {"corpsu": "x"}}}, "did you mean 'corpus'?"),
        ({"languages": {"de": "de.txt"}}, "'fi' is taught but not among the languages"),
        (
            {"languages": {**GOOD["languages"], "tr": "tr.txt"}},  # type: ignore[dict-item]  # a mapping
            "no teacher teaches 'tr'",
        ),
        (
            {
                "teachers": [
                    {"teacher": "a/x", "languages": ["de", "fi"]},
                    {"teacher": "b/x", "languages": ["fi"]},
                ]
            },
            "two teachers are called 'x'",
        ),
        (
            {
                "teachers": [
                    {"teacher": "a/x", "languages": ["de", "fi"], "weight": 2},
                    {"teacher": "b", "languages": ["fi"]},
                ]
            },
            "of the teachers of 'fi' only x has a weight",
        ),
        (
            {"teachers": [{"teacher": "a/x", "name": "..", "languages": ["de", "fi"]}]},
            "'..' is to be the name of a folder, and cannot be",
        ),
        ({"languages": {"d/e": "de.txt"}}, "'d/e' is to be the name of a folder"),
        ({"teachers": [{"teacher": "a/x"}]}, "'x' has no languages; list them"),
        ({"combine": {"dee": "best"}}, "'dee' is not among the languages (did you mean 'de'?)"),
        (
            {"combine": "mixtur"},
            "combine: expected best, mixture, mince or {likelihood: words}, got 'mixtur' (did you mean 'mixture'?)",
        ),
        (
            {"combine": {"de": 3}},
            "combine: expected best, mixture, mince or {likelihood: words}, got 3.",
        ),
        (
            {"distil": {"online": True}, "record": {"offload": "cpu"}},
            "distil.online keeps the teachers in memory and record.offload outside of it",
        ),
        ({"distil": {"draws": 2}}, "draws: goes with `sampler: random`"),
        ({"distil": {"sampler": "random", "k": 8}}, "k: goes with `sampler: topk`, got 8"),
        ({"distil": {"sampler": "random", "tail": "bucket"}}, "tail: drawn ids leave none"),
        (
            {"distil": {"sampler": "random", "divergence": "jsd"}},
            "only forward_kl has the gradient",
        ),
        (
            {"distil": {"sampler": "random", "online": True}},
            "leave out one of online and `sampler: random`",
        ),
        ({"distil": {"sampler": "random", "draws": 256}}, "draws"),
        (
            {"assign": "rank", "teachers": [{"teacher": "a/x", "weight": 2}]},
            "'x' has a weight, but under `assign: rank` ranking weighs",
        ),
        ({"student": {"teacher": "z"}}, "student.teacher: no teacher is called 'z'"),
        (
            {"student": {"take": "last"}},
            "student.take: does nothing with `start: scratch`, got 'last'",
        ),
        (
            {"student": {"start": "carried", "take": "last"}},
            "student.take: does nothing with `start: carried`",
        ),
        (
            {"languages": {False: "no.txt"}},  # what YAML makes of `no: no.txt`
            "languages: input should be a valid string, got False (YAML reads no, yes, on and off as true or false: write it in quotes)",
        ),
        ({"student": {"width": 10, "heads": 3}}, "cannot be shared by 3 heads"),
        ({"out": None}, "out: input should be a valid string"),
        ({"out": ""}, "out: string should have at least 1 character, got ''"),
        ({"signals": ""}, "signals: string should have at least 1 character"),
        ({"languages": {"de": "", "fi": "fi.txt"}}, "languages.de.corpus: string should have at"),
        ({"states": {"encoder": ""}}, "states.encoder: string should have at least 1 character"),
        (
            {"teachers": ["a/x", "b/y"]},
            "teachers.0: expected keys such as `teacher:`, got 'a/x'; teachers.1: expected keys",
        ),
        (
            {"languages": {"de": None, "fi": "fi.txt"}},
            "languages.de: expected keys such as `corpus:`, got None",
        ),
        ({"distil": 4}, "distil: expected keys such as `sampler:`, got 4"),
        ({"states": "a/x"}, "states: expected keys such as `encoder:`, got 'a/x'"),
        (
            {"distil": {"temperature": math.inf}},
            "distil.temperature: input should be a finite number",
        ),
        (
            {"rank": {"sharpness": math.inf}},
            "rank.sharpness: input should be a finite number, got inf",
        ),
        ({"states": {"encoder": "a/x", "weight": math.nan}}, "states.weight: input should be"),
        (
            {"seed": True},
            "seed: input should be a valid integer, got True (YAML reads no, yes, on and off as true or false: write a number)",
        ),
        ({"train": {"steps": True}}, "train.steps: input should be a valid integer, got True"),
        ({"train": {"steps": 10.0}}, "train.steps: input should be a valid integer, got 10.0."),
        ({"train": {"steps": -1}}, "train.steps: input should be greater than or equal to 1"),
        (
            {"train": {"learning_rate": "0.1"}},
            "train.learning_rate: input should be a valid number, got '0.1' (a number stands without quotes)",
        ),
        ({"held_out_share": False}, "held_out_share: input should be a valid number, got False"),
        ({"out": 7}, "out: input should be a valid string, got 7 (write it in quotes)"),
        ({"distil": {"online": 1}}, "distil.online: input should be a valid boolean, got 1."),
        ({"states": {"encoder": "a/x", "weight": True}}, "states.weight: input should be a valid"),
        ({"student": {"heads": "2"}}, "student.heads: input should be a valid integer, got '2'"),
        (
            {"languages": {"de": {"corpus": "x", "limit": True}, "fi": "fi.txt"}},
            "languages.de.limit: input should be a valid integer, got True",
        ),
        (
            {"teachers": [{"teacher": "a/x", "languages": "de"}]},
            "teachers.0.languages: input should be a valid list, got 'de'.",
        ),
        (
            {"teachers": [{"teacher": "a/x", "languages": ["de", "fi"], "weight": math.inf}]},
            "teachers.0.weight: input should be a finite number",
        ),
    ],
)
def test_a_fault_is_named_with_its_key(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    file = _write(tmp_path, {**GOOD, **change})

    with pytest.raises(RecipeError) as caught:
        read_recipe(file)

    assert str(file) in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("twice", "where"),
    [
        ("distil: {alpha: 0.5}\nseed: 1\ndistil: {temperature: 2}", "line 6: the key 'distil'"),
        ("student: {width: 64, width: 96}", "line 4: the key 'width'"),
    ],
)
def test_a_key_that_stands_twice_is_refused_by_its_line(
    tmp_path: Path, twice: str, where: str
) -> None:
    file = tmp_path / "recipe.yaml"
    stated = "out: run\nlanguages: {de: de.txt}\nteachers: [{teacher: a/x, languages: [de]}]\n"
    file.write_text(stated)
    assert read_recipe(file).seed == 0
    file.write_text(stated + twice)

    with pytest.raises(RecipeError) as caught:
        read_recipe(file)

    assert str(caught.value) == f"{file}, {where} stands a second time; make one of the two."


def test_numbers_have_exponents_as_they_are_usually_written(tmp_path: Path) -> None:
    """YAML 1.1, and so PyYAML, reads 1e-3 as text; 1.2 reads it as a number."""
    file = _write(tmp_path, GOOD)
    file.write_text(
        file.read_text()
        + "train: {learning_rate: 1e-3, arguments: {weight_decay: 5E-2, run_name: e-3}}\n"
    )

    train = read_recipe(file).train

    assert train.learning_rate == 0.001
    assert train.arguments == {"weight_decay": 0.05, "run_name": "e-3"}


def test_a_list_whose_items_are_at_fault_is_not_called_too_short(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        read_recipe(_write(tmp_path, {**GOOD, "teachers": ["a/x"]}))

    assert "teachers.0: expected keys such as `teacher:`" in str(caught.value)
    assert "at least 1 item" not in str(caught.value)
    with pytest.raises(RecipeError, match="teachers: list should have at least 1 item"):
        read_recipe(_write(tmp_path, {**GOOD, "teachers": []}))


def test_all_faults_are_named_at_once(tmp_path: Path) -> None:
    file = _write(tmp_path, {**GOOD, "sede": 1, "distil": {"k": 0}})

    with pytest.raises(RecipeError, match=r"unknown key 'sede'.*") as caught:
        read_recipe(file)

    assert "distil.k" in str(caught.value)


def test_every_name_of_a_file_counts_from_the_recipe_s_folder(tmp_path: Path) -> None:
    (tmp_path / "zero.json").write_text("{}")
    stated = {
        **GOOD,
        "signals": "shared",
        "record": {"offload": "disk"},  # need not be there yet
        "train": {"arguments": {"deepspeed": "zero.json", "bf16": True}},
    }

    recipe = read_recipe(_write(tmp_path, stated))

    assert recipe.record.offload == str(tmp_path / "disk")
    assert recipe.train.arguments == {"deepspeed": str(tmp_path / "zero.json"), "bf16": True}
    assert (recipe.out, recipe.signals) == (str(tmp_path / "run"), str(tmp_path / "shared"))
    cpu = read_recipe(_write(tmp_path, {**GOOD, "record": {"offload": "cpu"}}))
    assert cpu.record.offload == "cpu"
    inline = {"train": {"arguments": {"deepspeed": {"zero_optimization": {"stage": 1}}}}}
    assert (
        read_recipe(_write(tmp_path, {**GOOD, **inline})).train.arguments
        == inline["train"]["arguments"]
    )  # type: ignore[index]  # a mapping


def test_a_tilde_is_the_home_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    (home / "teacher").mkdir(parents=True)
    (home / "fi.txt").write_text("x")
    monkeypatch.setenv("HOME", str(home))
    stated = {
        **GOOD,
        "out": "~/run",
        "signals": "~/shared",
        "record": {"offload": "~/disk"},
        "languages": {"de": "~nobody-of-this-name/de.txt", "fi": "~/fi.txt"},
        "teachers": [{"teacher": "~/teacher", "languages": ["de", "fi"]}],
    }

    recipe = read_recipe(_write(tmp_path, stated))

    assert (recipe.out, recipe.signals) == (str(home / "run"), str(home / "shared"))
    assert (recipe.record.offload, recipe.teachers[0].teacher) == (
        str(home / "disk"),
        str(home / "teacher"),
    )
    assert [text.corpus for text in recipe.languages.values()] == [
        "~nobody-of-this-name/de.txt",
        str(home / "fi.txt"),
    ]


def test_a_recipe_for_others_says_nothing_of_this_machine(tmp_path: Path) -> None:
    (tmp_path / "de.txt").write_text("x")
    (tmp_path / "zero.json").write_text("{}")
    (tmp_path / "teacher").mkdir()
    stated = {
        **GOOD,
        "signals": "shared",
        "teachers": [
            {"teacher": "teacher", "languages": ["de"]},
            {"teacher": "org/y", "languages": ["fi"]},
        ],
        "languages": {"de": "de.txt", "fi": "org/text"},
        "record": {"offload": "disk"},
        "train": {"arguments": {"deepspeed": "zero.json", "run_name": "first"}},
    }

    bare = without_places(read_recipe(_write(tmp_path, stated)))

    assert str(tmp_path) not in repr(bare)
    assert [text["corpus"] for text in bare["languages"].values()] == ["de.txt", "org/text"]
    assert [teaching["teacher"] for teaching in bare["teachers"]] == ["teacher", "org/y"]
    assert bare["train"]["arguments"] == {"deepspeed": "zero.json", "run_name": "first"}
    assert (bare["out"], bare["signals"], bare["record"]["offload"]) == ("run", "shared", "disk")


@pytest.mark.parametrize("text", ["- a\n", "a: [\n", "\xff", "out: 2024-02-30\n"])
def test_what_is_no_recipe_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_bytes(text.encode("latin-1"))

    done = CliRunner().invoke(app, ["run", str(file)])

    assert done.exit_code == 2
    assert done.stderr.count("\n") == 1
    assert str(file) in done.stderr
