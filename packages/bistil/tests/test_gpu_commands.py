"""Every command of bistil on a GPU, real or pretended: it trains there, and comes to what the CPU comes to."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from pretended_device import DEVICES, on_cpu_and_gpu
from safetensors.torch import load_file

from bistil.compare.recipe import read_comparison
from bistil.compare.run import compare
from bistil.extract.config import Extraction
from bistil.extract.run import extract
from bistil.losses.weights import PRESETS, LossWeights
from bistil.lottery.config import Sparsity
from bistil.lottery.language import LanguageTraining, language_sft
from bistil.sparse.difference import SparseFineTuning, SparseTensor
from bistil.sparse.files import read_sparse, write_sparse
from bistil.student.layers import student_of
from bistil.tasks.adapt import adapt
from bistil.tasks.task_sft import task_sft
from bistil.tasks.teacher import TaskTeacher
from bistil.tasks.training import TaskTraining
from xeval import LocalFolder, Protocol, read_results, score

# Attention drops by its configuration. Steps are few, so that differences of rounding stay small, and so is the text held out.
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
EXTRACTION = Extraction(
    steps=4,
    batch=4,
    length=16,
    learning_rate=1e-3,
    held_out_share=0.03,
    checkpoint_every=4,
    precision="float32",
)
# Plain descent: Adam would blow rounding errors of gradients that are zero up to the size of a step, and they would be chosen.
PLAIN = {"optim": "sgd"}
LANGUAGE = LanguageTraining(
    steps=3, batch=4, length=16, learning_rate=0.1, held_out_share=0.1, evaluate_every=3, checkpoint_every=3,
    bf16=False, arguments=PLAIN,
)  # fmt: skip
# With the L1 term, whose hooks are there before the parameters move.
SPARSITY = Sparsity(density=0.1, full_steps=2, l1=0.1)
TASK = TaskTraining(
    protocol=Protocol(
        steps=3, evaluate_every=3, batch_size=4, learning_rate=0.1, max_length=24, weight_decay=0.01, precision="float32"
    ),
    sparsity=SPARSITY,
    arguments=PLAIN,
)  # fmt: skip


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory, save_teacher: Callable[..., Path]) -> Path:
    return save_teacher(tmp_path_factory.mktemp("calm"), **NO_DROPOUT)


@pytest.fixture(scope="module")
def thin(tmp_path_factory: pytest.TempPathFactory, calm: Path) -> Path:
    """A student of the calm teacher."""
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("thin")
    student_of(AutoModelForMaskedLM.from_pretrained(calm), (1, 3)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(calm).save_pretrained(folder)
    return folder


def _distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Of all tensors together, as a share of the first's norm: Adam sends what has no gradient but rounding anywhere."""
    assert one.keys() == other.keys()
    mine, theirs = (
        torch.cat([part[name].float().flatten() for name in one]) for part in (one, other)
    )
    return float((mine - theirs).norm() / mine.norm())


@pytest.mark.parametrize("kind", DEVICES)
@pytest.mark.parametrize(
    ("precision", "loss", "apart"),
    [
        ("float32", PRESETS["bistil"], 2e-3),
        ("float32", LossWeights(logits=1, mlm=1, cosine=1, relations=1), 2e-3),
        ("bfloat16", PRESETS["bistil"], 8e-3),
    ],
)
def test_extract(
    kind: str,
    precision: str,
    loss: LossWeights,
    apart: float,
    calm: Path,
    texts: dict[str, Path],
    tmp_path: Path,
) -> None:
    extraction = replace(EXTRACTION, precision=precision, loss=loss)
    corpora = {language: texts[language] for language in ("en", "sw")}

    def run(out: Path) -> Path:
        return extract(calm, corpora, out, source="en", targets=["sw"], extraction=extraction)

    cpu, gpu = on_cpu_and_gpu(kind, run, tmp_path, trains=True)

    weights = [load_file(folder / "model.safetensors") for folder in (cpu, gpu)]
    exact = kind == "pretended" and precision == "float32"
    assert _distance(*weights) <= (1e-4 if exact else apart)
    logs = [json.loads((folder / "run.json").read_text())["log"] for folder in (cpu, gpu)]
    assert logs[1][0]["loss"] == pytest.approx(logs[0][0]["loss"], rel=2e-2)


