"""How soon is phase 1 where it will end? A student's bitext and topics after every hundred steps, beside its own end.

Needs `--model FOLDER`, a sentence encoder, and `--data FOLDER` in the layout that `xeval` reads. A student of source and target
is extracted once, its checkpoints are judged as it is: bitext both ways, topics by a linear probe, and the cosine of its vectors to the whole
model's on held-out lines. 95 % of what phase 1 gains over the copied layers is wanted after 500 steps.

    python benchmarks/bistil_phase1.py --model FOLDER --data FOLDER --target de --steps 800
"""

from __future__ import annotations

import shutil
import tempfile
from argparse import ArgumentParser, Namespace
from pathlib import Path
from statistics import mean

import numpy as np
from bistil_real import SOURCE, texts_of
from record import Recorder, parser
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from transformers.utils.logging import disable_progress_bar

import xeval
from bistil import Extraction, extract
from teacherzoo.cache import work_dir
from vocabmerge import trim

WEIGHTS = "model.safetensors"
TASKS = ("bitext", "topic_probe")
LINES = 300  # held out of the text, for cosines


def main() -> None:
    """Extract with checkpoints, judge each, record the curve."""
    options = _options().parse_args()
    disable_progress_bar()
    steps, every = (4, 2) if options.quick else (options.steps, options.every)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.work or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        texts = texts_of(
            options.data, folder, (SOURCE, options.target), 1000 if options.quick else 20_000
        )
        whole = folder / f"whole-{options.target}"
        if not whole.exists():
            trim(options.model, texts, whole, lines=None)
        students = students_by_step(whole, texts, folder, options.target, steps, every)
        curve = {
            step: scores_of(student, whole, texts, options) for step, student in students.items()
        }
    recorder = Recorder("bistil_phase1", options)
    start, end = curve[0], curve[steps]
    for name in end:
        gained = {
            str(step): [100 * (scores[name] - start[name]) / (end[name] - start[name])]
            for step, scores in curve.items()
        }
        recorder.add(
            f"{name}, {SOURCE}-{options.target}, share of what phase 1 gains", gained, unit="%", at_least=True,
            bar={"500": 95.0} if "500" in gained else None,
            shape={"steps": steps, "from": round(start[name], 3), "to": round(end[name], 3)},
        )  # fmt: skip
    recorder.close()


def _options() -> ArgumentParser:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--target", default="de")
    arguments.add_argument("--steps", type=int, default=800)
    arguments.add_argument("--every", type=int, default=100, help="steps between figures")
    arguments.add_argument("--work", type=Path, help="keep what is made here, and go on from it")
    return arguments


def students_by_step(
    whole: Path, texts: dict[str, str], folder: Path, target: str, steps: int, every: int
) -> dict[int, Path]:
    """The student after each so many steps, 0 included, in folders of their own."""
    kept = folder / f"steps-{target}-{steps}"
    out = kept / str(steps)

    def keep(done: int, _total: int, what: str) -> None:
        """Checkpoints go when the run ends."""
        if what.startswith("evaluated after"):
            for checkpoint in (work_dir(out) / "checkpoints").glob("checkpoint-*"):
                weights = kept / f"{checkpoint.name.removeprefix('checkpoint-')}.safetensors"
                shutil.copy(checkpoint / WEIGHTS, weights)
        elif done % every == 0:
            print(done, what, flush=True)

    kept.mkdir(exist_ok=True)
    plan = Extraction(
        steps=steps, batch=16, length=64, checkpoint_every=every, keep_vocabulary=True, arguments={"save_total_limit": steps}
    )  # fmt: skip
    if not out.exists():
        extract(whole, texts, out, source=SOURCE, targets=[target], extraction=plan, watch=keep)
    if not (kept / "0").exists():
        untrained = Extraction(steps=0, keep_vocabulary=True)
        extract(whole, texts, kept / "0", source=SOURCE, targets=[target], extraction=untrained)
    students = {0: kept / "0", steps: out}
    for weights in kept.glob("*.safetensors"):
        if (step := int(weights.stem)) != steps:
            students[step] = _with_weights(out, weights, kept / weights.stem)
    return dict(sorted(students.items()))


def _with_weights(student: Path, weights: Path, folder: Path) -> Path:
    """A copy of a student's folder with the weights of a checkpoint, whose names say where in the training's model they lie."""
    if not folder.exists():
        shutil.copytree(student, folder)
        trained = load_file(weights)
        tensors = {
            name: next((value for key, value in trained.items() if key.endswith(f".{name}")), tensor).contiguous()
            for name, tensor in load_file(student / WEIGHTS).items()
        }  # fmt: skip
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    return folder


def scores_of(
    student: Path, whole: Path, texts: dict[str, str], options: Namespace
) -> dict[str, float]:
    """Name to score: accuracies in percent, and cosines to the whole model's vectors of the last lines of both texts."""
    target, data = options.target, options.data
    with tempfile.TemporaryDirectory() as folder:
        scores = {}
        for task in TASKS:
            rows = xeval.score(
                student, Path(folder) / "scores.jsonl", source=xeval.open_source(str(data)), languages=[target], task=task, language=SOURCE
            )  # fmt: skip
            first = xeval.task_of(task).metrics[0]
            scores[task] = mean(
                row.value for row in rows if row.metric == first and row.value is not None
            )
    lines = [
        line
        for text in texts.values()
        for line in Path(text).read_text(encoding="utf-8").splitlines()[-LINES:]
    ]
    here, there = (
        np.asarray(SentenceTransformer(str(model)).encode(lines, normalize_embeddings=True, show_progress_bar=False))
        for model in (student, whole)
    )  # fmt: skip
    return scores | {"cosine": float((here * there).sum(1).mean())}


if __name__ == "__main__":
    main()
