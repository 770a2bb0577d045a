"""What distillation is worth where the truth is known: three teachers of a toy world, one student, one recipe.

Teachers are raised on a world's text, students on a part of it, by the text alone (alpha 0) or by text and teachers, with
runs of their own at each length, for the learning rate falls to 0 at a run's end. Held-out bits per byte stand beside the
best possible ones: those of a reader who knows the world and sees what the student sees, words masked together and the
number of their pieces. Then all are tuned on POS of one language and judged on every one by xeval (`--sweep` instead
varies k, alpha and temperature with one seed).
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

from record import Recorder, parser
from transformers import AutoTokenizer

import xeval
from mergedistill.ablate import Outcome, Variant, ablate, grid, mean_and_interval
from mergedistill.held_out import held_out_texts
from mergedistill.recipe import Recipe
from teacherzoo import Corpus, raise_teacher
from teacherzoo.nursery import Upbringing

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
from toyworld import World, words
from toyworld_files import write_folder

LANGUAGES = ("qav", "qov", "qyr")  # the last in another script
DOCUMENTS = 200  # held out in each language, as the card reads them


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large the world, the teachers and the student are."""

    share: float = 0.2
    frames: int = 30
    words: int = 120_000
    vocabulary: int = 1000
    width: int = 96
    layers: int = 2
    teacher_steps: int = 700
    student_documents: int = 3000
    steps: int = 600
    lengths: tuple[float, ...] = (0.4, 0.6, 1.0)
    learning_rate: float = 2e-3
    alpha: float = 0.7
    temperature: float = 1.0
    k: int = 8
    draws: int = 2
    seeds: tuple[int, ...] = (0, 1, 2)
    tuning_steps: int = 200


QUICK = Size(words=20_000, frames=20, share=0.1, vocabulary=600, width=64, layers=2, teacher_steps=60,
    student_documents=400, steps=40, seeds=(0,), tuning_steps=20)  # fmt: skip


def prepare(size: Size, folder: Path) -> tuple[World, Recipe]:
    """The world's text and teachers, made where they are missing, and the recipe of the student."""
    world = World(seed=0, frames=size.frames, share=size.share)
    data = folder / "data"
    if not data.exists():
        rows = {"train": 1000, "dev": 150, "test": 300}
        write_folder(world, data, LANGUAGES, size.words, rows)
    for language in LANGUAGES:
        if not (folder / language).exists():
            corpus = Corpus(language, data / "corpora" / f"{language}.txt.xz", held_out_share=0.02)
            upbringing = Upbringing(
                vocabulary=size.vocabulary, layers=size.layers, width=size.width, steps=size.teacher_steps,
                batch=64, length=32,
            )  # fmt: skip
            raised = raise_teacher([corpus], folder / language, upbringing=upbringing)
            print(f"raised {language} in {raised.seconds:.0f} s", raised.accuracy, flush=True)
    return world, Recipe.model_validate(
        {
            "out": str(folder / "run"),
            "languages": {
                code: {
                    "corpus": str(data / "corpora" / f"{code}.txt.xz"),
                    "limit": size.student_documents,
                }
                for code in LANGUAGES
            },
            "teachers": [
                {"teacher": str(folder / code), "languages": [code]} for code in LANGUAGES
            ],
            "held_out_share": 0.02,
            "vocabulary": {"normalizer": "keep"},
            "student": {"layers": size.layers, "width": size.width},
            "distil": {
                "alpha": size.alpha,
                "temperature": size.temperature,
                "k": size.k,
                "draws": size.draws,
                "block_length": 32,
            },
            "train": {
                "steps": size.steps,
                "tokens": 64 * 32,
                "learning_rate": size.learning_rate,
                "checkpoint_every": 10**6,
                "arguments": {"bf16": True},
            },
        }
    )


def share_to_reach(shares: Sequence[float], figures: Sequence[float], wanted: float) -> float:
    """Where the line through (share of the steps, figure) first comes up to `wanted`; infinite where it does not."""
    points = sorted(zip(shares, figures, strict=True))
    if points[0][1] >= wanted:
        return points[0][0]
    for (before, low), (after, high) in pairwise(points):
        if high >= wanted:
            return before + (after - before) * (wanted - low) / (high - low)
    return math.inf


