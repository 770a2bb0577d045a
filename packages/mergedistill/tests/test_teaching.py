import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from mergedistill.cli.app import app
from mergedistill.errors import StageError
from mergedistill.rank.corpus_warnings import corpus_warnings
from mergedistill.recipe.language_teachers import choose_teachers
from mergedistill.recipe.recipe import Recipe
from mergedistill.recipe.stages import (
    ensembles_or_refuse,
    known_ensembles,
    recording_folder,
    stages,
)
from mergedistill.run.run import run
from mergedistill.run.status import status
from mergedistill.targets.combined import CombinedSignals
from mergedistill.targets.recorded import open_signals
from teacherzoo import Signals
from vocabmerge import load_map

Recipes = Callable[..., Recipe]


def _several(town: Path, *names: str, weights: tuple[float, ...] = ()) -> list[dict[str, object]]:
    """These teach `qav`; `foreign` teaches `qag`."""
    taught: list[dict[str, object]] = [
        {"teacher": str(town / name), "languages": ["qav"]} for name in names
    ]
    for each, weight in zip(taught, weights, strict=False):
        each["weight"] = weight
    return [*taught, {"teacher": str(town / "foreign"), "languages": ["qag"]}]


def test_ranking_is_taken_as_the_assignment_and_kept(town: Path, recipe_of: Recipes) -> None:
    candidates = [{"teacher": str(town / name)} for name in ("foreign", "wp")]
    recipe = recipe_of(assign="rank", teachers=candidates)
    assert known_ensembles(recipe) is None
    assert status(recipe) == dict.fromkeys(("rank", "vocabulary", "record", "train", "card"), False)

    run(recipe, until="rank")

    found = ensembles_or_refuse(recipe)
    assert {language: its.primary for language, its in found.items()} == {
        "qav": "wp",
        "qag": "foreign",
    }
    measured = stages(recipe)["rank"].facts()["ratings"]["qav"]
    assert measured["wp"]["charged"] < measured["foreign"]["charged"]
    # A further candidate is measured alone; the others' measures are kept.
    kept = {path: path.stat().st_mtime_ns for path in Path(recipe.out).rglob("*.rating.json")}
    more = recipe_of(
        assign="rank",
        teachers=[*candidates, {"teacher": str(town / "wp-other"), "languages": ["qav"]}],
    )
    assert not status(more)["rank"]
    run(more, until="rank")
    assert kept == {path: path.stat().st_mtime_ns for path in kept}
    assert ensembles_or_refuse(more)["qav"].primary == "wp"  # noise made the other one worse


def test_renamed_teachers_are_ranked_under_their_new_names(town: Path, recipe_of: Recipes) -> None:
    def named(first: str, second: str) -> Recipe:
        taught = {first: "foreign", second: "wp"}
        return recipe_of(
            assign="rank",
            teachers=[
                {"teacher": str(town / folder), "name": name} for name, folder in taught.items()
            ],
        )

    run(named("one", "two"), until="rank")
    exchanged = named("two", "one")

    assert not status(exchanged)["rank"]
    run(exchanged, until="rank")

    assert ensembles_or_refuse(exchanged)["qav"].primary == "one"


def test_a_mixture_across_tokenizers_becomes_a_student(town: Path, recipe_of: Recipes) -> None:
    recipe = recipe_of(
        teachers=_several(town, "wp", "uni", "wp-other"),
        combine={"qav": "mixture"},
        rank={"documents": 10, "sharpness": 0},
        distil={"block_length": 32, "policy": "whole_word", "temperature": 2.0},
    )

    student = run(recipe)

    told = json.loads((student / "run.json").read_text())
    weights = told["teaching"]["qav"]["weights"]
    assert weights == {name: pytest.approx(1 / 3) for name in ("wp", "uni", "wp-other")}
    primary = next(iter(weights))
    heard = told["meetings"]["qav"]
    assert heard[primary]["heard"] == heard[primary]["asked"] > 0
    assert all(0 < its["heard"] <= its["asked"] for its in heard.values())
    assert "qag" not in told["meetings"]
    card = (student / "README.md").read_text()
    assert "qav (leads, mixture, weight 0.33)" in card
    assert "In qav the teachers were heard at these shares" in card


