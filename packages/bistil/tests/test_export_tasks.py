"""Tasks whose answers are more than labels: spans, trees and choices, as graphs and as programs."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bistil.export.run import export
from xeval.data.source import LocalFolder
from xeval.evaluate.score import score
from xeval.finetune.checkpoint import predict, read_finetuned
from xeval.finetune.tune import tune
from xeval.protocol import Protocol
from xeval.tasks import task_of

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

TASKS = {
    "dp": {"arcs": ["sentences", "words", "heads"], "relations": ["sentences", "words", "heads", "labels"]},
    "qa": {"start": ["batch", "sequence"], "end": ["batch", "sequence"]},
    "choice": {"score": ["batch"]},
}  # fmt: skip


@pytest.fixture(scope="module")
def tuned(
    teacher: Path, tasks: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    top = tmp_path_factory.mktemp("tuned")

    def make(task: str, *, pooling: Any = "first") -> Path:
        out = top / f"{task}-{pooling}"
        if not out.exists():
            tune(
                str(teacher), out, task=task, source=LocalFolder(tasks, top / "cache"), language="en",
                protocol=Protocol(learning_rate=3e-3, batch_size=8, steps=20, evaluate_every=20, max_length=40, pooling=pooling),
            )  # fmt: skip
        return out

    return make


@pytest.fixture(scope="module")
def served(
    tuned: Callable[..., Path], tasks: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """Exported, and judged on the test sets of the task."""
    top = tmp_path_factory.mktemp("served")

    def make(task: str) -> Path:
        if not (top / task).exists():
            export(tuned(task), top / task, source=LocalFolder(tasks, top / "cache"), bound=100)
        return top / task

    return make


def _exact(served: Path, out: Path) -> Path:
    """The same folder, with the float32 graph in the place of the one in eight bits, so that answers are torch's."""
    shutil.copytree(served, out)
    shutil.copy(out / "onnx/model.onnx", out / "onnx/model_quantized.onnx")
    return out


def _program_prints(folder: Path, old: str, new: str) -> list[str]:
    program = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    assert old in program
    done = subprocess.run(
        [sys.executable, "-c", "import sys; sys.modules['torch'] = None\n" + program.replace(old, new)],
        cwd=folder, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def _judged(tuned: Path, task: str, examples: list[Any]) -> list[Any]:
    """What torch answers, by the judge's own decoding."""
    its, opened = task_of(task), read_finetuned(tuned)
    encoded, _ = its.encode(opened.pieces, examples, opened.labels)
    return predict(opened.model, its, encoded, labels=opened.labels, pad_id=opened.pieces.pad_id)


@pytest.mark.parametrize("task", TASKS)
def test_the_judge_scores_the_graph_as_it_scores_torch(
    task: str, tuned: Callable[..., Path], served: Callable[[str], Path], tasks: Path, tmp_path: Path
) -> None:  # fmt: skip
    about = json.loads((served(task) / "export.json").read_text())

    judged = score(tuned(task), tmp_path / "results.jsonl", source=LocalFolder(tasks, tmp_path / "cache"))  # fmt: skip

    assert about["outputs"] == TASKS[task]
    assert about["float32_difference"] <= 1e-4
    assert about["int8_difference"] > 0
    assert about["bytes"]["onnx/model_quantized.onnx"] < about["bytes"]["onnx/model.onnx"]
    exact = {(figure.dataset, figure.metric): figure.value for figure in judged}
    assert {place.rpartition("/")[2].partition("_")[0] for place, _ in exact} == {"en", "sw"}
    assert {(drop["place"], drop["measure"]): drop["float32"] for drop in about["drops"]} == pytest.approx(exact)  # fmt: skip


@pytest.mark.slow
def test_a_parser_that_reads_the_mean_of_a_words_pieces_is_exported(
    tuned: Callable[..., Path], tasks: Path, tmp_path: Path
) -> None:
    model = tuned("dp", pooling="mean")

    source = LocalFolder(tasks, tmp_path / "cache")
    exported = export(model, tmp_path / "out", source=source, bound=100)

    judged = score(model, tmp_path / "results.jsonl", source=source)
    assert exported.float32_difference <= 1e-4
    assert [drop.float32 for drop in exported.drops] == pytest.approx([figure.value for figure in judged])  # fmt: skip


def test_the_program_in_the_readme_parses_as_the_judge_does(
    tuned: Callable[..., Path], served: Callable[[str], Path], tasks: Path, tmp_path: Path
) -> None:
    source = LocalFolder(tasks, tmp_path / "cache")
    task = task_of("dp")
    [data_set] = [one for one in source.data_sets(task) if one.language == "sw"]
    examples = source.read(task, data_set, "test")[:12]
    words = [list(example.words) for example in examples]
    shown = '[["This", "is", "one", "sentence", "."], ["And", "this", "is", "another", "."]]'

    told = _program_prints(_exact(served("dp"), tmp_path / "exact"), shown, repr(words))

    expected = []
    for example, (heads, relations) in zip(examples, _judged(tuned("dp"), "dp", examples), strict=True):  # fmt: skip
        rows = zip(example.words, heads, relations, strict=True)
        expected += [f"{number}\t{word}\t{head}\t{relation}" for number, (word, head, relation) in enumerate(rows, 1)]  # fmt: skip
        expected.append("")
    assert told == expected


def test_the_program_in_the_readme_answers_as_the_judge_does(
    tuned: Callable[..., Path], served: Callable[[str], Path], tasks: Path, tmp_path: Path
) -> None:
    source = LocalFolder(tasks, tmp_path / "cache")
    task = task_of("qa")
    [data_set] = [one for one in source.data_sets(task) if one.language == "en"]
    examples = source.read(task, data_set, "test")[:12]
    asked = [(example.question, example.context) for example in examples]
    shown = '[("Where does the cat sleep?", "The cat sleeps in the house."), ("Who sleeps?", "The cat sleeps.")]'

    told = _program_prints(_exact(served("qa"), tmp_path / "exact"), shown, repr(asked))

    answers = _judged(tuned("qa"), "qa", examples)
    assert told == [f"{example.question}\t{answer}" for example, answer in zip(examples, answers, strict=True)]  # fmt: skip


def test_a_question_that_is_too_long_is_refused_by_a_program_that_has_answered_others(
    served: Callable[[str], Path],
) -> None:
    program = """
from serve import Reader

reader = Reader()
print(len(reader.answer("a b", "a b a")) > 0)
try:
    reader.answer("a b " * 100, "a b a")
except ValueError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=served("qa"), capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    answered, refused = done.stdout.splitlines()
    assert answered == "True"
    assert refused.startswith("the question has 202 tokens, more than half of the 40")


def test_the_program_in_the_readme_chooses_as_the_judge_does(
    tuned: Callable[..., Path], served: Callable[[str], Path], tasks: Path, tmp_path: Path
) -> None:
    source = LocalFolder(tasks, tmp_path / "cache")
    task = task_of("choice")
    [data_set] = [one for one in source.data_sets(task) if one.language == "en"]
    folder = _exact(served("choice"), tmp_path / "exact")
    examples = source.read(task, data_set, "test")[:2]
    shown = '"The cat sleeps in the house.", "Where is the cat?", ["in the house", "in the river"]'

    told = [
        _program_prints(folder, shown, repr((one.passage, one.question, list(one.options)))[1:-1])
        for one in examples
    ]

    places = _judged(tuned("choice"), "choice", examples)
    assert told == [[one.options[place]] for one, place in zip(examples, places, strict=True)]