def floor(
    world: World, language: str, texts: Sequence[str], tokenizer: object, length: int
) -> float:
    """Bits per byte of the best possible reader, under the masks of teacherzoo's definition (its points 4 to 6)."""

    @cache
    def pieces(word: str) -> int:
        return len(tokenizer(word, add_special_tokens=False).input_ids)

    bits = size = 0.0
    for text in texts:
        for hidden in hidden_words(text.split(), pieces, length - 2):
            sentence = words(text)
            # The last word has the final mark stuck to it: both are hidden.
            last = len(sentence) - 2
            places = {
                place for word in hidden for place in ((word,) if word < last else (last, last + 1))
            }
            bits += world.oracle(language).surprisal(sentence, places, reveal=pieces).sum()
            size += sum(len(text.split()[word].encode()) for word in hidden)
    return bits / size


def hidden_words(row: Sequence[str], pieces: object, room: int) -> Iterator[list[int]]:
    """The words that each pass over a document hides."""
    blocks, used = [[]], 0
    for number, word in enumerate(row):
        if blocks[-1] and used + pieces(word) > room:
            blocks.append([])
            used = 0
        blocks[-1].append(number)
        used += pieces(word)
    for block in blocks:
        text = " ".join(row[number] for number in block)
        order = sorted(
            range(len(block)),
            key=lambda number: hashlib.sha256(f"{text}\n{number}".encode()).digest(),
        )
        for group in range(7):  # 1 / 0.15, rounded up
            if order[group::7]:
                yield [block[number] for number in order[group::7]]


def compare(size: Size, recipe: Recipe, world: World, recorder: Recorder) -> dict[str, Outcome]:
    """Students of every length, their figures beside teacher and floor, and how soon one reaches the other."""
    variants = [Variant(name="mlm only", changes={"distil.alpha": 0.0})]
    variants += [
        Variant(name=f"distilled x{share:g}", changes={"train.steps": round(share * size.steps)})
        for share in size.lengths
    ]
    made = ablate(recipe, variants, seeds=size.seeds, watch=tell)
    outcomes = {outcome.variant.name: outcome for outcome in made}
    plain, last = outcomes["mlm only"], outcomes[variants[-1].name]
    student = last.students[0]
    held_out = json.loads((student / "run.json").read_text())["held_out"]
    texts = held_out_texts(recipe, DOCUMENTS)
    for language in LANGUAGES:
        tokenizer = AutoTokenizer.from_pretrained(student / "languages" / language)
        best = floor(world, language, texts[language], tokenizer, recipe.distil.block_length)
        bits = {name: outcome.bits_per_byte[language] for name, outcome in outcomes.items()}
        bits |= {"teacher": [held_out[language]["teacher"]], "best possible": [best]}
        accuracy = {name: outcome.accuracy[language] for name, outcome in outcomes.items()}
        accuracy |= {"teacher": [held_out[language]["teacher_accuracy"]]}
        shape = {"language": language, "steps": size.steps, "seeds": len(size.seeds)}
        recorder.add("held-out bits per byte", bits, unit="b/B", shape=shape)
        recorder.add("held-out masked accuracy", accuracy, unit="", shape=shape)
        left = [
            (b - best) / (a - best)
            for a, b in zip(bits["mlm only"], bits[last.variant.name], strict=True)
        ]
        recorder.add(
            "distance from the best possible, as a share of the MLM-only student's",
            {"distilled": left}, unit="", bar={"distilled": 1.0}, shape=shape,
        )  # fmt: skip
        for name, values in bits.items():
            print(
                f"{language} {name:<16} {interval(values)} b/B   {interval(accuracy.get(name, []), 100)} %"
            )
    for what, part, sign, bar in (
        ("masked accuracy", "accuracy", 1, 0.6),
        ("bits per byte", "bits_per_byte", -1, 0.7),
    ):
        shares = [
            share_to_reach(
                size.lengths,
                [
                    sign * mean_of_languages(outcomes[f"distilled x{share:g}"], part, number)
                    for share in size.lengths
                ],
                sign * mean_of_languages(plain, part, number),
            )
            for number in range(len(size.seeds))
        ]
        print(f"share of the steps to the MLM-only student's final {what}: {interval(shares)}")
        recorder.add(
            f"share of the steps to the MLM-only student's final {what}, mean over languages",
            {"distilled": shares}, unit="", bar={"distilled": bar},
            shape={"steps": size.steps, "lengths": " ".join(map(str, size.lengths))},
        )  # fmt: skip
    return outcomes


