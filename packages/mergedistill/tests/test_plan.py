import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mergedistill.cli.app import app
from mergedistill.publish import card as carding
from mergedistill.recipe.corpora import corpus
from mergedistill.recipe.recipe import Recipe
from mergedistill.recipe.stages import ensembles_or_refuse, recording_folder
from mergedistill.run import forecast as planning
from mergedistill.run.forecast import Plan, plan
from mergedistill.run.run import run
from mergedistill.run.status import status
from teacherzoo import Signals


def _signals(recipe: Recipe) -> dict[str, Signals]:
    return {
        language: Signals(recording_folder(recipe, each, language))
        for each in recipe.teachers
        for language in each.languages
    }


def test_a_plan_of_a_small_corpus_foresees_its_recording_exactly(
    recipe_of: Callable[..., Recipe],
) -> None:
    recipe = recipe_of()

    found = plan(recipe)

    assert not Path(recipe.out).exists()  # nothing was written
    assert not any(found.done.values())
    run(recipe, until="record")
    for its in found.languages:
        signals = _signals(recipe)[its.language]
        assert its.documents == sum(1 for _ in corpus(recipe, its.language).documents())
        assert its.blocks == len(signals)
        assert its.positions == sum(shard.positions for shard in signals.manifest.shards)
        assert its.tokens == sum(
            len(signals.shard(number).token_ids) for number in range(len(signals.manifest.shards))
        )
    # 4 steps of 256 // 32 blocks, shared by the number of blocks to the power 0.7
    read = sum(its.rounds * its.blocks for its in found.languages)
    assert read == pytest.approx(4 * 8)
    after = plan(recipe)
    assert [its.recorded for its in after.languages] == [True, True]
    assert after.seconds["record"] == 0 < after.seconds["train"]
    assert {its.language: its.signal_bytes for its in after.languages} == {
        language: sum(shard.bytes for shard in signals.manifest.shards)
        for language, signals in _signals(recipe).items()
    }


def test_text_of_which_nothing_is_held_out_is_planned_and_becomes_a_student(
    recipe_of: Callable[..., Recipe],
) -> None:
    steps = {"steps": 2, "tokens": 64, "arguments": {"logging_steps": 10}}  # nothing is logged
    recipe = recipe_of(held_out_share=0.0, train=steps)

    planned = plan(recipe)

    assert planned.seconds["card"] > 0
    assert (run(recipe) / "curves.png").is_file()


def test_a_sample_is_scaled_to_the_whole(
    recipe_of: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "_SAMPLE_BYTES", 4096)
    recipe = recipe_of()

    found = plan(recipe)

    run(recipe, until="record")
    for its in found.languages:
        signals = _signals(recipe)[its.language]
        positions = sum(shard.positions for shard in signals.manifest.shards)
        assert its.positions == pytest.approx(positions, rel=0.15)
        assert its.blocks == pytest.approx(len(signals), rel=0.15)


def test_the_command_prints_the_plan(
    recipe_of: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of()
    file = str(tmp_path / "recipe.yaml")
    plans: list[Plan] = []

    def plan_once(read: Recipe, **options: Any) -> Plan:
        if not plans:
            plans.append(plan(read, **options))
        return plans[0]

    monkeypatch.setattr(planning, "plan", plan_once)

    shown = CliRunner().invoke(app, ["plan", file])
    told = CliRunner().invoke(app, ["plan", file, "--json"])

    assert shown.exit_code == 0, shown.output
    assert "to do" in shown.stdout
    stated = json.loads(told.stdout)
    assert [its["language"] for its in stated["languages"]] == list(recipe.languages)
    assert set(stated["seconds"]) == set(stated["done"])
    assert stated["student_bytes"] == 4 * (
        stated["body_parameters"] + stated["embedding_parameters"]
    )


def test_card_writes_anew_what_a_finished_run_has_and_refuses_an_unfinished_one(
    recipe_of: Callable[..., Recipe], tmp_path: Path
) -> None:
    recipe = recipe_of(train={"steps": 1, "tokens": 64})
    file = str(tmp_path / "recipe.yaml")

    early = CliRunner().invoke(app, ["card", file])
    assert early.exit_code == 2
    assert "training is not finished" in early.stderr
    student = run(recipe)
    card = (student / "README.md").read_text()
    (student / "README.md").write_text("spoiled")

    done = CliRunner().invoke(app, ["card", file])

    assert done.exit_code == 0, done.output
    assert (student / "README.md").read_text() == card


def test_the_card_names_text_and_licences_and_follows_them(
    recipe_of: Callable[..., Recipe], town: Path, tmp_path: Path
) -> None:
    shutil.copytree(town / "wp", tmp_path / "licensed")
    (tmp_path / "licensed" / "README.md").write_text("---\nlicense: mit\n---\nA teacher.\n")

    def stated(licence: str) -> Recipe:
        return recipe_of(
            languages={
                "qav": {"corpus": str(town / "qav.txt"), "licence": licence},
                "qag": str(town / "qag.txt"),
            },
            teachers=[
                {"teacher": str(tmp_path / "licensed"), "languages": ["qav"]},
                {"teacher": str(town / "foreign"), "languages": ["qag"]},
            ],
            train={"steps": 1, "tokens": 64},
        )

    recipe = stated("CC0-1.0")
    card = (run(recipe) / "README.md").read_text()

    documents = sum(1 for _ in corpus(recipe, "qav").documents())
    assert "| licensed | qav | `licensed` | mit |" in card
    assert f"| qav | `qav.txt` | CC0-1.0 | {documents:,} |" in card
    assert "| qag | `qag.txt` | not known: look it up |" in card
    assert [name for name, done in status(stated("CC-BY-4.0")).items() if not done] == ["card"]


@pytest.mark.parametrize(("licence", "stated"), [("mit", "mit"), ("CC0-1.0", None), (None, None)])
def test_the_header_of_a_card_states_the_licence_that_teachers_and_texts_share(
    recipe_of: Callable[..., Recipe], town: Path, licence: str | None, stated: str | None
) -> None:
    texts = {
        language: {"corpus": str(town / f"{language}.txt"), "licence": licence}
        for language in ("qav", "qag")
    }
    teachers = [{"teacher": "xlm-r-base", "languages": ["qav", "qag"]}]

    data = carding.card_metadata(recipe_of(languages=texts, teachers=teachers), {})

    assert data.license == stated
    assert data.base_model == ["FacebookAI/xlm-roberta-base"]
    assert data.to_dict()["base_model_relation"] == "finetune"
    assert "datasets" not in data.to_dict()  # they lie on this machine


@pytest.mark.parametrize(
    ("digest", "shown"),
    [("hub:o/t@c0ffee", "`qag.txt` at `c0ffee`"), ("hub:o/t", "`qag.txt`, its commit not known")],
)
def test_the_card_names_the_commit_of_a_text_on_the_hub_or_says_that_it_is_not_known(
    recipe_of: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch, digest: str, shown: str
) -> None:
    recipe = recipe_of()
    run(recipe, until="record")
    monkeypatch.setattr(carding, "digest_of_text", lambda language, text: digest)

    row = carding._text_row(recipe, "qag", ensembles_or_refuse(recipe)["qag"])

    assert row[:3] == ("qag", shown, "not known: look it up")
