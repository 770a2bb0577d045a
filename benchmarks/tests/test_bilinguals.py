"""The table of bilingual students: means over sets, then languages; seeds that all have; a picture of those with a cost."""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent.parent))

from bilinguals import (
    draw_pareto,
    extracting,
    pooled_tests,
    record_scores,
    rows_of,
    scores,
    tuning,
    write_report,
)
from record import Recorder

from bistil.compare.identity import RecipeDigests
from bistil.compare.recipe import Comparison
from xeval.statistics.result import Result
from xeval.statistics.results_file import append_results

SYSTEMS = ("bistil", "whole")


def _result(model: str, language: str, seed: int, value: float, dataset: str = "a") -> Result:
    return Result(
        model=model, model_digest=f"{model}-digest", task="dp", dataset=f"ud/{language}_{dataset}", split="test",
        language=language, source_language="en", protocol={}, seed=seed, metric="las", value=value, n=10,
    )  # fmt: skip


def test_scores_of_another_recipe_in_the_same_file_do_not_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("model/config.json", "en.txt", "de.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    recipe = Comparison.model_validate({
        "model": str(tmp_path / "model"), "corpora": {code: str(tmp_path / f"{code}.txt") for code in ("en", "de")},
        "targets": ["de"], "tasks": ["dp"], "out": str(tmp_path),
    })  # fmt: skip
    better = recipe.model_copy(update={"tune": recipe.tune.model_copy(update={"learning_rate": 1e-3})})  # fmt: skip
    for followed, value in ((recipe, 10.0), (better, 30.0)):
        digest = RecipeDigests(followed).labels["bistil"].digest
        row = replace(_result("bistil", "de", 0, value), model_digest=digest)
        append_results(tmp_path / "results.jsonl", [(row, None)])

    assert scores(rows_of(recipe), "bistil", "dp", ["de"]) == {0: 10.0}
    assert scores(rows_of(better), "bistil", "dp", ["de"]) == {0: 30.0}
    assert capsys.readouterr().out == "1 older rows, of other recipes, are left out\n" * 2


def test_sets_of_a_language_count_as_one_language() -> None:
    rows = [
        _result("bistil", "de", 0, 10.0),
        _result("bistil", "de", 0, 30.0, "b"),
        _result("bistil", "fi", 0, 40.0),
    ]

    assert scores(rows, "bistil", "dp", ["de", "fi"]) == {0: 30.0}


def test_other_metrics_and_resamples_are_left_out() -> None:
    from dataclasses import replace

    row = _result("bistil", "de", 0, 10.0)
    rows = [row, replace(row, metric="uas", value=90.0), replace(row, bootstrap=3, value=50.0)]

    assert scores(rows, "bistil", "dp", ["de"]) == {0: 10.0}


def test_a_seed_counts_when_every_system_has_all_of_its_languages(tmp_path: Path) -> None:
    rows = [
        _result(system, language, seed, 50.0 + seed)
        for system in SYSTEMS
        for language in ("de", "fi")
        for seed in (0, 1, 2)
        if (system, language, seed) != ("bistil", "fi", 1)
    ]
    out = tmp_path / "records.jsonl"
    recorder = Recorder("question", argparse.Namespace(out=out, quick=True))

    record_scores(
        recorder, rows, SYSTEMS, {"dp": ("de", "fi")}, {"dp": 60, "ner": 20}, {"layers": 4}
    )
    recorder.close()

    records = [json.loads(line) for line in out.read_text().splitlines()]
    repeats = {(r["what"].rpartition(", ")[2], r["contender"]): r["repeats"] for r in records}
    assert {repeats["de fi", system] for system in SYSTEMS} == {2}
    assert {repeats["de", system] for system in SYSTEMS} == {3}
    assert all(r["shape"] == {"layers": 4, "tune_steps": 60} for r in records)
    assert {r["bar"] for r in records if r["what"].endswith("de fi") and r["contender"] == "bistil"} == {0.97}  # fmt: skip


def test_nothing_is_a_part_of_a_teacher_that_scores_nothing(tmp_path: Path) -> None:
    rows = [_result("bistil", "de", 0, 50.0), _result("whole", "de", 0, 0.0)]
    out = tmp_path / "records.jsonl"
    recorder = Recorder("question", argparse.Namespace(out=out, quick=True))

    record_scores(recorder, rows, SYSTEMS, {"dp": ("de",)}, {"dp": 60}, {})
    recorder.close()

    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(r["median"], r["ratio"], r["met"]) for r in records] == [
        (50.0, None, None),
        (0.0, None, None),
    ]


def test_means_over_languages_are_tested_by_seed() -> None:
    """Differences of 4, 5 and 6 points: t = 5 / (1 / sqrt(3)), and t's 97.5 % quantile at 2 degrees is 4.3027."""
    rows = [
        _result(system, language, seed, {"bistil": 54.0, "whole": 50.0}[system] + seed * (system == "bistil"))
        for system in SYSTEMS
        for language in ("de", "fi")
        for seed in (0, 1, 2)
    ]  # fmt: skip

    told = pooled_tests(rows, SYSTEMS, {"dp": ("de", "fi"), "ner": ("de",)})

    assert told == ["bistil against whole, dp, mean over languages: +5.00 (+2.52 to +7.48), p 0.013, 3 seeds"]  # fmt: skip
    assert pooled_tests(rows[:1], SYSTEMS, {"dp": ("de",)}) == []


@pytest.mark.parametrize("priced", [("bistil", "whole"), ("bistil",)])
def test_the_picture_is_drawn_of_what_has_a_cost(tmp_path: Path, priced: tuple[str, ...]) -> None:
    rows = [_result(system, "de", 0, 50.0) for system in SYSTEMS]
    costs = {f"{system}-digest": {"parameters": 10**6, "flops": 10**7} for system in priced}

    draw_pareto(rows, costs, {"dp": ("de",), "ner": ("de",)}, tmp_path / "picture.png")

    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_a_report_says_recipe_scores_and_tests_and_no_path(tmp_path: Path) -> None:
    rows = [_result(system, "de", 0, 50.0) for system in SYSTEMS]
    recipe = Comparison.model_validate(
        {
            "model": str(tmp_path / "mmt"), "corpora": {"en": str(tmp_path / "en"), "de": str(tmp_path / "de")},
            "targets": ["de"], "tasks": ["dp"], "data": str(tmp_path), "languages": None, "out": str(tmp_path / "run"),
            "extract": extracting(30, learning_rate=1e-3, checkpoint_every=10), **tuning({"dp": 60, "topic": 20}, looks=2),
        }
    )  # fmt: skip

    write_report(rows, {"layers": 4}, recipe, ["bistil against nobody"], tmp_path / "report.md")

    report = (tmp_path / "report.md").read_text()
    assert str(tmp_path) not in report
    stated = yaml.safe_load(report.partition("```yaml\n")[2].partition("```")[0])
    assert stated["sizes"] == {"layers": 4}
    assert stated["tune_by_task"]["dp"] == {"steps": 60, "full_steps": 20, "evaluate_every": 30}
    assert stated["languages"] is None
    assert stated["tune_by_task"]["topic"]["pooling"] == "mean"
    assert Comparison.model_fields.keys() >= stated.keys() - {"sizes"}
    assert "| bistil |" in report.replace("**", "")
    assert "- bistil against nobody" in report
