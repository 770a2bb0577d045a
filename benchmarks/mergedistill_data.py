"""What distillation is worth on real text: four languages in two scripts, teachers on all of it, students on a quarter.

Needs `--data FOLDER` in the layout that `xeval` reads: `corpora/CODE.txt.xz`, `ud/`, `ner/`, `sib200/`. Teachers and students
are as small as two cores can carry (sizes below); judged are bits per byte and masked accuracy on held-out text, and POS,
NER and topics by xeval, tuned on each language that has training data and, for the first, scored on the others. `--sweep` instead varies
k and alpha with one seed.
"""

from __future__ import annotations

import lzma
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from record import Recorder, parser
from students import Size, compare, judge, prepare, students, sweep
from transformers.utils import logging

import xeval

LANGUAGES = ("en", "de", "fi", "hi")
# What there is to tune on; the first is also scored on all others.
TUNED_ON = {
    "pos": {"en": "en_ewt"},
    "ner": {"en": "en", "fi": "fi", "hi": "hi"},
    "topic": {language: language for language in LANGUAGES},
}
METRICS = {"pos": "accuracy", "ner": "f1", "topic": "accuracy"}
FULL = Size(
    languages=LANGUAGES, vocabulary=2500, width=128, layers=2, length=32, teacher_steps=2000,
    steps=1500, shares=(1.0,), held_out_share=0.01, mask_draws=1, k=32, tuning_steps=150,
)  # fmt: skip
QUICK = replace(FULL, vocabulary=800, width=64, teacher_steps=40, steps=30, shares=(0.5, 1.0), seeds=(0,),
                tuning_steps=10)  # fmt: skip
SWEPT = ({"distil.alpha": [0.0, 0.3, 0.7, 1.0]}, {"distil.k": [2, 8]})  # k = 32 elsewhere


def main() -> None:
    made = parser(__doc__.splitlines()[0])
    made.add_argument("--sweep", action="store_true", help="vary the recipe instead")
    made.add_argument("--work", type=Path, help="keep everything here; the same call goes on")
    made.add_argument("--seeds", type=int, default=3, help="seeds of the students")
    made.add_argument("--tasks", nargs="*", default=["pos", "ner", "topic"], help="of xeval")
    arguments = made.parse_args()
    if arguments.data is None:
        sys.exit("This question needs real text: give --data FOLDER.")
    logging.disable_progress_bar()
    size = QUICK if arguments.quick else replace(FULL, seeds=tuple(range(arguments.seeds)))
    size = replace(
        size, student_documents=_a_quarter(arguments.data, most=800 if arguments.quick else None)
    )
    if arguments.sweep:
        size = replace(size, steps=size.steps // 3)
    recorder = Recorder("mergedistill_data", arguments)
    with tempfile.TemporaryDirectory() as scratch:
        measure(
            size,
            arguments.data,
            arguments.work or Path(scratch),
            recorder,
            arguments.sweep,
            arguments.tasks,
        )
    recorder.close()


def _a_quarter(data: Path, *, most: int | None) -> dict[str, int]:
    """Of the lines of each corpus."""
    lines = {
        language: lzma.decompress((data / "corpora" / f"{language}.txt.xz").read_bytes()).count(
            b"\n"
        )
        for language in LANGUAGES
    }
    return {language: min(count // 4, most or count) for language, count in lines.items()}


def measure(
    size: Size, data: Path, folder: Path, recorder: Recorder, swept: bool, tasks: list[str]
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    recipe = prepare(size, data, folder)
    if swept:
        sweep(size, recipe, recorder, SWEPT)
        return
    outcomes = students(size, recipe)
    compare(size, outcomes, recorder, floors={})
    for task in tasks:
        judge(
            size, outcomes, task, xeval.LocalFolder(data), folder, recorder,
            tuned_on=TUNED_ON[task], metric=METRICS[task],
        )  # fmt: skip


if __name__ == "__main__":
    main()
