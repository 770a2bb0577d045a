"""What is best kept of a teacher: its likeliest ids with the mass of all others, or ids drawn from its whole distribution?

Needs `--data FOLDER` with `corpora/LANGUAGE.txt.xz`. A small masked LM is pretrained on a corpus, and students, smaller ones with its
vocabulary, on a quarter of its lines. The students of a seed have the same start, batches, masks, steps, alpha and temperature (1); they
differ in what they hear of the teacher's distribution p at a masked position, their own being q:

- `online`: all of p in each step, KL(p ‖ q); nobody can hear more, and the goal is to come within 1 % of it in bits per byte;
- `top k, tail`: the k likeliest ids and the mass of all others, KL over k + 1 classes;
- `top k, renormalised`: p_i / Σ p over the k ids, as if there were no others;
- `D drawn`: ids drawn with replacement (Anshumann et al. 2025), each of weight w_i = count_i / D: Σ w_i (log w_i - log q_i). As E[w] = p, its
  gradient by the student's logits, q - w, has in the mean over draws that of `online`, q - p;
- `mlm only`: nothing.

Drawn are 12 ids, and as many as take the bytes of k=8 and of k=32. Held-out text judges by bits per byte; by masked accuracy, the share
of masked pieces put first; and by calibration at the same M positions, with c the highest probability and hit 1 where that piece is right: the
expected calibration error Σ_b |Σ_{i in b} (hit_i - c_i)| / M over 15 bins b of as many positions each, in order of c (Guo et al. 2017), and
overconfidence, mean c less accuracy.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import sys
import tempfile
import time
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray
from record import Recorder, parser

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from students import interval, undisturbed
from transformers.utils import logging

from mergedistill.recipe.read import altered
from mergedistill.recipe.recipe import Recipe
from mergedistill.recipe.stages import recording_folder
from mergedistill.run.ablate import Variant, ablate
from mergedistill.run.run import run
from teacherzoo import (
    Corpus,
    Masking,
    PretrainingConfig,
    Signals,
    load_teacher,
    pretrain_teacher,
    record,
    stats,
)
from teacherzoo.atomic_write import written_whole
from teacherzoo.rank.bits_per_byte import bits_per_byte

ONLINE = "online"
WITHIN = 1.01  # of its bits per byte
MOST_BYTES = 30.0
BINS = 15
MOST_DRAWS = 255


@dataclass(frozen=True, kw_only=True)
class Size:
    """Of teacher and students, which read the same pieces in blocks of the same length."""

    vocabulary: int = 5000
    length: int = 32
    batch: int = 64
    teacher_layers: int = 3
    teacher_width: int = 192
    teacher_steps: int = 2000
    layers: int = 2
    width: int = 128
    steps: int = 1500
    learning_rate: float = 2e-3
    alpha: float = 0.7
    lines: int | None = None  # of the students; None for a quarter
    probed_lines: int = 400  # on which the numbers of draws are chosen
    held_out_share: float = 0.01
    judged_lines: int | None = None
    judged_masks: int = 4  # of each held-out block
    rows: int | None = None


QUICK = Size(vocabulary=500, teacher_layers=1, teacher_width=64, teacher_steps=20, layers=1, width=32, steps=10, lines=300,
             probed_lines=20, judged_lines=60, judged_masks=1, rows=4)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Figures:
    """A model on held-out text, and what a step of its training took of the processor; see the top of this file."""

    bits_per_byte: float
    accuracy: float
    calibration_error: float
    overconfidence: float
    seconds: float | None = None


def main() -> None:
    made = parser(__doc__.splitlines()[0])
    made.add_argument("--language", default="en")
    made.add_argument("--teacher-steps", type=int, help="of its pretraining")
    made.add_argument("--steps", type=int, help="of every student")
    made.add_argument("--seeds", type=int, default=3, help="seeds of the students")
    made.add_argument("--rows", type=int, help="only so many of the table's rows, the first")
    made.add_argument("--work", type=Path, help="keep everything here; the same call goes on")
    arguments = made.parse_args()
    if arguments.data is None:
        sys.exit("This question needs real text: give --data FOLDER.")
    logging.disable_progress_bar()
    size = QUICK if arguments.quick else Size()
    stated = {"teacher_steps": arguments.teacher_steps, "steps": arguments.steps}
    size = replace(size, **{name: value for name, value in stated.items() if value is not None})
    recorder = Recorder("mergedistill_signals", arguments)
    with tempfile.TemporaryDirectory() as scratch:
        measure(size, arguments, arguments.work or Path(scratch), recorder)
    recorder.close()


def measure(size: Size, arguments: argparse.Namespace, folder: Path, recorder: Recorder) -> None:
    text = arguments.data / "corpora" / f"{arguments.language}.txt.xz"
    corpus = Corpus(arguments.language, text, part="train", held_out_share=size.held_out_share)
    held_out = replace(corpus, part="held_out", limit=size.judged_lines)
    recipe = prepare(size, corpus, folder)
    seeds = range(1 if arguments.quick else arguments.seeds)
    rows = variants(size, recipe)[: arguments.rows or size.rows]
    figures: dict[str, list[Figures]] = {row.name: [] for row in rows}
    for seed in seeds:  # by seed first: what ends early has whole tables
        for row in rows:
            figures[row.name].append(student(size, recipe, row, seed, held_out))
            print(f"{row.name}, seed {seed}: {figures[row.name][-1]}", file=sys.stderr, flush=True)
    teacher = judge(size, folder / "teacher", held_out)
    figures["teacher"] = [teacher] * len(seeds)
    kept = {row.name: bytes_kept(row, recipe) for row in rows if _recorded(row)}
    shape = {
        "language": arguments.language, "lines": size.lines or "a quarter", "V": size.vocabulary,
        "teacher_steps": size.teacher_steps, "steps": size.steps, "alpha": size.alpha, "seeds": len(seeds),
    }  # fmt: skip
    report(recorder, figures, kept, shape)
    print(table(figures, kept))


def prepare(size: Size, corpus: Corpus, folder: Path) -> Recipe:
    """The teacher, pretrained where it is missing, and the recipe of its students, their vocabulary made."""
    teacher = folder / "teacher"
    if not teacher.exists():
        config = PretrainingConfig(
            vocabulary=size.vocabulary, layers=size.teacher_layers, width=size.teacher_width,
            steps=size.teacher_steps, batch=size.batch, length=size.length,
        )  # fmt: skip
        pretrained = pretrain_teacher([replace(corpus, part="all")], teacher, config=config)
        print(f"teacher: {pretrained}", file=sys.stderr, flush=True)
    lines = folder / "lines.txt"
    write_some_lines(Path(str(corpus.source)), size.lines, lines)
    recipe = Recipe.model_validate(
        {
            "out": str(folder / "run"),
            "languages": {corpus.language: str(lines)},
            "teachers": [{"teacher": str(teacher), "languages": [corpus.language]}],
            "held_out_share": size.held_out_share,
            "vocabulary": {"normalizer": "keep"},
            "student": {"layers": size.layers, "width": size.width},
            "distil": {"alpha": size.alpha, "block_length": size.length},
            "train": undisturbed(size.steps, size.batch * size.length, size.learning_rate),
        }
    )
    run(recipe, until="vocabulary")
    return recipe


def write_some_lines(text: Path, count: int | None, file: Path) -> None:
    """Write `some_lines` of a text to a file, unless they are there."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(file) as part:
            part.write_text("\n".join(some_lines(text, count)), encoding="utf-8")


