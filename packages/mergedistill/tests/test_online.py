import gc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mergedistill.recipe.recipe import Recipe
from mergedistill.recipe.stages import ensembles_or_refuse, recording_folder, stages
from mergedistill.run.run import run
from mergedistill.student.initialise import new_student
from mergedistill.student.loss import DistillationLoss
from mergedistill.targets import combine as combine_module
from mergedistill.targets import online_ensemble
from mergedistill.targets import recorded as recorded_module
from mergedistill.targets.online import matching_columns
from mergedistill.targets.online_ensemble import JointSignals, open_online
from mergedistill.targets.recorded import open_signals
from mergedistill.training.schedule import batch_inputs
from teacherzoo import Signals
from teacherzoo.signals.record_text import record_text
from teacherzoo.signals.shard import ShardArrays
from vocabmerge import map_of_ids

Recipes = Callable[..., Recipe]
PIECES = 300  # of each teacher in town


def _losses(
    recipe: Recipe, rows: list[int], language: str = "qag"
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """A student at its start, on some blocks: loss, parts, gradient."""
    run(recipe, until="record")
    found, vocabulary = ensembles_or_refuse(recipe), stages(recipe)["vocabulary"].folder
    if recipe.distil.online:
        signals, teachers = open_online(recipe, found, vocabulary)
    else:
        signals, teachers = open_signals(recipe, found, vocabulary), []
    its = signals[language]  # the pieces of qag have other numbers in the union
    student = new_student(recipe, found, vocabulary)
    loss = DistillationLoss(student, recipe.distil, teachers).eval()
    output = loss(**batch_inputs(its, rows, recipe.distil))
    output.loss.backward()
    gradients = {name: its.grad for name, its in student.named_parameters() if its.grad is not None}
    parts = {"loss": output.loss.item(), "hard": output.hard.item(), "soft": output.soft.item()}
    assert output.rows > 20
    return parts, gradients


def _close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], tolerance: float) -> None:
    assert one.keys() == other.keys()
    for name, gradient in one.items():
        scale = gradient.norm().item()
        assert (gradient - other[name]).norm().item() <= tolerance * scale, name


