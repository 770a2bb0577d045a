"""`fit`: a budget is searched, the front is shown, and the chosen shape is made."""

import importlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar
from xml.etree import ElementTree

import numpy as np
import pytest
from transformers import AutoModelForTokenClassification, AutoTokenizer
from typer.testing import CliRunner

from bistil import Budget, FitError, Fitting, fit
from bistil.cli.app import app
from bistil.errors import BistilError, ModelError
from bistil.fit import trials
from bistil.fit.choices import MILLISECONDS, choices_of, require_affordable
from bistil.fit.config import parse_bytes, parse_latency
from bistil.fit.judge import Worth
from bistil.fit.latency import LatencyModel, fit_latency, shapes_to_measure
from bistil.fit.page import table, verdict
from bistil.fit.parts import PartWorths, measure_parts
from bistil.fit.picture import front_picture, words
from bistil.fit.search import Candidate, candidates_of, finalists, pareto_front, thinned
from bistil.fit.trials import Trial
from bistil.student.shape import Shape, ShapeSizes
from teacherzoo.encoders.kinds import model_layout
from vocabmerge import Kind
from xeval.cost.parameters import parameters_of

TINY = Fitting(
    candidates=2, trial_steps=1, steps=2, lines=300, judged_lines=15, batch=4, length=24, precision="float32", layers=(0, 2),
    feed_forward=48, pieces=200,
)  # fmt: skip
BUDGET = Budget(size=24_000)
WHOLE = Shape(layers=(0, 1, 2, 3), width=32, heads=4, feed_forward=48, pieces=200)


def _candidate(parameters: int, predicted: float, **changes: Any) -> Candidate:
    shape = replace(WHOLE, **changes)
    return Candidate(
        shape=shape, parameters=parameters, bytes=parameters, float_bytes=4 * parameters, latency_ms=parameters / 1000, predicted=predicted
    )  # fmt: skip


@pytest.fixture(scope="module")
def given(texts: dict[str, Path]) -> dict[str, list[str]]:
    return {language: [str(texts[language])] for language in ("en", "sw")}