def some_lines(text: Path, count: int | None) -> list[str]:
    """Lines from all over a text, which lies source behind source; a quarter of them where no number is stated."""
    lines = lzma.decompress(text.read_bytes()).decode().splitlines()
    Random(0).shuffle(lines)
    return lines[: count or len(lines) // 4]


def variants(size: Size, recipe: Recipe) -> list[Variant]:
    """The rows of the table, those that decide first."""
    ((language, text),) = recipe.languages.items()
    few = Corpus(language, text.corpus, limit=size.probed_lines)
    as_8, as_32 = (draws_of_equal_bytes(size, recipe, few, k=k) for k in (8, 32))
    return [
        Variant(name=ONLINE, changes={"distil.online": True}),
        Variant(name="top 8, tail", changes={}),
        drawn(as_8, "bytes of top 8"),
        Variant(name="mlm only", changes={"distil.alpha": 0.0}),
        drawn(12),
        Variant(name="top 8, renormalised", changes={"distil.tail": "renormalise"}),
        drawn(as_32, "bytes of top 32"),
        Variant(name="top 32, tail", changes={"distil.k": 32}),
    ]


def drawn(draws: int, why: str = "") -> Variant:
    name = f"{draws} drawn" + (f" ({why})" if why else "")
    return Variant(name=name, changes={"distil.sampler": "random", "distil.draws": draws})


def draws_of_equal_bytes(size: Size, recipe: Recipe, corpus: Corpus, *, k: int) -> int:
    """The fewest draws that take on disk what the k likeliest ids take, at most `MOST_DRAWS`."""

    def weight(**sampler: Any) -> float:
        with tempfile.TemporaryDirectory() as folder:
            record(
                recipe.teachers[0].teacher, [corpus], folder, block_length=size.length, **sampler
            )
            return sum(stats(folder).bytes_per_position.values())

    wanted = weight(k=k, temperatures=())
    numbers = range(1, MOST_DRAWS)
    return 1 + bisect_left(numbers, wanted, key=lambda draws: weight(sampler="random", draws=draws))


def student(size: Size, recipe: Recipe, row: Variant, seed: int, held_out: Corpus) -> Figures:
    """Train it, unless that is done, and judge it."""
    marks: list[tuple[int, float]] = []

    def clock(done: int, _total: int, what: str) -> None:
        if ": training" in what:
            marks.append((done, time.process_time()))

    (outcome,) = ablate(recipe, [row], seeds=(seed,), watch=clock)
    (folder,) = outcome.students
    noted = folder.parent / "processor_seconds.json"
    if len(marks) > 1:
        (first, start), (last, stop) = marks[0], marks[-1]
        noted.write_text(json.dumps((stop - start) / (last - first)))
    seconds = json.loads(noted.read_text()) if noted.exists() else None
    return replace(judge(size, folder, held_out), seconds=seconds)


def judge(size: Size, model: Path, held_out: Corpus) -> Figures:
    """What a model knows of held-out text, and whether it knows how much it knows."""
    texts = (document.text for document in held_out.documents())
    bits = bits_per_byte(load_teacher(model), texts, max_length=size.length)
    with tempfile.TemporaryDirectory() as folder:
        record(
            model, [held_out], folder, k=1, temperatures=(), block_length=size.length,
            masking=Masking(mask_share=1, random_share=0), mask_draws=size.judged_masks,
        )  # fmt: skip
        signals = Signals(folder)
        said = signals.batch(range(len(signals)))
    confidence = said.topk_logprobs[:, 0].double().exp().numpy()
    hits = (said.topk_ids[:, 0] == said.labels).numpy()
    return Figures(
        bits_per_byte=bits.value,
        accuracy=float(hits.mean()),
        calibration_error=expected_calibration_error(confidence, hits),
        overconfidence=float(confidence.mean() - hits.mean()),
    )


def expected_calibration_error(
    confidence: NDArray[np.float64], hits: NDArray[np.bool_], *, bins: int = BINS
) -> float:
    """Σ_b |Σ_{i in b} (hit_i - c_i)| / M over bins of as many positions each, in order of c (Guo et al. 2017, equation 3).

    Args:
        confidence: [M] c, the highest probability.
        hits: [M] whether the piece that has it is right.
        bins: their number.

    Example:
        >>> expected_calibration_error(np.array([0.5, 0.5, 1.0, 1.0]), np.array([True, False, True, True]), bins=2)
        0.0
    """
    gaps = (hits - confidence)[np.argsort(confidence, kind="stable")]
    return float(sum(abs(part.sum()) for part in np.array_split(gaps, bins)) / len(gaps))


def _recorded(row: Variant) -> bool:
    return row.name not in (ONLINE, "mlm only")


def bytes_kept(row: Variant, recipe: Recipe) -> float:
    """Of a masked position on disk, the text not counted."""
    asked = altered(recipe, dict(row.changes))
    (language,) = asked.languages
    folder = recording_folder(asked, asked.teachers[0], language)
    return sum(stats(folder).bytes_per_position.values())


def report(
    recorder: Recorder,
    figures: Mapping[str, Sequence[Figures]],
    kept: Mapping[str, float],
    shape: Mapping[str, object],
) -> None:
    """Records of every figure; the bars are for what can be kept."""
    for what, name, unit in (
        ("held-out bits per byte", "bits_per_byte", "b/B"),
        ("held-out masked accuracy", "accuracy", ""),
        ("expected calibration error", "calibration_error", ""),
        ("mean confidence less accuracy", "overconfidence", ""),
        ("processor time of a step", "seconds", "s"),
    ):
        values = {row: column(of_row, name) for row, of_row in figures.items()}
        measured = {row: of_row for row, of_row in values.items() if of_row}
        judged = name == "bits_per_byte"
        recorder.add(
            what, measured, unit=unit, shape=shape,
            floor=ONLINE if judged else None, bar=dict.fromkeys(kept, WITHIN) if judged else None,
        )  # fmt: skip
    recorder.add(
        "bytes a masked position on disk", {row: [size] for row, size in kept.items()}, unit="B",
        bar=dict.fromkeys(kept, MOST_BYTES), shape=shape,
    )  # fmt: skip


def column(of_row: Iterable[Figures], name: str) -> list[float]:
    """One figure of every seed that has it."""
    values = (getattr(figures, name) for figures in of_row)
    return [value for value in values if value is not None]


def table(figures: Mapping[str, Sequence[Figures]], kept: Mapping[str, float]) -> str:
    """In Markdown; means over seeds with their 95 % intervals where there are several."""
    bits = {row: column(of_row, "bits_per_byte") for row, of_row in figures.items()}
    lines = [
        "| heard of the teacher | B a position | bits per byte | of online's, % | accuracy, % | calibration error, % "
        "| overconfidence, % | ms a step |",
        "| --- |" + " ---: |" * 7,
    ]
    for row, of_row in figures.items():
        shares = [value / best for value, best in zip(bits[row], bits[ONLINE], strict=True)]
        cells = [
            row,
            f"{kept[row]:.1f}" if row in kept else "-",
            interval(bits[row]),
            interval(shares, 100),
            *(
                interval(column(of_row, name), 100)
                for name in ("accuracy", "calibration_error", "overconfidence")
            ),
            interval(column(of_row, "seconds"), 1000),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