def mean_of_languages(outcome: Outcome, part: str, number: int) -> float:
    figures = getattr(outcome, part)
    return sum(its[number] for its in figures.values()) / len(figures)


def interval(values: Sequence[float], scale: float = 1.0) -> str:
    if not values:
        return "-"
    mean, half = mean_and_interval(values)
    return f"{scale * mean:.3f}" + ("" if math.isnan(half) else f" ± {scale * half:.3f}")


def judge(size: Size, outcomes: dict[str, Outcome], folder: Path, recorder: Recorder) -> None:
    """POS: each language tuned on itself, by students and teacher; then tuned on the first alone."""
    longest = f"distilled x{size.lengths[-1]:g}"
    students = {
        "mlm only": outcomes["mlm only"].students[0],
        "distilled": outcomes[longest].students[0],
    }
    protocol = xeval.Protocol(
        steps=size.tuning_steps, evaluate_every=max(1, size.tuning_steps // 4), learning_rate=5e-4
    )
    source = xeval.LocalFolder(folder / "data")
    found: dict[tuple[str, str, str], float] = {}
    for language in LANGUAGES:
        models = {**students, "teacher": folder / language}
        for name, model in models.items():
            for result in xeval.run(
                [model], folder / "results.jsonl", tasks=["pos"], source=source, language=language,
                languages=LANGUAGES, protocol=protocol, work=folder / "tuned" / name,
            ):  # fmt: skip
                if result.metric == "accuracy":
                    found[name, language, result.language] = 100 * result.value
    for language in LANGUAGES:
        recorder.add(
            "POS accuracy, tuned on the language itself",
            {name: [found[name, language, language]] for name in (*students, "teacher")},
            unit="%", floor="teacher", bar={"distilled": 0.95}, at_least=True, shape={"language": language},
        )  # fmt: skip
        if language != LANGUAGES[0]:
            recorder.add(
                f"POS accuracy, tuned on {LANGUAGES[0]} alone",
                {**{name: [found[name, LANGUAGES[0], language]] for name in students},
                 f"teacher of {LANGUAGES[0]}": [found["teacher", LANGUAGES[0], language]]},
                unit="%", shape={"language": language},
            )  # fmt: skip


def sweep(size: Size, recipe: Recipe, recorder: Recorder) -> None:
    """One seed: alpha, temperature and k around the recipe's own."""
    for over in (
        {"distil.alpha": [0.0, 0.3, 0.5, 0.7, 0.9, 1.0]},
        {"distil.temperature": [1.0, 2.0]},
        {"distil.k": [2, 4, 8, 32]},
        {"distil.tail": ["bucket", "renormalise"]},
    ):
        made = ablate(recipe, grid(over), seeds=(0,), watch=tell)
        (key,) = over
        shape = {"varied": key, "steps": size.steps}
        for part, unit in (("bits_per_byte", "b/B"), ("accuracy", "")):
            figures = {its.variant.name: [mean_of_languages(its, part, 0)] for its in made}
            recorder.add(
                f"{part.replace('_', ' ')}, mean over languages", figures, unit=unit, shape=shape
            )


_told: set[str] = set()


def tell(*report: object) -> None:
    """Only that the next run has begun."""
    what = str(report[-1])
    run = what.partition(": ")[0] + what.partition(": ")[2].partition(":")[0]
    if run not in _told:
        _told.add(run)
        print(f"  {run}", file=sys.stderr, flush=True)


def main() -> None:
    made = parser(__doc__.splitlines()[0])
    made.add_argument("--sweep", action="store_true", help="vary k, alpha and temperature instead")
    made.add_argument("--work", type=Path, help="keep everything here; the same call goes on")
    arguments = made.parse_args()
    size = QUICK if arguments.quick else Size()
    recorder = Recorder("mergedistill_toyworld", arguments)
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.work or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        world, recipe = prepare(size, folder)
        if arguments.sweep:
            sweep(size, recipe, recorder)
        else:
            judge(size, compare(size, recipe, world, recorder), folder, recorder)
    recorder.close()


if __name__ == "__main__":
    main()
