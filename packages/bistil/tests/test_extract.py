import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock, Timeout
from huggingface_hub import metadata_load
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM, AutoTokenizer

import vocabmerge
from bistil.errors import ExtractError
from bistil.extract.card import card
from bistil.extract.config import Extraction
from bistil.extract.plan import Plan
from bistil.extract.record import RunRecord, write_folder
from bistil.extract.run import extract
from bistil.extract.teacher import trimmed_teacher
from bistil.losses.extraction import TeacherRunner
from bistil.losses.weights import PRESETS, LossWeights
from bistil.text.blocks import TextBlocks
from bistil.text.languages import text_files
from teacherzoo import load_teacher
from teacherzoo.cache import MADE, work_dir
from xeval.cost.parameters import Parameters

SHORT = Extraction(
    steps=12,
    batch=4,
    length=32,
    learning_rate=1e-3,
    held_out_share=0.1,
    checkpoint_every=5,
    precision="float32",
)
BLOCKS = {name: getattr(SHORT, name) for name in ("length", "batch", "held_out_share", "mask_rate", "seed")}  # fmt: skip
EVERY = LossWeights(attention=1, hidden=1, mlm=1, logits=1, relations=1, cosine=1)


class StopError(Exception):
    pass


def _extract(teacher: Path, texts: dict[str, Path], out: Path, **options: Any) -> Path:
    extraction = options.pop("extraction", SHORT)
    languages = options.pop("languages", ("en", "sw"))
    return extract(
        teacher,
        {language: texts[language] for language in languages},
        out,
        source=languages[0],
        targets=languages[1:],
        extraction=extraction,
        **options,
    )


