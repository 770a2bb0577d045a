"""Every launcher starts the same command, and two processes learn what one process learns from the same blocks."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from mergedistill.recipe.read import read_recipe
from mergedistill.recipe.recipe import Recipe
from mergedistill.recipe.stages import stages
from mergedistill.run.run import run

pytestmark = pytest.mark.slow
BIN = Path(sys.executable).parent
LAUNCHERS = {
    "torchrun": ["torchrun", "--nproc-per-node=2", "--master-port=29611", "-m", "mergedistill"],
    # Its --cpu wants MPI for several processes.
    "accelerate": [
        *("accelerate", "launch", "--multi_gpu", "--num_processes=2", "--num_machines=1", "--mixed_precision=no"),
        *("--dynamo_backend=no", "--main_process_port=29613", "-m", "mergedistill"),
    ],
    # It says --local_rank to the command.
    "deepspeed": ["deepspeed", "--num_gpus=2", "--master_port=29612", "--module", "mergedistill"],
}  # fmt: skip


def _recipe(folder: Path, town: Path, name: str, **arguments: Any) -> Path:
    """A recipe whose signals the others in the folder share."""
    stated = {
        "out": name,
        "signals": "signals",
        "languages": {language: str(town / f"{language}.txt") for language in ("qav", "qag")},
        "teachers": [
            {"teacher": str(town / "wp"), "languages": ["qav"]},
            {"teacher": str(town / "foreign"), "languages": ["qag"]},
        ],
        "held_out_share": 0.05,
        "rank": {"documents": 4},
        "vocabulary": {"normalizer": "keep"},
        "student": {"layers": 1, "width": 32},
        "distil": {"block_length": 32},
        "states": {"encoder": str(town / "uni"), "languages": ["qav"]},
        "train": {
            "steps": 4,
            "tokens": 128,
            "warmup": 0,
            "checkpoint_every": 2,
            "evaluate_every": 2,
            "arguments": {"logging_steps": 1, **arguments},
        },
    }
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(stated))
    return file


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, town: Path) -> Path:
    """Here one process has accumulated what two would read at once; its signals are there for the others."""
    made = tmp_path_factory.mktemp("launched")
    run(read_recipe(_recipe(made, town, "alone", gradient_accumulation_steps=2)))
    return made


def _zero(stage: int) -> dict[str, Any]:
    options = {"lr": "auto", "betas": "auto", "eps": "auto", "weight_decay": "auto"}
    return {
        "zero_optimization": {"stage": stage},
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "optimizer": {"type": "AdamW", "params": {**options, "torch_adam": True}},
    }


@pytest.mark.parametrize(
    ("launcher", "stage"),
    [("torchrun", 0), ("preloaded", 1), ("preloaded", 2), ("accelerate", 0), ("deepspeed", 2)],
)
def test_every_launcher_learns_what_one_process_learns(
    python: str, folder: Path, town: Path, launcher: str, stage: int
) -> None:
    arguments: dict[str, Any] = {"deepspeed": _zero(stage)} if stage else {}
    file = _recipe(folder, town, f"{launcher}-{stage}", **arguments)

    # torchrun as it is typed, and quicker where the stage is tried, not the launcher.
    preloaded = [
        *(python, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=29614"),
        *("--no-python", python, "-m", "mergedistill"),
    ]
    _launch(LAUNCHERS.get(launcher, preloaded), file)

    together, alone = read_recipe(file), read_recipe(folder / "alone.yaml")
    assert (Path(together.out) / "student" / "README.md").is_file()
    wanted = _weights(alone)
    for name, weight in _weights(together).items():
        torch.testing.assert_close(weight, wanted[name], rtol=1e-3, atol=1e-4)
    told = {entry["step"]: entry for entry in _log(alone) if "loss" in entry}
    for entry in _log(together):
        if "loss" in entry:
            for name in _LEARNED & entry.keys():
                assert entry[name] == pytest.approx(told[entry["step"]][name], rel=1e-3), name


_LEARNED = {"loss"} | {
    f"{name}_{language}"
    for name in ("hard", "divergence", "tail", "accuracy", "states")
    for language in ("qav", "qag")
}


def _launch(command: list[str], file: Path) -> None:
    path = os.environ["PATH"]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
        "PATH": f"{BIN}{os.pathsep}{path}",
    }
    done = subprocess.run(
        [*command, "run", str(file)], capture_output=True, text=True, env=environment, timeout=900
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def _weights(recipe: Recipe) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = load_file(
        stages(recipe)["train"].place / "model" / "model.safetensors"
    )
    return weights


def _log(recipe: Recipe) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads(
        (stages(recipe)["train"].place / "log.json").read_text()
    )
    return entries
