"""A recipe followed on a GPU, real or pretended: recorded and online, it comes to what the CPU comes to."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pretended_device import DEVICES, on_cpu_and_gpu
from safetensors.torch import load_file

from mergedistill.recipe.recipe import Recipe
from mergedistill.recipe.stages import stages
from mergedistill.run.run import run


@pytest.mark.parametrize("kind", DEVICES)
@pytest.mark.parametrize(
    "changes",
    [
        {"distil": {"block_length": 32, "temperature": 2.0}},
        {"distil": {"block_length": 32, "online": True}},
        {"states": {"encoder": "uni", "layer": 1}},
        pytest.param(
            {
                "distil": {"block_length": 32, "online": True, "max_lost": 1.0, "divergence": "reverse_kl"},
                "vocabulary": {"normalizer": "keep", "max_size": 360},
            },
            marks=pytest.mark.slow,
        ),
    ],
    ids=["recorded", "online, whole", "an encoder's states", "online, top k"],
)  # fmt: skip
def test_a_recipe_is_followed_on_the_gpu_as_on_the_cpu(
    kind: str, changes: dict[str, Any], town: Path, recipe_of: Callable[..., Recipe], tmp_path: Path
) -> None:
    if states := changes.get("states"):
        changes = changes | {"states": states | {"encoder": str(town / "uni")}}

    def follow(out: Path) -> tuple[dict[str, Any], list[dict[str, float]]]:
        recipe = recipe_of(out=str(out), **changes)
        student = run(recipe)
        log = json.loads((stages(recipe)["train"].place / "log.json").read_text())
        return load_file(student / "model.safetensors"), log

    (weights, log), (weights_there, log_there) = on_cpu_and_gpu(kind, follow, tmp_path, trains=True)

    assert weights.keys() == weights_there.keys()
    flat, flat_there = (
        torch.cat([part[name].flatten() for name in weights]) for part in (weights, weights_there)
    )
    apart = float((flat - flat_there).norm() / flat.norm())
    assert apart <= (1e-6 if kind == "pretended" else 2e-3)
    losses, losses_there = (
        [e["loss"] for e in entries if "loss" in e] for entries in (log, log_there)
    )
    assert losses
    assert losses_there == pytest.approx(losses, rel=2e-3)
    bits, bits_there = (
        [value for entry in entries for name, value in entry.items() if "bits_per_byte" in name]
        for entries in (log, log_there)
    )
    assert bits
    assert bits_there == pytest.approx(bits, rel=5e-3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", DEVICES)
@pytest.mark.parametrize("online", [False, True], ids=["recorded", "online"])
def test_several_teachers_of_a_language_teach_on_the_gpu_as_on_the_cpu(
    kind: str, online: bool, town: Path, recipe_of: Callable[..., Recipe], tmp_path: Path
) -> None:
    teachers = [
        {"teacher": str(town / name), "languages": [language]}
        for name, language in (
            ("wp", "qav"),
            ("wp-other", "qav"),
            ("uni", "qav"),
            ("foreign", "qag"),
        )
    ]

    def follow(out: Path) -> list[float]:
        distil = {"block_length": 32, "online": online}
        recipe = recipe_of(out=str(out), teachers=teachers, distil=distil)
        run(recipe)
        log = json.loads((stages(recipe)["train"].place / "log.json").read_text())
        return [entry["loss"] for entry in log if "loss" in entry]

    losses, losses_there = on_cpu_and_gpu(kind, follow, tmp_path, trains=True)

    assert losses
    assert losses_there == pytest.approx(losses, rel=2e-3)
