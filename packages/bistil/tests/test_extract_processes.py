"""The same extraction in one process, in two, with its optimiser cut up by DeepSpeed, and with its teacher cut up."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.slow


def _run(
    python: str,
    teacher: Path,
    texts: dict[str, Path],
    out: Path,
    *options: str,
    processes: int,
    **arguments: Any,
) -> dict[str, torch.Tensor]:
    settings = out.with_suffix(".json")
    # Plain descent: Adam would blow rounding errors of gradients that are zero up to the size of a step.
    settings.write_text(json.dumps({"optim": "sgd", "max_grad_norm": 0.5, **arguments}))
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes), "--no-python", python]  # fmt: skip
    done = subprocess.run(
        [
            python, *(launcher if processes > 1 else []), "-m", "bistil", "extract", str(teacher),
            "--source", "en", "--target", "sw", "--corpus", f"en={texts['en']}", "--corpus", f"sw={texts['sw']}",
            "-o", str(out), "--precision", "float32", "--steps", "4", "--batch", "2", "--length", "32", "--learning-rate", "0.2",
            "--term", "mlm=0.3", "--trainer", str(settings), *options,
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"},
        capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return load_file(out / "model.safetensors")


@pytest.fixture(scope="module")
def alone_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("alone") / "out"


@pytest.fixture(scope="module")
def alone(
    python: str, teacher: Path, texts: dict[str, Path], alone_in: Path
) -> dict[str, torch.Tensor]:
    """One process that takes two batches a step."""
    return _run(python, teacher, texts, alone_in, processes=1, gradient_accumulation_steps=2)


def _same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], teacher: Path) -> None:
    moved = 0.0
    before = load_file(teacher / "model.safetensors")
    for name, its in expected.items():
        torch.testing.assert_close(found[name], its, rtol=1e-4, atol=1e-5)
        if name in before and before[name].shape == its.shape:
            moved = max(moved, float((before[name] - its).abs().max()))
    assert moved > 1e-3  # something was learned


def test_two_processes_do_what_one_does_and_log_what_it_logs(
    alone: dict[str, torch.Tensor],
    alone_in: Path,
    python: str,
    teacher: Path,
    texts: dict[str, Path],
    tmp_path: Path,
) -> None:
    found = _run(python, teacher, texts, tmp_path / "out", processes=2)

    _same(found, alone, teacher)
    logged, expected = (json.loads((folder / "run.json").read_text())["log"] for folder in (tmp_path / "out", alone_in))  # fmt: skip
    for entry, other in zip(logged, expected, strict=True):
        # Over the batches of all processes.
        for name in ("attention_en", "hidden_sw", "mlm_sw", "loss"):
            assert entry[name] == pytest.approx(other[name], rel=1e-3), name


def test_zero_2_does_what_one_process_does(
    alone: dict[str, torch.Tensor],
    python: str,
    teacher: Path,
    texts: dict[str, Path],
    tmp_path: Path,
) -> None:
    pytest.importorskip("deepspeed", reason="the extra 'deepspeed' is not installed")
    settings = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {"stage": 2},
    }

    found = _run(python, teacher, texts, tmp_path / "out", processes=2, deepspeed=settings)

    _same(found, alone, teacher)


def test_a_teacher_in_shares_teaches_the_same(
    alone: dict[str, torch.Tensor],
    python: str,
    teacher: Path,
    texts: dict[str, Path],
    tmp_path: Path,
) -> None:
    pytest.importorskip("deepspeed", reason="the extra 'deepspeed' is not installed")

    found = _run(python, teacher, texts, tmp_path / "out", "--offload", "cpu", processes=2)

    _same(found, alone, teacher)
