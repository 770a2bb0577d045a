"""vocabmerge: what a trim to 32,768 pieces leaves of a classifier, a tagger and a reranker that were tuned before it.

Needs `--model FOLDER` (multilingual-e5-small) and `--data FOLDER`. All weights are tuned, those of pieces among them, for a
few minutes: topics of SIB-200 (English and Swahili), named entities (English and Finnish; German in addition in the test), and
XQuAD's paragraphs to its questions (English and Hindi). Then the model is trimmed by the corpora of the languages, with
the texts that it was tuned on as one more language (without them with `--corpora-alone`), and both answer the same test
examples. Logits are compared bit by bit wherever an example is segmented as before, in the same batches. Tuned models stay in
`--work`, and the same call goes on from there.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from record import Recorder, parser
from transformers.utils.logging import disable_progress_bar
from trimmed_encoders import read_options, segmented_alike, size_of
from tuned_encoders import Task, answer, entities, pieces_of, reranking, topics, tune

from vocabmerge import trim

TOP = 32_768
QUICK_LINES = 200  # of each corpus; else all of them
LANGUAGES = {"topics": ("en", "sw"), "entities": ("en", "fi", "de"), "reranking": ("en", "hi")}
TASKS = {"topics": topics, "entities": entities, "reranking": reranking}
STEPS = {"topics": 200, "entities": 120, "reranking": 80}
LENGTH = {"topics": 128, "entities": 128, "reranking": 256}
LIMIT = {"topics": 204, "entities": 300, "reranking": 40}  # test examples of a language
BARS = {"topics": 0.1, "entities": 0.1}  # of points that may go
LEARNING_RATE = 1e-4
HEAD_RATES = {"topics": 1e-4, "entities": 1e-2, "reranking": 1e-4}
"""E5's states of all tokens are much alike: at the encoder's rate a tagger's head learns the share of each tag, and no more."""


def main() -> None:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--work", type=Path, help="keep tuned models here, and go on from them")
    arguments.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    arguments.add_argument("--corpora-alone", action="store_true", help="choose pieces by them")
    options = read_options(arguments)
    disable_progress_bar()
    recorder = Recorder("vocabmerge_tuned", options)
    with tempfile.TemporaryDirectory() as scratch:
        for name in options.tasks:
            task = TASKS[name](
                options.data,
                LANGUAGES[name],
                length=LENGTH[name],
                limit=4 if options.quick else LIMIT[name],
            )
            compare_trim(recorder, task, options, Path(scratch) / name)
    recorder.close()


def compare_trim(recorder: Recorder, task: Task, options: Any, scratch: Path) -> None:
    """Tune, trim and judge one model."""
    steps = 2 if options.quick else STEPS[task.name]
    tuned = (options.work or scratch) / f"{task.name}-{steps}"
    if not tuned.exists():
        rates = {"learning_rate": LEARNING_RATE, "head_rate": HEAD_RATES[task.name]}
        tune(task, options.model, tuned, steps=steps, **rates)
    lines = QUICK_LINES if options.quick else None
    texts = {
        language: options.data / "corpora" / f"{language}.txt.xz"
        for language in LANGUAGES[task.name]
    }
    if not options.corpora_alone:
        scratch.mkdir(exist_ok=True)
        texts["tuning"] = scratch / "tuning.txt"
        texts["tuning"].write_text("\n".join(task.texts()), encoding="utf-8")
    top = min(TOP, int(size_of(options.model)["pieces"]) // 2)
    trimmed = scratch / "trimmed"
    trim(tuned, texts, trimmed, top=top, lines=lines)
    tests = task.examples.test
    alike = segmented_alike(*(pieces_of(task, folder, tests) for folder in (tuned, trimmed)))
    same, changed = (np.flatnonzero(choice) for choice in (alike, ~alike))
    scores, logits = {}, {}
    for name, folder in (("whole", tuned), ("trimmed", trimmed)):
        answers: list[Any] = [None] * len(tests)
        for places in (same, changed):  # each in batches of its own
            said, batches = answer(task, folder, [tests[place] for place in places])
            for place, value in zip(places, said, strict=True):
                answers[place] = value
            logits.setdefault(name, batches)  # of the first, segmented alike
        scores[name] = task.score(answers)
    equal = sum(
        int((old == new).flatten(start_dim=1).all(dim=1).sum())
        for old, new in zip(logits["whole"], logits["trimmed"], strict=True)
    )
    shape = {
        "model": options.model.name, "languages": " ".join(LANGUAGES[task.name]), "steps": steps,
        "batch": 16, "learning rate": LEARNING_RATE, "head's rate": HEAD_RATES[task.name], "length": LENGTH[task.name], "top": top,
        "texts": " ".join(texts), "lines": lines or "all", "tests": len(tests),
    }  # fmt: skip
    record(recorder, task, scores, (equal, len(same)), shape)


def record(
    recorder: Recorder,
    task: Task,
    scores: dict[str, float],
    equality: tuple[int, int],
    shape: dict[str, object],
) -> None:
    """The score before and after, what of it went, and how many answers are the same bit for bit."""
    recorder.add(
        f"{task.name}, {task.metric}",
        {name: [score] for name, score in scores.items()},
        unit="%",
        shape=shape,
    )
    recorder.add(
        f"{task.name}, change of {task.metric}",
        {"trimmed": [abs(scores["whole"] - scores["trimmed"])]},
        unit="points",
        bar={"trimmed": BARS[task.name]} if task.name in BARS else None,
        shape=shape,
    )
    equal, alike = equality
    recorder.add(
        f"{task.name}, examples with bit-equal logits, of those segmented alike",
        {f"{equal} of {alike}": [100 * equal / max(alike, 1)]},
        unit="%",
        bar={f"{equal} of {alike}": 100.0},
        at_least=True,
        shape=shape,
    )


if __name__ == "__main__":
    main()
