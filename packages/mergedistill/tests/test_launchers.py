"""Two processes, by every launcher, learn what one process learns from the same blocks."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mergedistill.recipe import Recipe
from mergedistill.run import run
from mergedistill.stages import stages

pytestmark = pytest.mark.slow
BIN = Path(sys.executable).parent
TRAIN = {
    "steps": 4, "tokens": 128, "learning_rate": 1e-3, "warmup": 0, "checkpoint_every": 2, "evaluate_every": 2,
}  # fmt: skip


def _launched(command: list[str], file: Path) -> None:
    path = os.environ["PATH"]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "DS_ACCELERATOR": "cpu",
        "PATH": f"{BIN}{os.pathsep}{path}",
    }
    done = subprocess.run(
        [*command, "run", str(file)], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


LAUNCHERS = {
    "torchrun": ["torchrun", "--nproc-per-node=2", "--master-port=29611", "-m", "mergedistill"],
    "accelerate": [
        *("accelerate", "launch", "--cpu", "--num_processes=2", "--num_machines=1", "--mixed_precision=no"),
        *("--dynamo_backend=no", "--main_process_port=29612", "-m", "mergedistill"),
    ],
    "deepspeed": [
        *("deepspeed", "--num_gpus=2", "--master_port=29613", "--no_local_rank", "--module", "mergedistill"),
    ],
}  # fmt: skip


@pytest.fixture
def alone(recipe_of: Callable[..., Recipe]) -> tuple[Recipe, dict[str, torch.Tensor]]:
    """One process that accumulates what two would read at once; its signals are there for the others."""
    recipe = recipe_of(
        out="alone",
        signals="signals",
        train={**TRAIN, "arguments": {"gradient_accumulation_steps": 2, "logging_steps": 1}},
    )
    run(recipe)
    return recipe, _weights(recipe)


def _weights(recipe: Recipe) -> dict[str, torch.Tensor]:
    return load_file(stages(recipe)["train"].place / "model" / "model.safetensors")


def _log(recipe: Recipe) -> list[dict[str, float]]:
    return json.loads((stages(recipe)["train"].place / "log.json").read_text())


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_processes_are_one_that_accumulates(
    alone: tuple[Recipe, dict[str, torch.Tensor]],
    recipe_of: Callable[..., Recipe],
    tmp_path: Path,
    launcher: str,
) -> None:
    single, wanted = alone
    together = recipe_of(
        out="together", signals="signals", train={**TRAIN, "arguments": {"logging_steps": 1}}
    )

    _launched(LAUNCHERS[launcher], tmp_path / "recipe.yaml")

    _assert_alike(_weights(together), wanted)
    ours, theirs = (
        {entry["step"]: entry for entry in _log(recipe) if "loss" in entry}
        for recipe in (together, single)
    )
    for step, entry in ours.items():
        for name, value in entry.items():
            if name.startswith(("loss", "hard", "divergence", "tail", "accuracy")):
                assert value == pytest.approx(theirs[step][name], rel=1e-3), (step, name)


@pytest.mark.parametrize("stage", [1, 2])
def test_deepspeed_zero_learns_the_same(
    alone: tuple[Recipe, dict[str, torch.Tensor]],
    recipe_of: Callable[..., Recipe],
    tmp_path: Path,
    stage: int,
) -> None:
    deepspeed: dict[str, Any] = {
        "zero_optimization": {"stage": stage},
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "optimizer": {
            "type": "AdamW",
            "params": {
                "lr": "auto", "betas": "auto", "eps": "auto", "weight_decay": "auto", "torch_adam": True,
            },
        },
    }  # fmt: skip
    together = recipe_of(
        out="together",
        signals="signals",
        train={**TRAIN, "arguments": {"deepspeed": deepspeed, "logging_steps": 1}},
    )

    _launched(LAUNCHERS["torchrun"], tmp_path / "recipe.yaml")

    _assert_alike(_weights(together), alone[1])


def _assert_alike(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, weight in wanted.items():
        torch.testing.assert_close(found[name], weight, rtol=1e-3, atol=1e-4)