@pytest.fixture(scope="module")
def student(
    teacher: Path, texts: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("out") / "student"
    return _extract(teacher, texts, out, licences={"sw": "CC-BY-4.0"})


def test_a_student_is_a_stock_folder_of_half_the_layers_that_came_closer_to_its_teacher(
    student: Path, teacher: Path, texts: dict[str, Path]
) -> None:
    model = AutoModelForMaskedLM.from_pretrained(student)
    tokenizer = AutoTokenizer.from_pretrained(student)
    run = json.loads((student / "run.json").read_text())

    assert type(model).__name__ == "BertForMaskedLM"
    assert json.loads((student / "config.json").read_text())["architectures"] == ["BertForMaskedLM"]
    assert model.config.num_hidden_layers == 2
    assert len(tokenizer) == model.config.vocab_size < 300
    for language in ("en", "sw"):
        for term in ("attention", "hidden"):
            held_out = run["held_out"]
            assert held_out["after"][language][term] < held_out["before"][language][term]
            assert any(f"{term}_{language}" in entry for entry in run["log"])
    for language in ("en", "sw"):
        whole = AutoTokenizer.from_pretrained(teacher)
        line = texts[language].read_text().splitlines()[0]
        assert tokenizer.tokenize(line) == whole.tokenize(line)
    assert not list(student.parent.glob(".*"))


def test_the_card_says_what_was_done(student: Path, teacher: Path) -> None:
    page = (student / "README.md").read_text()

    assert "base_model" not in page  # the Hub takes no path, and a path names its user
    assert str(teacher) not in page
    assert f"Teacher: `{teacher.name}`, licence: not known: look it up" in page
    assert "Text in sw: `sw.txt`, licence: CC-BY-4.0" in page
    assert "Text in en: `en.txt`, licence: not known: look it up" in page
    facts = metadata_load(student / "README.md")
    assert facts["language"] == ["en", "sw"]
    assert "license" not in facts
    [results] = facts["model-index"]
    assert {one["dataset"]["config"] for one in results["results"]} == {"en", "sw"}
    assert [one["type"] for one in results["results"][0]["metrics"]] == ["attention", "hidden"]
    assert "# student" in page
    assert "Layers: 2 of 4 (numbers 1, 3)" in page
    assert "mean squared difference of attention maps" in page
    assert "\n- Attention: compared by queries and keys, tile by tile" in page
    assert (student / "curves.png").stat().st_size > 1000


def test_of_layers_that_are_the_teachers_first_the_plan_says_that_nothing_is_learnt(
    teacher: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    # In bfloat16 the student, whose weights are float32, rounds otherwise than the teacher.
    few = Extraction(steps=2, batch=2, length=32, held_out_share=0.2, precision="float32")
    plans = list[Plan]()
    cases: list[dict[str, Any]] = [
        {"layers": (0, 1)},
        {"layers": (1, 3)},
        {"layers": (0, 1), "loss": LossWeights(cosine=1)},
        {"layers": (0, 1), "feed_forward": 16},
        {"layers": (0, 1), "init": "random"},
    ]
    idle = []
    for number, case in enumerate(cases):
        out = tmp_path / str(number)
        _extract(teacher, texts, out, extraction=replace(few, **case), tell=plans.append)
        log = json.loads((out / "run.json").read_text())["log"]
        idle.append(all(entry["loss"] == 0 for entry in log))
        assert (out / "curves.png").stat().st_size > 1000

    assert idle == [True, False, False, False, False]
    assert [any("learnt      nothing" in line for line in plan.lines()) for plan in plans] == idle


def test_no_file_of_a_student_says_where_on_this_machine_something_lies(
    student: Path,
    teacher: Path,
    texts: dict[str, Path],
    tmp_path: Path,
    files_with_places: Callable[[Path], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def write_with_places(model: Any, opened: Any, record: RunRecord, *rest: Any, **name: Any) -> None:  # fmt: skip
        places = {"offload": str(tmp_path / "disk"), "arguments": {"deepspeed": str(tmp_path / "zero.json")}}  # fmt: skip
        sfts = {"sw": str(tmp_path / "sw.safetensors")}
        record = replace(record, extraction={**record.extraction, **places}, sfts=sfts)
        write_folder(model, opened, record, *rest, **name)

    monkeypatch.setattr(import_module("bistil.extract.run"), "write_folder", write_with_places)
    out = _extract(teacher, texts, tmp_path / "out", extraction=replace(SHORT, steps=0))

    run = json.loads((out / "run.json").read_text())
    assert files_with_places(student) == files_with_places(out) == []
    assert run["plan"]["teacher"] == teacher.name
    assert run["language_sfts"] == {"sw": "sw.safetensors"}
    assert run["extraction"]["offload"] == "disk"
    assert run["extraction"]["arguments"] == {"deepspeed": "zero.json"}


def test_the_card_of_a_teacher_on_the_hub_names_it_its_licence_and_the_relation_to_it(
    student: Path, tmp_path: Path
) -> None:
    run = json.loads((student / "run.json").read_text())
    counts = {name: Parameters(**run["plan"].pop(name)) for name in ("teacher_parameters", "student_parameters")}  # fmt: skip
    plan = Plan(**{**run["plan"], **counts, "teacher": "xlm-r-base"})
    page = card(
        plan, run["extraction"], name="small", sfts={}, texts={"en": "en.txt", "sw": "sw.txt"}, licences={"en": "MIT", "sw": "MIT"},
        before={}, after={},
    )  # fmt: skip
    (tmp_path / "README.md").write_text(page)

    facts = metadata_load(tmp_path / "README.md")

    assert facts["base_model"] == "FacebookAI/xlm-roberta-base"
    assert facts["base_model_relation"] == "finetune"
    assert facts["license"] == "mit"
    assert "Teacher: `FacebookAI/xlm-roberta-base`, licence: MIT" in page
    assert "(no text was held out)" in page


@pytest.mark.parametrize("header", ["license: mit\nname: a: b", "no pairs of words"])
def test_a_teachers_card_that_is_no_yaml_says_nothing(
    header: str, student: Path, tmp_path: Path
) -> None:
    run = json.loads((student / "run.json").read_text())
    counts = {name: Parameters(**run["plan"].pop(name)) for name in ("teacher_parameters", "student_parameters")}  # fmt: skip
    (tmp_path / "README.md").write_text(f"---\n{header}\n---\n\n# A teacher\n")

    page = card(
        Plan(**{**run["plan"], **counts, "teacher": str(tmp_path)}), run["extraction"], name="small", sfts={},
        texts={"en": "en.txt", "sw": "sw.txt"}, licences={}, before={}, after={},
    )  # fmt: skip

    assert f"Teacher: `{tmp_path.name}`, licence: not known" in page


def test_without_held_out_text_no_figures_are_told(
    teacher: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    told: list[str] = []
    untaught = replace(SHORT, steps=0, held_out_share=0.0)

    out = _extract(teacher, texts, tmp_path / "out", extraction=untaught, watch=lambda *event: told.append(event[2]))  # fmt: skip

    assert told[-1] == "evaluated before training: no figures, for no text is held out"
    assert "(no text was held out)" in (out / "README.md").read_text()


def test_a_plan_is_told_before_training(teacher: Path, texts: dict[str, Path], tmp_path: Path) -> None:  # fmt: skip
    told: list[Plan] = []

    def tell(plan: Plan) -> None:
        told.append(plan)
        raise StopError

    with pytest.raises(StopError):
        _extract(teacher, texts, tmp_path / "out", tell=tell)

    (plan,) = told
    assert plan.layers == (1, 3)
    assert plan.pieces[0] == 300
    assert plan.pieces[1] < 300
    assert plan.student_parameters.body * 2 == plan.teacher_parameters.body
    assert plan.tokens == 12 * 4 * 32
    assert "by queries and keys" in plan.attention
    text = "\n".join(plan.lines())
    assert "2 of 4: 1, 3" in text
    assert not (tmp_path / "out").exists()


def test_deberta_says_that_it_needs_its_maps(
    save_teacher: Callable[..., Path], texts: dict[str, Path], tmp_path: Path
) -> None:
    told: list[str] = []
    teacher = save_teacher(tmp_path / "teacher", "deberta-v2")

    _extract(
        teacher,
        texts,
        tmp_path / "out",
        extraction=replace(SHORT, steps=2),
        tell=lambda plan: told.append(plan.attention),
    )

    assert told[0].startswith("compared by eager maps")


@pytest.mark.slow
def test_three_languages_and_another_map(teacher: Path, texts: dict[str, Path], tmp_path: Path) -> None:  # fmt: skip
    out = _extract(
        teacher,
        texts,
        tmp_path / "out",
        languages=("en", "sw", "ha"),
        extraction=replace(SHORT, steps=3, layers=(0, 1, 3), keep_vocabulary=True),
    )

    run = json.loads((out / "run.json").read_text())
    assert run["plan"]["languages"] == ["en", "sw", "ha"]
    assert run["plan"]["layers"] == [0, 1, 3]
    assert run["plan"]["pieces"] == [300, 300]
    assert AutoModelForMaskedLM.from_pretrained(out).config.num_hidden_layers == 3


@pytest.mark.parametrize(
    "style",
    ["distilmbert", *(pytest.param(one, marks=pytest.mark.slow) for one in ("minilmv2", "mlm"))],
)
def test_other_ways_of_teaching_share_the_path(
    style: str, teacher: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    asked = replace(SHORT, loss=PRESETS[style])
    if style == "mlm":  # from random weights twelve steps at the others' rate learn nothing
        asked = replace(asked, init="random", learning_rate=1e-2)

    out = _extract(teacher, texts, tmp_path / "out", extraction=asked)

    run = json.loads((out / "run.json").read_text())
    expected = set(PRESETS[style])
    for language in ("en", "sw"):
        assert set(run["held_out"]["after"][language]) == expected
        total = {
            when: sum(
                weight * run["held_out"][when][language][term]
                for term, weight in PRESETS[style].items()
            )
            for when in ("before", "after")
        }
        assert total["after"] < total["before"]


def test_parameters_that_no_term_reaches_stay_the_teachers(student: Path, teacher: Path) -> None:
    mine = AutoModelForMaskedLM.from_pretrained(student).cls.predictions.transform
    its = AutoModelForMaskedLM.from_pretrained(teacher).cls.predictions.transform

    assert torch.equal(mine.dense.weight, its.dense.weight)
    assert json.loads((student / "run.json").read_text())["plan"]["frozen"] > 0


def test_nothing_hidden_leaves_the_text_as_it_is(
    teacher: Path, texts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[torch.Tensor, torch.Tensor | None]] = []

    class Listener(TeacherRunner):
        def __call__(
            self, language: str, input_ids: torch.Tensor, labels: torch.Tensor | None
        ) -> Any:
            asked.append((input_ids, labels))
            return super().__call__(language, input_ids, labels)

    monkeypatch.setattr(import_module("bistil.extract.teacher"), "TeacherRunner", Listener)

    _extract(teacher, texts, tmp_path / "out", extraction=replace(SHORT, steps=1, mask_rate=0.0))

    mask = AutoTokenizer.from_pretrained(teacher).mask_token_id
    assert len(asked) > 2
    for input_ids, labels in asked:
        assert mask not in input_ids
        assert labels is None


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_figures_before_and_after_differ_in_nothing_but_the_training(
    precision: Any, teacher: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    """In bfloat16 too, which makes its way through the Trainer."""
    still = replace(SHORT, steps=1, learning_rate=0.0, precision=precision)

    out = _extract(teacher, texts, tmp_path / "out", extraction=still)

    held_out = json.loads((out / "run.json").read_text())["held_out"]
    assert held_out["before"]["sw"]["hidden"] > 0
    assert held_out["after"] == held_out["before"]


def test_a_student_taught_in_bfloat16_comes_closer_and_keeps_its_weights_in_float32(
    teacher: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    half = replace(SHORT, precision="bfloat16", loss=EVERY)

    out = _extract(teacher, texts, tmp_path / "out", extraction=half)

    held_out = json.loads((out / "run.json").read_text())["held_out"]
    for term in EVERY.terms:
        assert held_out["after"]["en"][term.name] < held_out["before"]["en"][term.name], term.name
    weights = load_file(out / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


def test_text_cleaned_in_place_another_teacher_in_the_folder_and_another_order_are_refused(
    teacher: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    """Where a checkpoint is there; see below for a run that had none."""

    def stop(done: int, _total: int, what: str) -> None:
        if what.startswith("extracting") and done > 1:
            raise StopError

    asked: dict[str, Any] = {"extraction": replace(SHORT, steps=3, checkpoint_every=1), "watch": stop}  # fmt: skip
    folder = Path(shutil.copytree(teacher, tmp_path / "teacher"))
    copies = {code: Path(shutil.copy(texts[code], tmp_path)) for code in ("en", "sw")}
    with pytest.raises(StopError):
        _extract(folder, copies, tmp_path / "out", **asked)
    for file in (copies["sw"], folder / "model.safetensors"):
        whole = file.read_bytes()
        file.write_bytes(whole[:-2] + b"x\n")
        with pytest.raises(ExtractError, match="left from a run with other arguments"):
            _extract(folder, copies, tmp_path / "out", **asked)
        file.write_bytes(whole)
    with pytest.raises(ExtractError, match="left from a run with other arguments"):
        _extract(folder, copies, tmp_path / "out", languages=("sw", "en"), **asked)

    moved = {code: file.rename(tmp_path / f"moved-{code}.txt") for code, file in copies.items()}
    with pytest.raises(StopError):  # elsewhere, the same text is the same text
        _extract(folder.rename(tmp_path / "moved"), moved, tmp_path / "out", **asked)


def test_what_a_run_left_before_it_trained_is_no_part_of_another_text_s_student(
    teacher: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    def stop(_plan: Plan) -> None:
        raise StopError

    copies = {code: Path(shutil.copy(texts[code], tmp_path)) for code in ("en", "sw")}
    with pytest.raises(StopError):
        _extract(teacher, copies, tmp_path / "out", tell=stop)
    lines = copies["sw"].read_text().splitlines()
    copies["sw"].write_text("\n".join(lines[len(lines) // 3 :]) + "\n")

    after_it = _extract(teacher, copies, tmp_path / "out")
    alone = _extract(teacher, copies, tmp_path / "alone")

    for name in ("model.safetensors", "tokenizer.json"):
        assert (after_it / name).read_bytes() == (alone / name).read_bytes()


def test_short_files_share_blocks(teacher: Path, texts: dict[str, Path], tmp_path: Path) -> None:
    """A thousand poems that would not fill one block each."""
    lines = texts["sw"].read_text().splitlines()[:60]
    (tmp_path / "poems").mkdir()
    for number, line in enumerate(lines):
        (tmp_path / "poems" / f"{number:03}.txt").write_text(" ".join(line.split()[:5]) + "\n")
    poems = text_files("sw", tmp_path / "poems")
    (tmp_path / "all.txt").write_text("".join(file.read_text() for file in poems))
    loaded = load_teacher(teacher)
    blocks = {
        name: TextBlocks({"sw": files}, loaded, tmp_path / f"blocks-{name}", **BLOCKS).blocks["sw"]
        for name, files in (("poems", poems), ("all", [tmp_path / "all.txt"]))
    }

    assert len(blocks["poems"]) > 5
    assert np.array_equal(blocks["poems"], blocks["all"])


@pytest.mark.slow
def test_two_runs_end_in_the_same_bytes(student: Path, teacher: Path, texts: dict[str, Path], tmp_path: Path) -> None:  # fmt: skip
    again = _extract(teacher, texts, tmp_path / "student")

    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (again / name).read_bytes() == (student / name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("stop", [3, 8], ids=["before a checkpoint", "behind one"])
def test_a_run_cut_off_ends_in_the_same_student(
    stop: int, student: Path, teacher: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    def watch(done: int, total: int, what: str) -> None:
        if what.startswith("extracting") and done == stop:
            raise StopError

    with pytest.raises(StopError):
        _extract(teacher, texts, tmp_path / "student", watch=watch)
    assert not (tmp_path / "student").exists()

    resumed = _extract(teacher, texts, tmp_path / "student")

    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (resumed / name).read_bytes() == (student / name).read_bytes()


@pytest.fixture
def no_cutting(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Called, it makes every further trim and every further cut of text a failure."""

    def refuse(*_arguments: Any, **_options: Any) -> None:
        raise AssertionError("trimmed or cut again")

    def start() -> None:
        monkeypatch.setitem(trimmed_teacher.__globals__, "trim", refuse)
        monkeypatch.setattr("bistil.text.blocks.stream_blocks", refuse)

    return start


def test_a_run_that_goes_on_cuts_no_text_again(
    teacher: Path, texts: dict[str, Path], tmp_path: Path, no_cutting: Callable[[], None]
) -> None:
    def stop(_plan: Plan) -> None:
        raise StopError

    one_step = replace(SHORT, steps=1)
    with pytest.raises(StopError):
        _extract(teacher, texts, tmp_path / "out", extraction=one_step, tell=stop)
    no_cutting()
    _extract(teacher, texts, tmp_path / "out", extraction=one_step)


def test_what_killed_runs_left_in_a_cache_goes_and_what_others_made_stays(
    teacher: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    place, silent = tmp_path / "cache", lambda *_: None
    files = {"en": [texts["en"]], "sw": [texts["sw"]]}

    whole = trimmed_teacher(teacher, files, place, SHORT, watch=silent).folder
    half = work_dir(whole) / MADE  # as a run that was killed leaves it
    half.parent.mkdir()
    whole.rename(half)
    (half / "config.json").unlink()

    lean = trimmed_teacher(teacher, files, place, SHORT, watch=silent)
    made = TextBlocks({"en": [texts["en"]]}, lean, place, **BLOCKS).blocks["en"]
    short = tmp_path / "short.txt"
    short.write_text("mn\n")
    with pytest.raises(ExtractError, match="sw: its corpus does not fill one block"):
        _ = TextBlocks({"en": files["en"], "sw": [short]}, lean, place, **BLOCKS).blocks

    kinds = sorted(file.name.rpartition("-")[0] for file in place.iterdir())
    assert kinds == ["en-train", "teacher"]
    assert len(made) > 4


def test_another_seed_takes_teacher_and_text_from_the_cache(
    teacher: Path,
    texts: dict[str, Path],
    tmp_path: Path,
    no_cutting: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    two_steps, cache_dir = replace(SHORT, steps=2), tmp_path / "cache"
    held: list[bool] = []

    def trim(*arguments: Any, **options: Any) -> None:
        with pytest.raises(Timeout), ThreadPoolExecutor() as other:  # another run would wait here
            other.submit(FileLock(arguments[2].parent / ".lock").acquire, timeout=0).result()
        held.append(True)
        vocabmerge.trim(*arguments, **options)

    monkeypatch.setitem(trimmed_teacher.__globals__, "trim", trim)
    alone = _extract(teacher, texts, tmp_path / "alone", extraction=two_steps)
    _extract(
        teacher,
        texts,
        tmp_path / "first",
        extraction=replace(two_steps, seed=1),
        cache_dir=cache_dir,
    )
    no_cutting()

    assert held == [True, True]  # in its own folder, and in the cache
    second = _extract(
        teacher, texts, tmp_path / "second", extraction=two_steps, cache_dir=cache_dir
    )

    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (second / name).read_bytes() == (alone / name).read_bytes()
    with pytest.raises(AssertionError, match="cut again"):  # blocks of another length are others
        _extract(teacher, texts, tmp_path / "out", extraction=replace(two_steps, length=16), cache_dir=cache_dir)  # fmt: skip
    texts = {**texts, "sw": tmp_path / "sw.txt"}
    texts["sw"].write_text("other text\n" * 9)
    with pytest.raises(AssertionError, match="cut again"):
        _extract(teacher, texts, tmp_path / "out2", extraction=two_steps, cache_dir=cache_dir)


@pytest.mark.slow
def test_terms_of_weight_zero_are_not_taught(teacher: Path, texts: dict[str, Path], tmp_path: Path) -> None:  # fmt: skip
    loss = LossWeights(attention=1, hidden=0, mlm=0.5)

    out = _extract(teacher, texts, tmp_path / "out", extraction=replace(SHORT, steps=2, loss=loss))  # fmt: skip

    assert json.loads((out / "run.json").read_text())["plan"]["terms"] == {"attention": 1, "mlm": 0.5}  # fmt: skip