def test_teachers_with_one_tokenizer_meet_at_every_position(town: Path, recipe_of: Recipes) -> None:
    recipe = recipe_of(teachers=_several(town, "wp", "wp-other", weights=(3, 1)), combine="mixture")
    run(recipe, until="record")
    found = choose_teachers(recipe)
    vocabulary = stages(recipe)["vocabulary"].folder
    met = open_signals(recipe, found, vocabulary)["qav"]
    alone = {
        each.called: Signals(
            recording_folder(recipe, each, "qav"),
            vocabulary=load_map(vocabulary / "maps" / f"{each.called}.safetensors"),
        )
        for each in recipe.candidates("qav")
    }

    assert isinstance(met, CombinedSignals)
    usage = met.usage()
    assert usage["wp"].heard == usage["wp"].asked == usage["wp-other"].heard
    both, first, second = (each.batch([0, 5]) for each in (met, alone["wp"], alone["wp-other"]))
    np.testing.assert_array_equal(both.input_ids, first.input_ids)
    np.testing.assert_array_equal(both.topk_ids[:, :8], first.topk_ids)
    np.testing.assert_array_equal(both.topk_ids[:, 8:], second.topk_ids)
    np.testing.assert_allclose(
        both.topk_logprobs[:, 8:].exp(), 0.25 * second.topk_logprobs.exp(), rtol=1e-4
    )


def test_mince_takes_each_block_from_the_teacher_that_reads_it_best(
    town: Path, recipe_of: Recipes
) -> None:
    recipe = recipe_of(teachers=_several(town, "wp", "wp-other", weights=(3, 1)), combine="mince")
    run(recipe, until="record")
    met = open_signals(recipe, choose_teachers(recipe), stages(recipe)["vocabulary"].folder)["qav"]
    assert isinstance(met, CombinedSignals)
    losses = np.stack(
        [
            Signals(recording_folder(recipe, each, "qav")).batch(range(len(met))).teacher_loss
            for each in recipe.candidates("qav")
        ]
    )

    chosen = [its.blocks for its in met.usage().values()]

    assert chosen == np.bincount(losses.argmin(axis=0), minlength=2).tolist()
    assert min(chosen) > 0


def test_figures_of_a_teacher_are_of_the_one_that_leads_now(town: Path, recipe_of: Recipes) -> None:
    def measured(*weights: float) -> dict[str, float]:
        teachers = _several(town, "wp", "wp-other", weights=weights)
        student = run(recipe_of(teachers=teachers, combine="mixture"))
        figures: dict[str, float] = json.loads((student / "run.json").read_text())["held_out"][
            "qav"
        ]
        return figures

    first, then = measured(3, 1), measured(1, 3)  # on the same recordings

    assert first["teacher"] < then["teacher"]


def test_two_tokenizers_under_piece_masks_are_refused_before_anything_is_recorded(
    town: Path, recipe_of: Recipes
) -> None:
    recipe = recipe_of(teachers=_several(town, "wp", "uni", weights=(1, 1)), combine="mince")

    with pytest.raises(
        StageError, match=r"qav: its teachers wp, uni .* set distil.policy: whole_word"
    ):
        run(recipe)

    assert not Path(stages(recipe)["record"].folder / "wp").joinpath("signals.json").exists()


def test_other_weights_train_again_and_record_nothing(town: Path, recipe_of: Recipes) -> None:
    run(
        recipe_of(teachers=_several(town, "wp", "wp-other", weights=(3, 1)), combine="mixture"),
        until="record",
    )

    other = recipe_of(teachers=_several(town, "wp", "wp-other", weights=(2, 1)), combine="mixture")

    assert [name for name, done in status(other).items() if done] == [
        "rank",
        "vocabulary",
        "record",
    ]


def test_a_corpus_in_another_language_is_suspicious(
    town: Path, recipe_of: Recipes, tmp_path: Path
) -> None:
    texts = {"qav": str(town / "qav.txt"), "qag": str(town / "qag.txt")}
    sound = recipe_of(languages=texts)
    swapped = recipe_of(out="swapped", languages={"qav": texts["qag"], "qag": texts["qav"]})
    swapped_file = tmp_path / "recipe.yaml"
    assert corpus_warnings(sound) == []  # nothing is measured yet
    for recipe in (sound, swapped):
        run(recipe, until="rank")

    assert corpus_warnings(sound) == []
    said = corpus_warnings(swapped)
    assert any(sentence.startswith("qav: its teacher wp ") for sentence in said)
    assert any(sentence.startswith("qag: its teacher foreign ") for sentence in said)
    shown = CliRunner().invoke(app, ["run", str(swapped_file), "--until", "rank"])
    assert shown.exit_code == 0
    assert shown.stderr.count("Suspicious: ") == len(said)
