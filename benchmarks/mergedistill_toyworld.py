"""What distillation is worth where the truth is known: three teachers of a toy world, one student, one recipe.

Teachers are pretrained on a world's text, students on 600 documents in each language, about a twentieth, by the text alone (alpha 0) or by text and teachers, with
runs of their own at each length, for the learning rate falls to 0 at a run's end. Held-out bits per byte stand beside the
best possible ones: those of a reader who knows the world and sees what the student sees, words masked together and the
number of their pieces. Then all are tuned on POS and judged by xeval. `--sweep` instead varies k, alpha, temperature and
tail with one seed.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from record import Recorder, parser
from students import Size, compare, judge, prepare, students, sweep
from transformers import AutoTokenizer
from transformers.utils import logging

import xeval
from mergedistill.training.held_out import held_out_texts

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
from toyworld import World, words
from toyworld_files import write_folder

LANGUAGES = ("qav", "qov", "qyr")  # the last in another script
DOCUMENTS = 200  # held out in each language, as the card reads them
FULL = Size(languages=LANGUAGES)
QUICK = replace(FULL, vocabulary=600, width=64, teacher_steps=60, student_documents=400, steps=40,
                shares=(0.5, 1.0), seeds=(0,), tuning_steps=20)  # fmt: skip
SWEPT = (
    {"distil.alpha": [0.0, 0.4, 0.7, 1.0]},
    {"distil.temperature": [1.0, 2.0]},
    {"distil.k": [8, 32, 128]},
    {"distil.tail": ["bucket", "renormalise"]},
)


def best_possible(
    world: World, language: str, texts: Sequence[str], tokenizer: Callable[..., object], length: int
) -> float:
    """Bits per byte of a reader who knows the world, under the masks of teacherzoo's definition (its points 4 to 6)."""

    @cache
    def pieces(word: str) -> int:
        return len(tokenizer(word, add_special_tokens=False).input_ids)

    bits = size = 0.0
    for text in texts:
        row, sentence = text.split(), words(text)
        last = len(row) - 1  # the final mark is stuck to the last word: both are hidden
        for hidden in hidden_words(row, pieces, length - 2):
            places = {*hidden, last + 1} if last in hidden else {*hidden}
            bits += world.oracle(language).surprisal(sentence, places, reveal=pieces).sum()
            size += sum(len(row[word].encode()) for word in hidden)
    return float(bits / size)


def hidden_words(
    row: Sequence[str], pieces: Callable[[str], int], longest: int
) -> Iterator[list[int]]:
    """The words that each pass over a document hides, each of which counts."""
    blocks: list[list[int]] = [[]]
    used = 0
    for number, word in enumerate(row):
        if blocks[-1] and used + pieces(word) > longest:
            blocks.append([])
            used = 0
        blocks[-1].append(number)
        used += pieces(word)
    for block in blocks:
        text = " ".join(row[number] for number in block)
        order = sorted(
            range(len(block)),
            key=lambda number, text=text: hashlib.sha256(f"{text}\n{number}".encode()).digest(),
        )
        for group in range(7):  # 1 / 0.15, rounded up
            if order[group::7]:
                yield [block[number] for number in order[group::7]]


def main() -> None:
    made = parser(__doc__.splitlines()[0])
    made.add_argument("--sweep", action="store_true", help="vary the recipe instead")
    made.add_argument("--seeds", type=int, default=3, help="seeds of the students")
    made.add_argument("--documents", type=int, help="that a student reads of each language")
    made.add_argument("--without-tasks", action="store_true", help="leave xeval out")
    made.add_argument("--work", type=Path, help="keep everything here; the same call goes on")
    arguments = made.parse_args()
    logging.disable_progress_bar()
    size = QUICK if arguments.quick else replace(FULL, seeds=tuple(range(arguments.seeds)))
    if arguments.documents is not None:
        size = replace(size, student_documents=arguments.documents)
    recorder = Recorder("mergedistill_toyworld", arguments)
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.work or Path(scratch)
        measure(size, folder, recorder, swept=arguments.sweep, judged=not arguments.without_tasks)
    recorder.close()


def measure(size: Size, folder: Path, recorder: Recorder, *, swept: bool, judged: bool) -> None:
    quick = size.steps < FULL.steps
    world = World(seed=0, share=0.05 if quick else 0.1, frames=10 if quick else 20)
    data = folder / "data"
    if not data.exists():
        rows = {"train": 1000, "dev": 150, "test": 300}
        write_folder(world, data, LANGUAGES, 20_000 if quick else 100_000, rows)
    recipe = prepare(size, data, folder)
    if swept:
        sweep(size, recipe, recorder, SWEPT)
        return
    outcomes = students(size, recipe)
    texts = held_out_texts(recipe, DOCUMENTS)
    tokenizers = outcomes[size.longest].students[0] / "languages"
    floors = {
        language: best_possible(
            world,
            language,
            texts[language],
            AutoTokenizer.from_pretrained(tokenizers / language),
            size.length,
        )
        for language in LANGUAGES
    }
    compare(size, outcomes, recorder, floors=floors)
    if not judged:
        return
    tuned_on = {language: language for language in LANGUAGES}
    judge(
        size, outcomes, "pos", xeval.LocalFolder(data), folder, recorder,
        tuned_on=tuned_on, metric="accuracy",
    )  # fmt: skip


if __name__ == "__main__":
    main()