@pytest.mark.parametrize("kind", DEVICES)
def test_extract_a_narrower_student_under_a_teacher_that_wears_a_language(
    kind: str, calm: Path, texts: dict[str, Path], tmp_path: Path
) -> None:
    delta = SparseTensor(shape=(32,), indices=np.array([3, 8]), values=torch.tensor([0.5, -0.5]))
    body = {"encoder.layer.1.output.dense.bias": delta}
    write_sparse(SparseFineTuning(body=body), tmp_path / "sw.safetensors")
    extraction = replace(EXTRACTION, width=16, feed_forward=24)

    def run(out: Path) -> Path:
        return extract(
            calm, {"en": texts["en"], "sw": texts["sw"]}, out, source="en", targets=["sw"],
            extraction=extraction, language_sfts={"sw": tmp_path / "sw.safetensors"},
        )  # fmt: skip

    cpu, gpu = on_cpu_and_gpu(kind, run, tmp_path, trains=True)

    held_out = [json.loads((folder / "run.json").read_text())["held_out"] for folder in (cpu, gpu)]
    for when in ("before", "after"):
        for language, terms in held_out[0][when].items():
            assert held_out[1][when][language] == pytest.approx(terms, rel=2e-2), (when, language)


def _alike(kind: str, cpu: SparseFineTuning, gpu: SparseFineTuning) -> None:
    """The same entries chosen, but for those at the threshold, and the same differences."""
    assert gpu.count == cpu.count
    cpu_dense, gpu_dense = (
        {name: delta.dense() for name, delta in tuning.body.items()} for tuning in (cpu, gpu)
    )
    assert _distance(cpu_dense, gpu_dense) <= (1e-3 if kind == "pretended" else 0.3)
    same = sum(len(set(cpu.body[name].indices) & set(gpu.body[name].indices)) for name in cpu.body)
    assert same >= (0.99 if kind == "pretended" else 0.9) * cpu.count


@pytest.mark.parametrize("kind", DEVICES)
def test_sft_of_a_language(kind: str, calm: Path, texts: dict[str, Path], tmp_path: Path) -> None:
    def run(out: Path) -> SparseFineTuning:
        language_sft(calm, texts["sw"], out, language="sw", training=LANGUAGE, sparsity=SPARSITY)
        return read_sparse(out)

    cpu, gpu = on_cpu_and_gpu(kind, run, tmp_path, trains=True)

    _alike(kind, cpu, gpu)
    assert gpu.about["held_out_loss"] == pytest.approx(cpu.about["held_out_loss"], rel=1e-3)


@pytest.mark.parametrize("kind", DEVICES)
def test_sft_of_a_task_and_adapting_under_it(
    kind: str, calm: Path, thin: Path, tasks: Path, tmp_path: Path
) -> None:
    source = LocalFolder(tasks)

    def run(folder: Path) -> tuple[SparseFineTuning, SparseFineTuning, float]:
        folder.mkdir()
        file = folder / "pos.safetensors"
        task_sft(calm, file, task="pos", source=source, language="en", training=TASK)
        teacher = TaskTeacher(model=calm, task_sft=file)
        out = adapt(
            thin, folder / "out", task="pos", source=source, language="en", teacher=teacher, training=TASK
        )  # fmt: skip
        [figure] = score(out, folder / "results.jsonl", source=source, languages=["sw"])
        assert figure.value is not None
        return read_sparse(file), read_sparse(out / "task.sft.safetensors"), figure.value

    cpu, gpu = on_cpu_and_gpu(kind, run, tmp_path, trains=True)

    _alike(kind, cpu[0], gpu[0])
    _alike(kind, cpu[1], gpu[1])
    assert gpu[2] == pytest.approx(cpu[2], abs=5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", DEVICES)
def test_compare_with_one_seed(
    kind: str, calm: Path, texts: dict[str, Path], tasks: Path, tmp_path: Path
) -> None:
    short = {"steps": 3, "full_steps": 2, "batch": 4, "evaluate_every": 3}
    stated = {
        "model": str(calm), "corpora": {code: str(file) for code, file in texts.items()}, "targets": ["sw"],
        "tasks": ["pos"], "data": str(tasks), "seeds": 1,
        "systems": ["bistil", "whole"],
        "extract": {"steps": 3, "batch": 4, "length": 16, "checkpoint_every": 3, "precision": "float32"},
        "languages": {**short, "length": 16}, "tune": {**short, "length": 24, "precision": "float32"},
    }  # fmt: skip

    def run(folder: Path) -> dict[str, float]:
        folder.mkdir()
        recipe = folder / "recipe.yaml"
        recipe.write_text(yaml.safe_dump({**stated, "out": str(folder / "run")}))
        results, _ = compare(read_comparison(recipe))
        return {row.model: row.value for row in read_results(results) if row.value is not None}

    cpu, gpu = on_cpu_and_gpu(kind, run, tmp_path, trains=True)

    assert gpu.keys() == cpu.keys() == {"bistil", "whole"}
    assert gpu == pytest.approx(cpu, abs=5)
