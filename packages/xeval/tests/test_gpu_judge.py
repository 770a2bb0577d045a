"""Tuning and scoring on a GPU, real or pretended: it happens there, and gives the CPU's figures."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pretended_device import DEVICES, on_cpu_and_gpu, on_gpu

from xeval.data.source import LocalFolder
from xeval.evaluate.score import score
from xeval.finetune.checkpoint import read_finetuned
from xeval.finetune.tune import tune
from xeval.progress import no_progress
from xeval.protocol import Protocol
from xeval.sentences.reranker import open_reranker
from xeval.sentences.vectors import open_vectors
from xeval.task_templates.task import FineTunedTask
from xeval.tasks import TASKS

BRIEF = Protocol(
    learning_rate=1e-3, batch_size=8, steps=4, evaluate_every=4, max_length=32, precision="float32"
)
TUNED = [name for name, task in TASKS.items() if isinstance(task, FineTunedTask)]


def _tuned_and_scored(
    kind: str,
    models: Callable[[str], Path],
    data: Path,
    folder: Path,
    task: str,
    protocol: Protocol,
) -> tuple[dict[str, float], dict[str, float]]:
    """The figures of both test sets and the development set, on the CPU and on the GPU."""

    def run(path: Path) -> dict[str, float]:
        source = LocalFolder(data, path / "cache")
        record = tune(
            models("modern"), path / "tuned", task=task, source=source, language="xx", protocol=protocol
        )  # fmt: skip
        opened = read_finetuned(path / "tuned")
        assert on_gpu(opened.model) == torch.cuda.is_available()
        results = score(path / "tuned", path / "r.jsonl", source=source, languages=["xx", "yy"])
        figures = {f"{r.language} {r.metric}": r.value for r in results if r.value is not None}
        return figures | record["dev"]

    return on_cpu_and_gpu(kind, run, folder, trains=True)


@pytest.mark.parametrize("kind", DEVICES)
@pytest.mark.parametrize("task", ["pos", "dp", "qa"])
def test_tuned_and_scored_on_the_gpu_as_on_the_cpu(
    kind: str, task: str, models: Callable[[str], Path], more_data: Path, tmp_path: Path
) -> None:
    cpu, gpu = _tuned_and_scored(kind, models, more_data, tmp_path, task, BRIEF)

    assert gpu == pytest.approx(cpu, abs=1e-6 if kind == "pretended" else 5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", DEVICES)
@pytest.mark.parametrize("task", [name for name in TUNED if name not in ("pos", "dp", "qa")])
def test_every_other_task_is_tuned_and_scored_on_the_gpu_as_on_the_cpu(
    kind: str, task: str, models: Callable[[str], Path], more_data: Path, tmp_path: Path
) -> None:
    cpu, gpu = _tuned_and_scored(kind, models, more_data, tmp_path, task, BRIEF)

    assert gpu == pytest.approx(cpu, abs=1e-6 if kind == "pretended" else 8)


@pytest.mark.parametrize("kind", DEVICES)
@pytest.mark.parametrize(("task", "language"), [("bpb", "xx"), ("bitext", "yy")])
def test_a_model_is_asked_as_it_is_on_the_gpu_as_on_the_cpu(
    kind: str,
    task: str,
    language: str,
    models: Callable[[str], Path],
    more_data: Path,
    tmp_path: Path,
) -> None:
    def run(path: Path) -> dict[str, float]:
        results = score(
            models("bert"), path.with_suffix(".jsonl"), source=LocalFolder(more_data), languages=[language], task=task
        )  # fmt: skip
        return {r.metric: r.value for r in results if r.value is not None}

    cpu, gpu = on_cpu_and_gpu(kind, run, tmp_path, trains=False)

    assert cpu
    assert gpu == pytest.approx(cpu, rel=1e-3)


@pytest.mark.parametrize("kind", DEVICES)
def test_sentence_encoders_and_rerankers_are_asked_on_the_gpu_as_on_the_cpu(
    kind: str, sentence_encoder: Path, reranker: Path, text: list[str], tmp_path: Path
) -> None:
    def run(_path: Path) -> list[float]:
        encoder = open_vectors(str(sentence_encoder), Protocol())
        asked, _ = encoder.encode(text[:6], "query", no_progress, "")
        known, _ = encoder.encode(text[6:20], "document", no_progress, "")
        scores, _ = open_reranker(str(reranker), Protocol()).score(
            text[:2], [text[6:10], text[10:13]], no_progress, ""
        )
        return [*encoder.similarity(asked, known).ravel(), *scores[0], *scores[1]]

    cpu, gpu = on_cpu_and_gpu(kind, run, tmp_path, trains=False)

    assert len(cpu) == 6 * 14 + 7
    assert gpu == pytest.approx(cpu, abs=1e-3)
