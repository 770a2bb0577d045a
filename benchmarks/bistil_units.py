"""Which units a narrower student should keep: by each measure of importance and at random, and whole heads or narrower ones.

Needs `--model FOLDER`, a sentence encoder, and `--data FOLDER` with `corpora/LANGUAGE.txt.xz` and `tatoeba/LANGUAGE.tsv`. The model
is trimmed to English and another language; of the student's layers, cut from it, each measure chooses the units that are kept,
everything else is alike: how the weights are fitted to the units, text, seed, loss and steps of phase 1. The shapes `two_thirds` and
`half` of the hidden width ask instead whether all heads become narrower with it or fewer stay as wide as they are, units and heads
being chosen by reconstruction; where the number of heads does not divide the width, narrower ones have the nearest that it does.
Recorded are the seconds of choosing, and, before any training and behind a short phase 1, on held-out sentences of both languages:

    cosine       mean, of a sentence's vector to the whole model's, in percent; not of narrower vectors
    neighbours   share of the whole model's ten nearest sentences that are the student's
    nearness     correlation of a sentence's cosines to all others with the whole model's, mean over sentences, in percent
    bitext       accuracy at 1, mean of both sides

    python benchmarks/bistil_units.py --model FOLDER --data FOLDER --out units.jsonl
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bistil_real import texts_of
from numpy.typing import NDArray
from record import Recorder, parser
from sentence_students import bitext, unit
from torch import Tensor

from bistil.encoders.closeness import compare_nearness
from bistil.encoders.pooling import SentenceEncoder, SentenceModules
from bistil.encoders.widths import inner_width
from bistil.extract.config import Extraction
from bistil.extract.sentences import SentenceInputs, read_sentences, sentence_student
from bistil.extract.text import ExtractionText, open_text
from bistil.extract.trainer import train, training_arguments
from bistil.losses.rows import SentenceExtractionModel, SentenceTeacher
from bistil.losses.weights import weights_for
from bistil.student.gates import UnitKind
from bistil.student.importance import MEASURES, Importance, unit_importance
from bistil.student.layers import choose_layers, student_of
from bistil.student.narrow import narrowed, projection_of
from bistil.student.outputs import sentence_vectors
from teacherzoo import Teacher, load_teacher
from teacherzoo.progress import no_progress
from vocabmerge import Kind, trim

SOURCE = "en"
RANDOM, NARROWER, WHOLE = "random", "narrower heads", "whole heads"
Vectors = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What a student is narrower by; None as the teacher.

    Attributes:
        feed_forward: its feed-forward units, of the teacher's 1.
        width: of its hidden states, of the teacher's 1.
        by: the ways of choosing that are compared.
    """

    feed_forward: float | None = None
    width: float | None = None
    by: tuple[str, ...] = (*MEASURES, RANDOM)

    def words(self) -> str:
        parts = {"feed-forward": self.feed_forward, "hidden": self.width}
        return ", ".join(f"{share:g} of {name} units" for name, share in parts.items() if share)


