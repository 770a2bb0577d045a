"""Ranking, recording and pretraining teachers on a GPU, real or pretended: it happens there, and gives the CPU's figures."""

from pathlib import Path

import numpy as np
import pytest
import torch
from pretended_device import DEVICES, on_cpu_and_gpu, on_gpu

from teacherzoo import Corpus, Signals, rank, record, verify
from teacherzoo.pretrain.config import PretrainingConfig
from teacherzoo.pretrain.pretrain import pretrain_teacher
from teacherzoo.rank.rank import Rating


@pytest.mark.parametrize("kind", DEVICES)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_recording_says_the_same_wherever_it_was_made(
    kind: str, precision: str, teacher: Path, text: Path, tmp_path: Path
) -> None:
    corpora = [Corpus("en", text, limit=40)]

    def recorded(folder: Path) -> Signals:
        record(teacher, corpora, folder, block_length=32, precision=precision)  # type: ignore[arg-type]
        return Signals(folder)

    cpu, gpu = on_cpu_and_gpu(kind, recorded, tmp_path, trains=False)

    assert len(gpu) == len(cpu)
    one, other = (signals.batch(range(len(cpu))) for signals in (cpu, gpu))
    assert torch.equal(one.input_ids, other.input_ids)
    assert torch.equal(one.labels, other.labels)
    # The k-th and the next likeliest may change places; probabilities are stored in eight bits.
    shared = np.mean([
        len(set(mine) & set(theirs)) / len(set(mine))
        for mine, theirs in zip(one.topk_ids.tolist(), other.topk_ids.tolist(), strict=True)
    ])  # fmt: skip
    assert shared > (0.99 if precision == "float32" else 0.8)
    mass = [batch.topk_logprobs.exp().sum(1).mean().item() for batch in (one, other)]
    assert mass[1] == pytest.approx(mass[0], rel=2e-2)


@pytest.mark.parametrize("kind", DEVICES)
def test_a_teacher_is_raised_on_the_gpu(kind: str, text: Path, tmp_path: Path) -> None:
    plan = PretrainingConfig(
        vocabulary=200, layers=1, width=16, heads=2, steps=4, batch=4, length=16
    )
    corpora = [Corpus("en", text, held_out_share=0.1)]

    cpu, gpu = on_cpu_and_gpu(
        kind, lambda out: pretrain_teacher(corpora, out, config=plan), tmp_path, trains=True
    )

    assert gpu.loss.keys() == {"en"}
    assert gpu.loss["en"] == pytest.approx(cpu.loss["en"], rel=2e-2)


@pytest.mark.parametrize("kind", DEVICES)
def test_teachers_are_ranked_on_the_gpu_and_its_memory_is_told(
    kind: str, teacher: Path, text: Path, tmp_path: Path
) -> None:
    corpora = [Corpus("en", text)]
    asked: list[bool] = []

    def ranked(_: Path) -> Rating:
        return rank([teacher], corpora, documents=20, watch=lambda *_: None).ratings[0]

    def noting(module: torch.nn.Module, _: object) -> None:
        if isinstance(module, torch.nn.Linear):
            asked.append(on_gpu(module))

    hook = torch.nn.modules.module.register_module_forward_pre_hook(noting)
    try:
        cpu, gpu = on_cpu_and_gpu(kind, ranked, tmp_path, trains=False)
    finally:
        hook.remove()

    assert not asked[0]
    assert asked[-1]  # the teacher that was ranked, not a copy left on the CPU
    assert gpu.bits_per_byte == pytest.approx(cpu.bits_per_byte, rel=1e-4)
    assert gpu.peak_bytes is not None
    if kind == "cuda":
        weights = sum(file.stat().st_size for file in teacher.glob("*.safetensors"))
        assert gpu.peak_bytes >= weights


@pytest.mark.parametrize("kind", DEVICES)
def test_a_recording_is_verified_on_the_gpu(
    kind: str, recording: Path, teacher: Path, tmp_path: Path
) -> None:
    cpu, gpu = on_cpu_and_gpu(
        kind, lambda _: verify(recording, teacher, rows=20), tmp_path, trains=False
    )

    assert gpu.mean_kl == pytest.approx(cpu.mean_kl, rel=1e-2, abs=1e-6)