def _clearly_won(recipe: Recipe, rows: list[int], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Those of the blocks of a recording in which teachers are further apart than a record, whose log-probabilities are
    rounded, can move them, or have no position to be compared at."""
    compared: list[np.ndarray] = []
    costs = combine_module.block_costs

    def keeping(teachers: Any, *, same_text: bool) -> np.ndarray:
        compared.append(costs(teachers, same_text=same_text))
        return compared[-1]

    run(recipe, until="record")
    vocabulary = stages(recipe)["vocabulary"].folder
    with monkeypatch.context() as patched:
        patched.setattr(combine_module, "block_costs", keeping)
        open_signals(recipe, ensembles_or_refuse(recipe), vocabulary)["qav"].shard(0)
    first, second = np.sort(compared[0], axis=0)[:2]
    return [row for row in rows if second[row] == 0 or second[row] - first[row] > 0.01 * first[row]]


@pytest.fixture(scope="module")
def signals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Where recipes keep what they record: each thing once, by what it is of."""
    return {"signals": str(tmp_path_factory.mktemp("signals"))}


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_whole_vocabulary_recorded_is_the_teacher_asked_in_each_step(
    recipe_of: Recipes, signals: dict[str, str], temperature: float
) -> None:
    common = {"block_length": 32, "temperature": temperature}

    recorded, by_record = _losses(
        recipe_of(**signals, distil={**common, "k": PIECES}), [*range(20)]
    )
    asked, by_asking = _losses(
        recipe_of(**signals, out="asked", distil={**common, "online": True}), [*range(20)]
    )

    # A recorded log-probability is one byte: far down, that is some hundredths.
    assert asked["soft"] > 0.1
    assert asked == pytest.approx(recorded, rel=2e-2)
    _close(by_asking, by_record, 5e-2)


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl"])
def test_where_pieces_are_missing_the_top_k_is_asked_as_it_was_recorded(
    recipe_of: Recipes, signals: dict[str, str], divergence: str
) -> None:
    common = {"block_length": 32, "max_lost": 1.0, "divergence": divergence, "temperature": 2.0}
    cut = {"normalizer": "keep", "max_size": 360}

    recorded, by_record = _losses(recipe_of(**signals, distil=common, vocabulary=cut), [*range(30)])
    asked, by_asking = _losses(
        recipe_of(**signals, out="asked", distil={**common, "online": True}, vocabulary=cut),
        [*range(30)],
    )

    assert asked == pytest.approx(recorded, rel=2e-2)
    _close(by_asking, by_record, 2e-2)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("combine", ["mixture", "mince"])
@pytest.mark.parametrize(("other", "policy"), [("wp-other", "bert"), ("uni", "whole_word")])
def test_several_teachers_asked_in_each_step_say_what_was_recorded_of_them(
    recipe_of: Recipes,
    signals: dict[str, str],
    town: Path,
    other: str,
    policy: str,
    combine: str,
    temperature: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    several = {
        "teachers": [
            {"teacher": str(town / "wp"), "languages": ["qav"], "weight": 2},
            {"teacher": str(town / other), "languages": ["qav"], "weight": 1},
            {"teacher": str(town / "foreign"), "languages": ["qag"]},
        ],
        "combine": {"qav": combine},
    }
    common = {"block_length": 32, "policy": policy, "temperature": temperature, "k": PIECES}

    by_recording = recipe_of(**signals, **several, distil=common)
    rows = [7, *range(20, 1, -1)]
    if combine == "mince":
        rows = _clearly_won(by_recording, rows, monkeypatch)
        assert len(rows) > 10
    recorded, by_record = _losses(by_recording, rows, "qav")
    asked, by_asking = _losses(
        recipe_of(**signals, **several, out="asked", distil={**common, "online": True}),
        rows,
        "qav",
    )

    assert asked["soft"] > 0.1
    assert asked == pytest.approx(recorded, rel=2e-2)
    _close(by_asking, by_record, 5e-2)


def test_of_every_teacher_but_the_first_one_shard_more_is_held_than_it_reads(
    recipe_of: Recipes, town: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_small_shards = partial(record_text, shard_bytes=1000)
    monkeypatch.setattr(recorded_module, "record_text", in_small_shards)
    teachers = [
        {"teacher": str(town / name), "languages": [language], "weight": 1}
        for name, language in (
            ("wp", "qav"),
            ("wp-other", "qav"),
            ("uni", "qav"),
            ("foreign", "qag"),
        )
    ]
    recipe = recipe_of(
        teachers=teachers,
        combine={"qav": "mixture"},
        distil={"block_length": 32, "online": True, "policy": "whole_word"},
    )
    run(recipe, until="record")
    vocabulary = stages(recipe)["vocabulary"].folder
    joint = open_online(recipe, ensembles_or_refuse(recipe), vocabulary)[0]["qav"]
    assert isinstance(joint, JointSignals)
    assert len(joint.manifest.shards) > 12

    for row in range(len(joint)):
        joint.batch([row])
        assert len(joint.query([row])["teachers"]) == 3

    gc.collect()
    assert sum(type(held) is ShardArrays for held in gc.get_objects()) == 2 * 8 + 2 * (8 + 1)


def test_blocks_in_which_a_teacher_with_fewer_blocks_has_no_prediction_ask_it_all_the_same(
    recipe_of: Recipes, town: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def led_by(lead: str, other: str) -> tuple[Any, int]:
        recipe = recipe_of(
            signals="signals",
            teachers=[
                {"teacher": str(town / lead), "languages": ["qav"], "weight": 2},
                {"teacher": str(town / other), "languages": ["qav"], "weight": 1},
                {"teacher": str(town / "foreign"), "languages": ["qag"]},
            ],
            combine={"qav": "mixture"},
            distil={"block_length": 8, "policy": "whole_word", "online": True},
        )
        run(recipe, until="record")
        ensembles = ensembles_or_refuse(recipe)
        signals, _ = open_online(recipe, ensembles, stages(recipe)["vocabulary"].folder)
        return signals["qav"], len(Signals(recording_folder(recipe, recipe.teachers[1], "qav")))

    joint, blocks_of_other = led_by("wp", "uni")
    if len(joint) < blocks_of_other:
        joint, blocks_of_other = led_by("uni", "wp")
    assert len(joint) > blocks_of_other
    monkeypatch.setattr(
        online_ensemble, "align_positions", lambda primary, _: np.full(len(primary.labels), -1)
    )

    lead, other = joint.query([len(joint) - 1])["teachers"]

    assert (lead["positions"] >= 0).all()
    assert (other["positions"] == -1).all()


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl"])  # the whole vocabulary, top k
def test_online_teachers_teach_in_mixed_precision_nearly_the_same(
    recipe_of: Recipes, divergence: str
) -> None:
    def learned(**arguments: Any) -> dict[str, torch.Tensor]:
        steps = {"optim": "sgd", "lr_scheduler_type": "constant", "logging_steps": 1}
        recipe = recipe_of(
            out="-".join(["run", *arguments]),
            signals="signals",
            distil={"block_length": 32, "online": True, "divergence": divergence},
            train={"steps": 2, "tokens": 256, "learning_rate": 0.5, "warmup": 0}
            | {"arguments": {**steps, **arguments}},
        )
        run(recipe, until="train")
        weights: dict[str, torch.Tensor] = load_file(
            stages(recipe)["train"].place / "model" / "model.safetensors"
        )
        return weights

    exact = learned()
    for name, weight in learned(bf16=True).items():
        torch.testing.assert_close(weight, exact[name], rtol=0.1, atol=0.02)


def test_several_teachers_asked_in_each_step_train_a_student(
    recipe_of: Recipes, town: Path
) -> None:
    teachers = [
        {"teacher": str(town / name), "languages": [language], "weight": 1}
        for name, language in (("wp", "qav"), ("uni", "qav"), ("foreign", "qag"))
    ]
    recipe = recipe_of(
        teachers=teachers,
        combine={"qav": "mixture"},
        distil={"block_length": 32, "online": True, "policy": "whole_word"},
    )

    student = run(recipe)

    assert "qav (leads, mixture, weight 0.50)" in (student / "README.md").read_text()


def test_online_students_are_plain_students_and_nothing_is_recorded_of_the_teachers(
    recipe_of: Recipes, town: Path
) -> None:
    before = (town / "wp" / "model.safetensors").read_bytes()
    recipe = recipe_of(distil={"block_length": 32, "online": True})

    student = run(recipe)

    from transformers import AutoModelForMaskedLM

    kept = load_file(student / "model.safetensors")
    assert kept.keys() <= AutoModelForMaskedLM.from_pretrained(student).state_dict().keys()
    assert (town / "wp" / "model.safetensors").read_bytes() == before
    manifests = list(Path(recipe.out).rglob("signals.json"))
    assert len(manifests) == 2
    assert all("the text itself" in manifest.read_text() for manifest in manifests)


def test_columns_match_only_where_every_teacher_piece_has_one_of_its_own() -> None:
    columns = matching_columns(map_of_ids([2, 0, 3], student_size=5), 3)

    assert columns is not None
    assert columns.tolist() == [1, -1, 0, 2, -1]
    assert matching_columns(map_of_ids([2, 2, 3], student_size=5), 3) is None
    assert matching_columns(map_of_ids([2, -1, 3], student_size=5), 3) is None
    assert matching_columns(map_of_ids([2, 0], student_size=5), 3) is None