@pytest.fixture(scope="module")
def fitted(
    teacher: Path, given: dict[str, list[str]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """A masked LM within a number of parameters, and what is said of it."""
    out = tmp_path_factory.mktemp("fitted") / "out"
    return out, fit(teacher, given, out, budget=BUDGET, fitting=TINY)


def test_what_is_made_keeps_the_budget_and_is_of_the_shape_that_was_chosen(
    fitted: tuple[Path, dict[str, Any]], files_with_places: Callable[[Path], list[str]]
) -> None:
    from transformers import AutoModelForMaskedLM

    out, record = fitted
    assert files_with_places(out) == []
    student = AutoModelForMaskedLM.from_pretrained(out / "student")
    shape = record["chosen"]["shape"]
    assert parameters_of(out / "student").total == record["student"]["parameters"] <= 24_000
    assert student.config.num_hidden_layers == len(shape["layers"])
    assert (student.config.hidden_size, student.config.intermediate_size) == (shape["width"], shape["feed_forward"])  # fmt: skip
    assert student.config.num_attention_heads == shape["heads"]
    assert student.config.vocab_size == shape["pieces"]
    made = record["student"]
    assert made["ranked"] == max(made["trained"], made["untrained"])
    assert made["ranked"] == pytest.approx(np.mean([*made["worth"]["worst"].values()]))
    assert record == json.loads((out / "fit.json").read_text())
    assert sorted(path.name for path in out.iterdir()) == ["fit.json", "front.svg", "report.html", "student"]  # fmt: skip


def test_the_one_that_was_worth_most_in_the_last_round_is_chosen(
    fitted: tuple[Path, dict[str, Any]],
) -> None:
    _, record = fitted
    last = [row for row in record["trials"] if row["steps"] == record["trials"][-1]["steps"]]
    best = max(last, key=lambda row: np.mean([*row["worth"]["worst"].values()]))
    assert record["chosen"]["shape"] == best["shape"]
    assert all(row["parameters"] <= 24_000 for row in record["trials"])
    assert all(set(row["worth"]["languages"]) == {"en", "sw"} for row in record["trials"])
    assert all(set(row["worth"]["worst"]) == {"en", "sw"} for row in record["trials"])


@pytest.mark.parametrize(("by", "ranked"), [(None, 30.0), ("worst", 30.0), ("mean", 95.55)])
def test_few_lines_that_are_ruined_decide_where_the_mean_of_all_hides_them(
    teacher: Path, by: str | None, ranked: float
) -> None:
    judging = importlib.import_module("bistil.fit.judge")
    texts = {"en": ["a"] * 60}
    judge = judging.TextJudge(model_layout(teacher), texts, prompt=None, by=by, seed=0)
    left = np.full(60, 0.99)
    left[[4, 17, 40]] = 0.2, 0.3, 0.4
    judge._measures = SimpleNamespace(ask=lambda *_: None, compare=lambda *_: {"nearness": left})

    worth = judge.worth(teacher)

    assert worth.mean == pytest.approx(100 * left.mean())
    assert worth.mean > 95
    assert worth.worst == {"en": pytest.approx(30)}
    assert worth.ranked(judge.by) == pytest.approx(ranked)
    assert ("worst twentieth" in judge.measure) is (judge.by == "worst")


def test_words_that_have_one_label_or_another_have_no_worst(
    teacher: Path, given: dict[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judging = importlib.import_module("bistil.fit.judge")
    tagger = AutoModelForTokenClassification.from_pretrained(teacher, num_labels=3)
    tagger.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(teacher).save_pretrained(tmp_path)

    assert judging.TextJudge(model_layout(tmp_path), {}, prompt=None, by=None, seed=0).by == "mean"
    monkeypatch.setattr(importlib.import_module("bistil.fit.run"), "split_text", lambda *_, **__: pytest.fail("text was read"))  # fmt: skip
    with pytest.raises(FitError, match="--by worst: a word gets the whole model's label or another"):  # fmt: skip
        fit(tmp_path, given, tmp_path / "out", budget=BUDGET, fitting=replace(TINY, by="worst"))
    assert not (tmp_path / ".out.making").exists()


def test_page_picture_table_and_card_say_what_was_searched(
    fitted: tuple[Path, dict[str, Any]],
) -> None:
    out, record = fitted
    page = (out / "report.html").read_text(encoding="utf-8")
    HTMLParser().feed(page)
    assert not re.search(r"(src|href)=\"", page)
    lines = table(record)
    assert lines[0].split()[:3] == ["layers", "width", "heads"]
    assert lines[0].endswith("trained  all lines")
    last = record["trials"][-1]
    lowest, every = np.mean([*last["worth"]["worst"].values()]), last["worth"]["mean"]
    assert sum(f" {lowest:.1f} @{last['steps']} " in line and f" {every:.1f} ±" in line for line in lines) == 1  # fmt: skip
    by_mean = table({**record, "by": "mean"})
    assert by_mean[0].endswith("trained  its worst 5 %")
    assert re.search(rf" {every:.1f} ±\d+\.\d @{last['steps']} +{lowest:.1f}", "\n".join(by_mean))
    for width, heads in ((24, 4), (24, 3), (16, 4), (16, 2), (8, 4), (8, 1)):
        left = record["parts"]["heads"][str(width)][str(heads)]
        many = "1 head" if heads == 1 else f"{heads} heads"
        assert f"<td>width {width} in {many} of {width // heads} units</td><td>{left:.1f}</td>" in page  # fmt: skip
    for row in [*record["front"], *record["trials"]]:
        shape, measured = row["shape"], record["parts"]["heads"].get(str(row["shape"]["width"]))
        assert measured is None or measured[str(shape["heads"])] == max(measured.values())
    assert sum("chosen" in line for line in lines) == 1
    for row in record["front"]:
        assert f"{row['parameters']:,}" in page
    picture = ElementTree.parse(out / "front.svg").getroot()
    circles = [e.get("class") for e in picture.iter("{http://www.w3.org/2000/svg}circle")]
    drawn = len(record["front"]) + len(record["trials"])
    legend = 1 + len({row["steps"] for row in record["trials"]})
    assert len(circles) == drawn + legend
    assert any("chosen" in str(name) for name in circles)
    card = (out / "student" / "README.md").read_text(encoding="utf-8")
    assert "## Why this shape" in card
    assert all(sentence in card for sentence in verdict(record))


def test_a_shape_of_more_worth_than_the_whole_model_stays_in_the_picture(
    fitted: tuple[Path, dict[str, Any]],
) -> None:
    """By a task it can have that."""
    record = json.loads(json.dumps(fitted[1]))
    record["trials"][0]["ranked"] = 131.0
    picture = ElementTree.fromstring(front_picture(record))
    top, bottom = 40, 345
    circles = list(picture.iter("{http://www.w3.org/2000/svg}circle"))
    assert all(top <= float(circle.get("cy", "nan")) <= bottom for circle in circles[: len(record["front"]) + len(record["trials"])])  # fmt: skip


def test_a_plan_trains_nothing_and_a_killed_run_goes_on_from_it_to_the_same_bytes(
    teacher: Path,
    given: dict[str, list[str]],
    fitted: tuple[Path, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, expected = fitted
    out, extract, steps = tmp_path / "out", trials.extract, list[int]()
    asked: dict[str, Any] = {"budget": BUDGET, "fitting": TINY, "cache_dir": tmp_path / "cache"}
    planned = fit(teacher, given, out, plan=True, **asked)
    assert not out.exists()
    assert planned["trials"] == []
    assert [row["predicted"] for row in planned["front"]] == [row["predicted"] for row in expected["front"]]  # fmt: skip
    assert "--plan" in verdict(planned)[-1]

    def counted(*args: Any, **options: Any) -> Path:
        steps.append(options["extraction"].steps)
        if len(steps) == 3:
            raise KeyboardInterrupt
        return extract(*args, **options)

    monkeypatch.setattr(trials, "extract", counted)
    with pytest.raises(KeyboardInterrupt):
        fit(teacher, given, out, **asked)
    record = fit(teacher, given, out, **asked)
    # One of the two was not among the parts that were cut; none of these is cut again, and no trial but the one that was killed
    # is made again. Where training made the chosen one worse, its cut is what is made.
    assert steps == [0, 1, 1, 1, 2, *([] if record["student"]["steps"] else [0])]
    assert record["chosen"] == expected["chosen"]
    weights = [folder / "student" / "model.safetensors" for folder in (out, made)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_run_that_fails_at_its_last_files_keeps_what_was_trained(
    teacher: Path, given: dict[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No room for the card, or a kill before the student is in its place; what goes on then trains nothing."""
    finding = importlib.import_module("bistil.fit.run")
    asked: dict[str, Any] = {"budget": BUDGET, "fitting": TINY, "cache_dir": tmp_path / "cache"}

    def full(*_: Any) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(finding, "card_part", full)
        with pytest.raises(OSError, match="No space left"):
            fit(teacher, given, tmp_path / "out", **asked)
    monkeypatch.setattr(trials, "extract", full)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "move", full)
        with pytest.raises(OSError, match="No space left"):
            fit(teacher, given, tmp_path / "out", **asked)
    record = fit(teacher, given, tmp_path / "out", **asked)
    card = (tmp_path / "out" / "student" / "README.md").read_text(encoding="utf-8")
    assert card.count("## Why this shape") == 1
    assert record["chosen"]["why"] in card
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["fit.json", "front.svg", "report.html", "student"]  # fmt: skip


def test_after_a_plan_other_budgets_are_planned_and_made_of_what_it_measured(
    teacher: Path, given: dict[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, extract, steps = tmp_path / "out", trials.extract, list[int]()
    fit(teacher, given, out, budget=Budget(size=40_000), fitting=TINY, plan=True)

    def counted(*args: Any, **options: Any) -> Path:
        steps.append(options["extraction"].steps)
        return extract(*args, **options)

    monkeypatch.setattr(trials, "extract", counted)
    fit(teacher, given, out, budget=BUDGET, fitting=TINY, plan=True)
    assert steps == []
    record = fit(teacher, given, out, budget=BUDGET, fitting=replace(TINY, steps=3))
    assert record["student"]["parameters"] <= 24_000
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_in_one_cache_each_text_has_the_model_with_its_own_pieces(
    teacher: Path, given: dict[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run may still cut students of its own when the other begins."""

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib.import_module("bistil.fit.run"), "measure_latency", stop)
    for language, sources in given.items():
        with pytest.raises(KeyboardInterrupt):
            fit(teacher, {language: sources}, tmp_path / language, budget=BUDGET, fitting=TINY, cache_dir=tmp_path / "cache")  # fmt: skip
    trims = [json.loads(file.read_text()) for file in (tmp_path / "cache").glob("lean*/report.json")]  # fmt: skip
    assert sorted(language for trim in trims for language in trim["languages"]) == ["en", "sw"]


def test_a_cut_that_training_made_worse_is_called_so_by_a_run_that_goes_on(
    teacher: Path, given: dict[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finding, stopped = importlib.import_module("bistil.fit.run"), list[int]()
    picture = finding.front_picture

    def once(record: Any) -> str:
        if not stopped:
            stopped.append(record["student"]["steps"])
            raise KeyboardInterrupt
        return str(picture(record))

    monkeypatch.setattr(finding, "front_picture", once)
    asked: dict[str, Any] = {"budget": BUDGET, "fitting": replace(TINY, learning_rate=0.3)}
    with pytest.raises(KeyboardInterrupt):
        fit(teacher, given, tmp_path / "out", **asked)
    student = fit(teacher, given, tmp_path / "out", **asked)["student"]
    assert stopped == [student["steps"]] == [0]
    assert student["trained"] < student["untrained"]


def test_a_sentence_encoder_keeps_its_layout_within_a_time(
    sentence_teacher: Path, given: dict[str, list[str]], tmp_path: Path
) -> None:
    from sentence_transformers import SentenceTransformer

    fitting = replace(TINY, prompts=("ask: ",))
    record = fit(sentence_teacher, given, tmp_path / "out", budget=Budget(latency=10_000.0), fitting=fitting)  # fmt: skip
    assert SentenceTransformer(str(tmp_path / "out" / "student")).encode(["a"]).shape == (1, 24)
    assert "2_Dense" in record["one_width"]
    assert {row["shape"]["width"] for row in record["trials"]} == {32}
    assert record["student"]["latency_ms"] > 0


@pytest.mark.slow
def test_a_graph_in_eight_bits_has_no_more_bytes_than_were_counted_and_keeps_its_budget(
    teacher: Path, given: dict[str, list[str]], tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    record = fit(
        teacher,
        given,
        tmp_path / "out",
        budget=Budget(bytes=70_000),
        fitting=replace(TINY, judged_lines=20),
    )
    graph = tmp_path / "out" / "exported" / "onnx" / "model_quantized.onnx"
    assert graph.stat().st_size == record["student"]["bytes"] <= 70_000
    chosen = [row for row in record["trials"] if row["shape"] == record["chosen"]["shape"]][-1]
    assert record["student"]["bytes"] <= chosen["bytes"] <= 70_000
    assert {drop["place"] for drop in record["exported"]["drops"]} == {"en", "sw"}


def test_layers_multiply_and_sizes_between_measured_ones_are_interpolated() -> None:
    parts = PartWorths(
        uncut=100.0,
        without_layer=[],
        layers={(0, 1, 2, 3): 100.0, (0, 3): 50.0},
        sizes={"width": {32: 100.0, 16: 25.0}, "feed_forward": {48: 100.0}, "pieces": {200: 100.0, 100: 80.0}},
        heads={},
    )  # fmt: skip
    assert parts.predicted(WHOLE) == pytest.approx(100)
    assert parts.predicted(replace(WHOLE, layers=(0, 3), pieces=100)) == pytest.approx(40)
    assert parts.predicted(replace(WHOLE, width=24)) == pytest.approx(50)  # the root of a quarter


def test_where_nothing_is_left_even_of_all_that_may_be_kept_more_is_still_no_worse() -> None:
    sizes = {"width": {16: -30.0, 32: -20.0}, "feed_forward": {48: -20.0}, "pieces": {200: -20.0}}
    parts = PartWorths(uncut=-20.0, without_layer=(), layers={(0, 1, 2, 3): -20.0}, sizes=sizes, heads={})  # fmt: skip
    good = replace(parts, layers={(0, 1, 2, 3): -20.0, (0, 3): 0.5})

    assert parts.predicted(WHOLE) >= parts.predicted(replace(WHOLE, width=16)) > 0
    assert good.predicted(WHOLE) == pytest.approx(1)


def test_one_layer_and_one_head_are_no_plural() -> None:
    small = replace(WHOLE, layers=(3,), heads=1)
    assert str(small) == "1 layer (3) of width 32, 1 head, 48 feed-forward units, 200 pieces"
    assert words(asdict(small)) == "1 layer, width 32 in 1 head, feed-forward 48, 200 pieces"
    assert words(asdict(WHOLE)) == "4 layers, width 32 in 4 heads, feed-forward 48, 200 pieces"


def test_nothing_on_the_front_is_beaten_and_the_best_within_the_budget_is_shown() -> None:
    candidates = [_candidate(n, worth) for n, worth in ((10, 20), (20, 50), (30, 40), (40, 60), (40, 55))]  # fmt: skip
    front = pareto_front(candidates, "parameters")
    assert [(c.parameters, c.predicted) for c in front] == [(10, 20), (20, 50), (40, 60)]
    many = [_candidate(n, n) for n in range(100, 1000)]
    shown = thinned(pareto_front(many, "parameters"), Budget(size=321))
    assert 321 in [c.parameters for c in shown]
    assert len(shown) <= 13


def test_finalists_differ_in_depth_or_width_and_keep_the_budget() -> None:
    candidates = [
        _candidate(90, 80, feed_forward=40),
        _candidate(80, 70, feed_forward=30),
        _candidate(70, 60, width=16),
        _candidate(60, 75, layers=(0, 3)),
        _candidate(200, 99, layers=(1, 2)),
    ]
    chosen = finalists(candidates, Budget(size=100), 3, measured=lambda shapes: [])
    assert [c.predicted for c in chosen] == [80, 75, 60]
    slow = finalists(candidates, Budget(latency=1.0), 3, measured=lambda shapes: [2.0] + [0.5] * (len(shapes) - 1))  # fmt: skip
    assert [c.predicted for c in slow] == [80, 60]  # the best, of 99, was measured too slow


def test_a_fitted_latency_is_that_of_the_machine_it_was_made_of() -> None:
    real = LatencyModel(length=20, outside=0.3, layer=(0.1, 2e-6, 1e-6), error=0.0)
    shapes = shapes_to_measure(
        replace(WHOLE, width=384, feed_forward=1536), replace(WHOLE, layers=(0,), width=96, feed_forward=96)
    )  # fmt: skip
    fitted_model = fit_latency(shapes, [real.predicted(shape) for shape in shapes], length=20)
    other = replace(WHOLE, layers=(0, 1, 2), width=192, feed_forward=500)
    assert fitted_model.predicted(other) == pytest.approx(real.predicted(other))
    assert fitted_model.error < 1e-9


def test_every_candidate_is_counted_as_its_shape_is(teacher: Path) -> None:
    sizes = ShapeSizes(model_layout(teacher))
    choices = choices_of(sizes, model_layout(teacher), TINY, needed=200, always=150)
    parts = PartWorths(
        uncut=100.0, without_layer=[], layers={(1, 3): 50.0}, sizes={"width": {32: 100.0}, "feed_forward": {48: 100.0}, "pieces": {200: 100.0}},
        heads={width: {4: 1.0, heads: 2.0} for width, heads in ((24, 3), (16, 2), (8, 1))},
    )  # fmt: skip
    latency = LatencyModel(length=9, outside=0.0, layer=(1.0, 0.0, 0.0), error=0.0)
    candidates = candidates_of(sizes, choices, parts, latency)
    assert len(candidates) == len(choices.widths) * len(choices.feed_forwards) * len(choices.pieces)
    assert {(c.shape.width, c.shape.heads) for c in candidates} == {(32, 4), (28, 4), (24, 3), (20, 4), (16, 2), (12, 4), (8, 1)}  # fmt: skip
    assert min(choices.pieces) >= 150
    assert all(c.parameters == sizes.total(c.shape) for c in candidates)


@pytest.mark.parametrize("fewer_leave", [0.7, 1.0, 1.3])
def test_a_width_goes_on_with_narrower_or_fewer_heads_whichever_leave_more(
    teacher: Path, fewer_leave: float
) -> None:
    tried: list[Shape] = []

    class StandIn:
        def trial(self, shape: Shape, steps: int) -> Trial:
            assert steps == 0
            tried.append(shape)
            left = shape.width * (fewer_leave if shape.heads < 4 else 1.0)
            return Trial(shape=shape, steps=0, learning_rate=0, worth=Worth(mean=left, languages={}, interval={}), ranked=left)  # fmt: skip

    sizes, layout = ShapeSizes(model_layout(teacher)), model_layout(teacher)
    choices = choices_of(sizes, layout, TINY, needed=200, always=150)

    parts = measure_parts(sizes, layout, choices, TINY, StandIn(), lambda done, total, what: None)  # type: ignore[arg-type]  # makes nothing

    fewer = {24: 3, 16: 2, 8: 1}
    assert {(shape.width, shape.heads) for shape in tried} >= {*fewer.items(), (24, 4), (16, 4), (8, 4)}  # fmt: skip
    for width, heads in fewer.items():
        assert parts.best_heads(width, choices) == (heads if fewer_leave > 1 else 4)
        assert parts.sizes["width"][width] == width * max(1.0, fewer_leave)


def test_a_settled_width_has_the_heads_that_it_can_be_cut_into(
    save_teacher: Callable[..., Path], tmp_path: Path
) -> None:
    folder = save_teacher(tmp_path / "teacher", hidden_size=30, num_attention_heads=3)
    sizes, layout = ShapeSizes(model_layout(folder)), model_layout(folder)

    def heads(width: int) -> tuple[int, ...]:
        fitting = replace(TINY, width=width)
        return choices_of(sizes, layout, fitting, needed=200, always=150).heads[width]

    assert [heads(width) for width in (30, 27, 20, 15, 10)] == [(3,), (3,), (2,), (3,), (1,)]
    with pytest.raises(ModelError, match="width must be a multiple of the 3 attention heads"):
        heads(17)


def test_a_run_killed_while_a_trial_is_cleared_away_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = "model.safetensors"

    def extract(_model: Any, _files: Any, out: Path, **_: Any) -> None:
        out.mkdir()
        (out / weights).touch()

    class StandIn:
        inputs: ClassVar[dict[str, Any]] = {}
        by = "worst"

        def worth(self, folder: Path) -> Worth:
            assert (folder / weights).is_file()
            return Worth(mean=50.0, languages={}, interval={}, worst={"en": 20.0, "sw": 10.0})

    def killed(folder: Path, **_: Any) -> None:
        for file in folder.rglob(weights):
            file.unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(trials, "extract", extract)
    asked: dict[str, Any] = {"fitting": TINY, "judge": StandIn(), "inputs": {}, "cache": tmp_path}
    made = trials.Trials("model", Kind.MASKED_LM, WHOLE, tmp_path, 200, {"en": tmp_path}, **asked)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            made.trial(WHOLE, 0)

    untrained, trained = made.trial(WHOLE, 0), made.trial(WHOLE, 3)
    assert (untrained.worth.mean, untrained.ranked) == (50, 15)
    # The kind's own rate is 1e-4, and half of all lines' worth is lost.
    assert (untrained.learning_rate, trained.learning_rate) == (0, 5e-5)


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        ({}, "A budget is one of size, bytes and latency, got none"),
        ({"size": 3, "latency": 4.0}, "got size and latency"),
        ({"bytes": 0}, "bytes must be greater than 0"),
    ],
)
def test_a_budget_is_one_number(budget: dict[str, Any], said: str) -> None:
    with pytest.raises(FitError, match=said):
        Budget(**budget)


@pytest.mark.parametrize("text", ["25", "25mb", "MB", "0MB", "25 MB!"])
def test_bytes_without_a_unit_are_refused(text: str) -> None:
    with pytest.raises(FitError, match="--bytes must be a number of bytes such as 25MB or 24MiB, got"):  # fmt: skip
        parse_bytes(text)


def test_a_time_without_a_unit_is_refused() -> None:
    with pytest.raises(FitError, match="--latency must be a time such as 5ms, got '5'"):
        parse_latency("5")


def test_a_time_below_the_fastest_shape_is_said_in_digits(teacher: Path) -> None:
    sizes, layout = ShapeSizes(model_layout(teacher)), model_layout(teacher)
    choices = choices_of(sizes, layout, TINY, needed=200, always=150)

    with pytest.raises(FitError, match=r"The budget of 0\.001 ms a text is below .*, which costs 1\.49 ms a text: .* pieces; allow more\.$"):  # fmt: skip
        require_affordable(sizes, choices, cost=1.4906, limit=0.001, unit=MILLISECONDS)


def test_a_budget_below_the_smallest_shape_names_the_smallest(
    teacher: Path, given: dict[str, list[str]], tmp_path: Path
) -> None:
    with pytest.raises(FitError, match=r"below the smallest that can be made, which costs [\d,.e+]+ parameters: 2 layers"):  # fmt: skip
        fit(teacher, given, tmp_path / "out", budget=Budget(size=500), fitting=TINY)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--size", "20M", "--bytes", "3MB"], "got size and bytes; give one of them"),
        ([], "got none; give one of them"),
        (["--size", "20Q"], "--size must be a number of parameters such as 30M, got '20Q'"),
        (["--size", "20M", "--task", "pos"], "--task and --data go together"),
        (
            ["--size", "20M", "--layers", "first"],
            "--layers must be last, bottom, even, outer, alternate, last-k, or numbers",
        ),
        (["--size", "20M", "--candidates", "1"], "candidates must be at least 2, got 1"),
        (["--size", "20M", "--by", "best"], "by must be mean or worst, got 'best'"),
    ],
)
def test_bad_options_are_refused_in_a_sentence(
    options: list[str], said: str, tmp_path: Path
) -> None:
    result = CliRunner().invoke(app, ["fit", "model", "--language", "en=en.txt", "-o", str(tmp_path / "out"), *options])  # fmt: skip
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"layers": (0, 9)}, r"layers must be ascending numbers from 0 to 3, the teacher's, got \[0, 9\]"),
        ({"width": 33}, "width must be a multiple of the 4 attention heads"),
        ({"pieces": 10_000}, "pieces must be at most the model's [0-9]+, got 10,000"),
        ({"feed_forward": 49}, "feed_forward must be from 1 to the teacher's 48, got 49"),
        ({"units": "largest"}, "units must be one of reconstruction, taylor, bottleneck, got 'largest'"),
        ({"precision": "int8"}, "precision must be one of auto, float32, bfloat16, got 'int8'"),
        ({"learning_rate": float("nan")}, "learning_rate must be a number from 0 on, got nan"),
    ],
)  # fmt: skip
def test_a_part_that_is_settled_at_what_it_cannot_be_is_refused_before_text_is_read(
    changes: dict[str, Any],
    said: str,
    teacher: Path,
    given: dict[str, list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.import_module("bistil.fit.run"), "split_text", lambda *_, **__: pytest.fail("text was read"))  # fmt: skip
    with pytest.raises(BistilError, match=said):
        fit(teacher, given, tmp_path / "out", budget=BUDGET, fitting=replace(TINY, **changes))
    assert not list(tmp_path.iterdir())


def test_a_task_that_needs_tuning_or_has_no_development_set_cannot_judge(
    teacher: Path, given: dict[str, list[str]], tasks: Path, tmp_path: Path
) -> None:
    asked: dict[str, Any] = {"budget": BUDGET, "fitting": TINY, "data": str(tasks)}
    with pytest.raises(FitError, match="--task dp: it needs a head to be tuned"):
        fit(teacher, given, tmp_path / "out", task="dp", **asked)
    with pytest.raises(FitError, match="no development set of topic_probe in sw"):
        fit(teacher, given, tmp_path / "out", task="topic_probe", **asked)
    asked["fitting"] = replace(TINY, by="worst")
    with pytest.raises(FitError, match="--by worst is of lines, and a task has a score"):
        fit(teacher, given, tmp_path / "out", task="topic_probe", **asked)


def test_a_task_judges_by_development_sets_alone(
    teacher: Path, tasks: Path, tmp_path: Path, make_masked_lm: Callable[..., Any]
) -> None:
    pytest.importorskip("sklearn")
    from bistil.fit.judge import TaskJudge

    judge = TaskJudge(teacher, "topic_probe", str(tasks), ["en"], prompts=())
    test = tasks / "sib200" / "en" / "test.tsv"
    kept = test.read_text()
    try:
        test.write_text("not a test set")
        worth = judge.worth(teacher)
    finally:
        test.write_text(kept)
    assert worth.mean == pytest.approx(100)
    assert set(worth.languages) == {"en"}


def test_a_whole_model_that_scores_nothing_is_no_measure(
    teacher: Path, tasks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judging = importlib.import_module("bistil.fit.judge")
    judge = judging.TaskJudge(teacher, "topic_probe", str(tasks), ["en"], prompts=())
    monkeypatch.setattr(judging, "score", lambda *_, **__: [SimpleNamespace(metric="accuracy", value=0.0, language="en")])  # fmt: skip

    with pytest.raises(FitError, match=r"The whole model scores 0\.00 on topic_probe in en, of which no share"):  # fmt: skip
        judge.worth(teacher)


def test_a_task_is_asked_with_the_prompts_of_queries_and_of_documents(
    teacher: Path, tasks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judging = importlib.import_module("bistil.fit.judge")
    asked: list[Any] = []

    def score(*_: Any, protocol: Any, **__: Any) -> list[Any]:
        asked.append(protocol)
        return [SimpleNamespace(metric=judge._task.metrics[0], value=50.0, language="en")]

    monkeypatch.setattr(judging, "score", score)
    judge = judging.TaskJudge(teacher, "topic_probe", str(tasks), ["en"], prompts=("query: ", "passage: "))  # fmt: skip
    assert judge.worth(teacher).mean == pytest.approx(100)

    for protocol in asked:
        prompts = protocol.text_prompt, protocol.query_prompt, protocol.document_prompt
        assert prompts == ("query: ", "query: ", "passage: ")