SHAPES = {
    "feed_forward": Shape(feed_forward=0.5),
    "both": Shape(feed_forward=0.5, width=0.5),
    "two_thirds": Shape(width=2 / 3, by=(NARROWER, WHOLE)),
    "half": Shape(width=0.5, by=(NARROWER, WHOLE)),
}


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What a student keeps; None for all.

    Attributes:
        units: hidden ones.
        inner: feed-forward units of each layer.
        heads: of each layer.
    """

    units: tuple[int, ...] | None = None
    inner: Sequence[Sequence[int]] | None = None
    heads: Sequence[Sequence[int]] | None = None

    def words(self) -> str:
        counts = {"hidden": self.units, "inner": self.inner and self.inner[0], "heads": self.heads and self.heads[0]}  # fmt: skip
        return ", ".join(f"{len(kept)} {name}" for name, kept in counts.items() if kept)


@dataclass(frozen=True, kw_only=True)
class World:
    """What all students share.

    Attributes:
        teacher: trimmed.
        sentences: behind its encoder.
        layers: the student's.
        text: of phase 1.
        sample: on which units are chosen.
        prompt: in front of every sentence.
        target: the language beside English.
        sides: held-out sentences in English and their translations.
        whole: the whole model's vectors of them, the English ones first.
    """

    teacher: Teacher
    sentences: SentenceModules
    layers: tuple[int, ...]
    text: ExtractionText
    sample: list[Tensor]
    prompt: str
    target: str
    sides: tuple[list[str], list[str]]
    whole: Vectors


def main() -> None:
    """Choose, fit and judge by each measure, then train a little and judge again."""
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--target", default="de", help="the other language")
    arguments.add_argument("--prompt", default="query: ", help="in front of every sentence")
    arguments.add_argument("--work", type=Path, help="a folder that keeps trim and text")
    arguments.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    arguments.add_argument("--by", nargs="+", default=[*MEASURES, RANDOM, NARROWER, WHOLE], choices=[*MEASURES, RANDOM, NARROWER, WHOLE])  # fmt: skip
    arguments.add_argument("--steps", type=int, help="of phase 1, each of 1,024 tokens; 100, with --quick 2, 0 for none")  # fmt: skip
    arguments.add_argument("--lines", type=int, help="of text of each language; 10,000, with --quick 400")  # fmt: skip
    arguments.add_argument("--seed", type=int, default=0)
    options = arguments.parse_args()
    recorder = Recorder("bistil_units", options)
    steps = options.steps if options.steps is not None else 2 if options.quick else 100
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.work or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        extraction = _extraction(steps, options.prompt, options.seed)
        world = _world(options, folder, extraction)
        for name in options.shapes:
            ways = [by for by in SHAPES[name].by if by in options.by]
            _race(recorder, world, SHAPES[name], ways, extraction, folder, steps)
    recorder.close()


def _extraction(steps: int, prompt: str, seed: int) -> Extraction:
    return Extraction(
        keep_vocabulary=True, prompts=(prompt,), steps=max(1, steps), batch=16, length=64, seed=seed, checkpoint_every=max(1, steps)
    ).decided(Kind.SENTENCE)  # fmt: skip


def _world(options: Any, folder: Path, extraction: Extraction) -> World:
    pair = (SOURCE, options.target)
    lines, tests = (400, 40) if options.quick else (10_000, 250)
    lines = options.lines or lines
    files = {language: [Path(file)] for language, file in texts_of(options.data, folder, pair, lines).items()}  # fmt: skip
    trimmed = folder / f"trimmed-{lines}"
    if not trimmed.exists():
        trim(options.model, files, trimmed, lines=None)
    teacher = load_teacher(trimmed, headless=True)
    sentences = read_sentences(teacher, SentenceInputs(), extraction)
    assert sentences is not None
    text = open_text(teacher, files, folder, extraction, sentences=sentences, watch=no_progress)
    sides = bitext(options.data, pair, tests)
    encoder = SentenceEncoder(teacher.model, sentences.modules)
    return World(
        teacher=teacher, sentences=sentences, layers=choose_layers(teacher.model, layers=extraction.layers or "outer"), text=text,
        sample=text.sample(1024 if options.quick else 8192), prompt=options.prompt, target=options.target, sides=sides, whole=_vectors(encoder, sentences, options.prompt, [*sides[0], *sides[1]]),
    )  # fmt: skip


def _race(
    recorder: Recorder,
    world: World,
    shape: Shape,
    measures: Sequence[str],
    extraction: Extraction,
    folder: Path,
    steps: int,
) -> None:
    seconds: dict[str, list[float]] = {}
    figures: dict[tuple[str, str], dict[str, list[float]]] = {}
    for by in measures:
        begun = time.process_time()
        kept = _chosen(world, shape, by, extraction.seed)
        seconds[by] = [time.process_time() - begun]
        model = _student(world, kept)
        judgements = {"before training": _judged(model.student, world)}
        if steps:
            with tempfile.TemporaryDirectory(dir=folder) as run:
                train(
                    model, world.text.batches(steps), [SOURCE, world.target], training_arguments(Path(run), extraction), watch=no_progress
                )  # fmt: skip
            judgements[f"after {steps} steps"] = _judged(model.student.eval(), world)
        print(shape.words(), by, kept.words(), seconds[by], judgements, file=sys.stderr, flush=True)
        for when, judged in judgements.items():
            for figure, value in judged.items():
                figures.setdefault((figure, when), {})[by] = [value]
    setting = {"shape": shape.words(), "layers": len(world.layers), "seed": extraction.seed}
    recorder.add("processor time of choosing units", seconds, unit="s", shape=setting)
    for (figure, when), values in figures.items():
        recorder.add(f"{figure}, {when}", values, unit="%", shape=setting)


def _chosen(world: World, shape: Shape, by: str, seed: int) -> Kept:
    """What is kept of the teacher."""
    config = world.teacher.model.config
    width, inner, heads = config.hidden_size, inner_width(config), config.num_attention_heads
    counts = {"hidden": round((shape.width or 1) * width), "feed_forward": round((shape.feed_forward or 1) * inner)}  # fmt: skip
    if by == NARROWER:
        counts["hidden"] = heads * round(counts["hidden"] / heads)
    if by == WHOLE:
        counts["heads"] = counts["hidden"] // (width // heads)
    if by == RANDOM:
        chance = random.Random(seed)
        units = sorted(chance.sample(range(width), counts["hidden"]))
        rows = [sorted(chance.sample(range(inner), counts["feed_forward"])) for _ in world.layers]
        return Kept(units=tuple(units) if shape.width else None, inner=rows if shape.feed_forward else None)  # fmt: skip
    keep: dict[UnitKind, float] = {}
    if shape.width:
        keep["hidden"] = counts["hidden"] / width
    if shape.feed_forward:
        keep["feed_forward"] = shape.feed_forward
    if by == WHOLE:
        keep["heads"] = counts["heads"] / heads
    cut = SentenceEncoder(student_of(world.teacher.model, world.layers), world.sentences.modules)
    measure = "reconstruction" if by in (NARROWER, WHOLE) else by
    importance: Importance = unit_importance(
        cut, world.sample, measure, kinds=list(keep), outputs=sentence_vectors, keep=keep, seed=seed  # type: ignore[arg-type]  # one of the measures
    )  # fmt: skip
    return Kept(
        units=importance.kept_hidden(counts["hidden"]) if shape.width else None,
        inner=importance.kept_feed_forward(counts["feed_forward"]) if shape.feed_forward else None,
        heads=importance.kept_heads(counts["heads"]) if by == WHOLE else None,
    )


def _student(world: World, kept: Kept) -> SentenceExtractionModel:
    """The narrower student with its loss beside the teacher."""
    model, units = world.teacher.model, kept.units
    student = narrowed(
        student_of(model, world.layers), world.sample, units=units, inner_units=kept.inner,
        feed_forward=None if kept.inner is None else len(kept.inner[0]), heads=kept.heads,
    )  # fmt: skip
    weights = weights_for(Kind.SENTENCE, narrow=units is not None)
    teacher = SentenceTeacher(
        SentenceEncoder(model, world.sentences.modules), weights, world.layers
    )
    return SentenceExtractionModel(
        sentence_student(student, world.sentences), teacher, weights=weights, layers=world.layers,
        projection=None if units is None else projection_of(units, model.config.hidden_size),
    )  # fmt: skip


def _judged(student: Any, world: World) -> dict[str, float]:
    """Every figure of a student, in percent."""
    vectors = _vectors(student, world.sentences, world.prompt, [*world.sides[0], *world.sides[1]])
    figures = {}
    if vectors.shape == world.whole.shape:
        figures["cosine"] = 100 * float((unit(vectors) * unit(world.whole)).sum(1).mean())
    nearness = compare_nearness(world.whole, vectors).values()
    figures["nearness"], figures["neighbours"] = (100 * float(items.mean()) for items in nearness)
    first, second = np.split(unit(vectors), 2)
    cosines = first @ second.T
    hits = [(cosines.argmax(axis) == np.arange(len(cosines))).mean() for axis in (0, 1)]
    figures["bitext"] = 100 * float(np.mean(hits))
    return figures


@torch.no_grad()
def _vectors(
    encoder: Any, sentences: SentenceModules, prompt: str, texts: Sequence[str]
) -> Vectors:
    """[N, D] in the order of the texts."""
    order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
    vectors: list[Any] = [None] * len(texts)
    for start in range(0, len(order), 32):
        some = order[start : start + 32]
        batch = sentences.tokenizer(
            [prompt + texts[number] for number in some], padding=True, truncation=True,
            max_length=sentences.max_length, return_tensors="pt",
        )  # fmt: skip
        made = encoder(**{name: batch[name] for name in ("input_ids", "attention_mask")})
        for number, vector in zip(some, made.float().numpy(), strict=True):
            vectors[number] = vector
    stacked: Vectors = np.stack(vectors)
    return stacked


if __name__ == "__main__":
    main()
