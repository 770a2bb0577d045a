"""Students of one recipe side by side, shared by the questions about what distillation is worth; no question itself."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from record import Recorder

import xeval
from mergedistill.recipe.recipe import Recipe
from mergedistill.run.ablate import Outcome, Variant, ablate, grid, mean_and_interval
from teacherzoo import Corpus, pretrain_teacher
from teacherzoo.pretrain.config import PretrainingConfig
from teacherzoo.training.arguments import has_bfloat16

PLAIN = "mlm only"


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large teachers and students are, and what they read."""

    languages: tuple[str, ...]
    vocabulary: int = 1000
    width: int = 96
    layers: int = 2
    length: int = 24
    teacher_batch: int = 48  # blocks in a step, packed full
    teacher_steps: int = 2400  # a teacher hardly better than its student has nothing to give
    batch: int = 48  # blocks in a student's step, one for each sentence
    student_documents: int | Mapping[str, int] = 600
    steps: int = 1200
    shares: tuple[float, ...] = (0.5, 0.6, 0.7, 1.0)  # of the steps, a run of its own for each
    teacher_learning_rate: float = 3e-3
    learning_rate: float = 2e-3  # of students: with 3e-3 they stay near the frequencies of words
    alpha: float = 0.7
    temperature: float = 1.0
    k: int = 64  # of small vocabularies and unsure teachers: 8 pieces leave six tenths of their probability unsaid
    rate: float = 0.3
    mask_draws: int = 2
    held_out_share: float = 0.02
    seeds: tuple[int, ...] = (0, 1, 2)
    tuning_steps: int = 200

    def documents_of(self, language: str) -> int:
        """How many a student reads."""
        documents = self.student_documents
        return documents if isinstance(documents, int) else documents[language]

    @property
    def longest(self) -> str:
        """The name of the distilled student that trains as long as the plain one."""
        return distilled(self.shares[-1])


def distilled(share: float) -> str:
    return f"distilled x{share:g}"


def prepare(size: Size, data: Path, folder: Path) -> Recipe:
    """Teachers of the text in `data`, pretrained where they are missing, and the recipe of their student."""
    for language in size.languages:
        if not (folder / language).exists():
            corpus = Corpus(language, _text(data, language), held_out_share=size.held_out_share)
            config = PretrainingConfig(
                vocabulary=size.vocabulary, layers=size.layers, width=size.width,
                steps=size.teacher_steps, batch=size.teacher_batch, length=size.length,
                learning_rate=size.teacher_learning_rate,
            )  # fmt: skip
            teacher = pretrain_teacher([corpus], folder / language, config=config)
            print(
                f"teacher of {language}: {teacher.seconds:.0f} s, accuracy {teacher.accuracy[language]:.3f}",
                file=sys.stderr,
            )
    return Recipe.model_validate(_stated(size, data, folder))


def _stated(size: Size, data: Path, folder: Path) -> dict[str, Any]:
    return {
        "out": str(folder / "run"),
        "languages": {
            code: {
                "corpus": str(_text(data, code)),
                "limit": size.documents_of(code),
            }
            for code in size.languages
        },
        "teachers": [
            {"teacher": str(folder / code), "languages": [code]} for code in size.languages
        ],
        "held_out_share": size.held_out_share,
        "vocabulary": {"normalizer": "keep"},
        "student": {"layers": size.layers, "width": size.width},
        "distil": {
            "alpha": size.alpha,
            "temperature": size.temperature,
            "k": size.k,
            "rate": size.rate,
            "mask_draws": size.mask_draws,
            "block_length": size.length,
        },
        "train": undisturbed(size.steps, size.batch * size.length, size.learning_rate),
    }


def undisturbed(steps: int, tokens: int, learning_rate: float) -> dict[str, Any]:
    """A recipe's `train`, without checkpoints and evaluations on the way."""
    return {
        "steps": steps,
        "tokens": tokens,
        "learning_rate": learning_rate,
        "checkpoint_every": 10**6,
        "evaluate_every": 10**6,
        "arguments": {"bf16": has_bfloat16()},
    }


def _text(data: Path, language: str) -> Path:
    return data / "corpora" / f"{language}.txt.xz"


def students(size: Size, recipe: Recipe) -> dict[str, Outcome]:
    """By name: the plain student, and distilled ones of every length."""
    variants = [Variant(name=PLAIN, changes={"distil.alpha": 0.0})]
    variants += [
        Variant(name=distilled(share), changes={"train.steps": round(share * size.steps)})
        for share in size.shares
    ]
    made = ablate(recipe, variants, seeds=size.seeds, watch=tell)
    return {outcome.variant.name: outcome for outcome in made}


def compare(
    size: Size, outcomes: Mapping[str, Outcome], recorder: Recorder, *, floors: Mapping[str, float]
) -> None:
    """Their figures on held-out text beside their teachers' and the best possible, and how soon one reaches the other."""
    plain, last = outcomes[PLAIN], outcomes[size.longest]
    teachers = json.loads((last.students[0] / "run.json").read_text())["held_out"]
    for language in size.languages:
        bits = {name: outcome.bits_per_byte[language] for name, outcome in outcomes.items()}
        accuracy = {name: outcome.accuracy[language] for name, outcome in outcomes.items()}
        bits["teacher"] = [teachers[language]["teacher"]]
        accuracy["teacher"] = [teachers[language]["teacher_accuracy"]]
        shape = {
            "language": language,
            "documents": size.documents_of(language),
            "steps": size.steps,
            "seeds": len(size.seeds),
        }
        if language in floors:
            best = floors[language]
            bits["best possible"] = [best]
            apart = zip(plain.bits_per_byte[language], last.bits_per_byte[language], strict=True)
            recorder.add(
                "distance from the best possible bits per byte, as a share of the MLM-only student's",
                {"distilled": [(b - best) / (a - best) for a, b in apart]},
                unit="", bar={"distilled": 1.0}, shape=shape,
            )  # fmt: skip
        recorder.add("held-out bits per byte", bits, unit="b/B", shape=shape)
        recorder.add("held-out masked accuracy", accuracy, unit="", shape=shape)
        for name, values in bits.items():
            right = interval(accuracy.get(name, []), 100)
            print(f"{language} {name:<15} {interval(values)} b/B   {right} %")
    if len(size.shares) > 1:
        _say_how_soon(size, outcomes, recorder)


def _say_how_soon(size: Size, outcomes: Mapping[str, Outcome], recorder: Recorder) -> None:
    plain, documents = outcomes[PLAIN], size.student_documents
    for name, part, sign, bar in (
        ("masked accuracy", "accuracy", 1, 0.6),
        ("bits per byte", "bits_per_byte", -1, 0.7),
    ):
        reached = [
            share_to_reach(
                size.shares,
                [sign * _mean(outcomes[distilled(share)], part, number) for share in size.shares],
                sign * _mean(plain, part, number),
            )
            for number in range(len(size.seeds))
        ]
        recorder.add(
            f"share of the steps to the MLM-only student's final {name}, mean over languages",
            {"distilled": reached}, unit="", bar={"distilled": bar},
            shape={
                "documents": documents if isinstance(documents, int) else sum(documents.values()),
                "steps": size.steps, "shares": " ".join(map(str, size.shares)),
            },
        )  # fmt: skip
        print(f"share of the steps to the MLM-only student's final {name}: {interval(reached)}")


def share_to_reach(shares: Sequence[float], figures: Sequence[float], wanted: float) -> float:
    """Where the line through (share of the steps, figure) first comes up to `wanted`; infinite where it does not."""
    points = sorted(zip(shares, figures, strict=True))
    if points[0][1] >= wanted:
        return points[0][0]
    for (before, low), (after, high) in pairwise(points):
        if high >= wanted:
            return before + (after - before) * (wanted - low) / (high - low)
    return math.inf


def sweep(
    size: Size, recipe: Recipe, recorder: Recorder, over: Sequence[Mapping[str, Sequence[Any]]]
) -> None:
    """One seed: keys of the recipe varied one after the other."""
    for varied in over:
        made = ablate(recipe, grid(varied), seeds=(0,), watch=tell)
        shape = {"varied": " ".join(varied), "steps": size.steps}
        for part, unit in (("bits_per_byte", "b/B"), ("accuracy", "")):
            figures = {outcome.variant.name: [_mean(outcome, part, 0)] for outcome in made}
            recorder.add(
                f"{part.replace('_', ' ')}, mean over languages", figures, unit=unit, shape=shape
            )


def judge(
    size: Size,
    outcomes: Mapping[str, Outcome],
    task: str,
    source: xeval.LocalFolder,
    folder: Path,
    recorder: Recorder,
    *,
    tuned_on: Mapping[str, str],
    metric: str,
) -> None:
    """A task of xeval: tuned on a language by students and by its teacher, scored there and on the others.

    Args:
        size: of all.
        outcomes: see `students`; those of every seed are tuned on the first language, the first seed's on the others.
        task: its name.
        source: the data.
        folder: for tuned models.
        recorder: takes the figures.
        tuned_on: language to the data set that it is tuned on; the first is also scored on the others, zero-shot.
        metric: of the task.
    """
    first = next(iter(tuned_on))
    for language, data_set in tuned_on.items():
        seeds = len(size.seeds) if language == first else 1
        models = {
            PLAIN: outcomes[PLAIN].students[:seeds],
            "distilled": outcomes[size.longest].students[:seeds],
            "teacher": [folder / language],
        }
        by_target: dict[str, dict[str, list[float]]] = {}
        for name, number, model in (
            (name, number, model)
            for name, folders in models.items()
            for number, model in enumerate(folders)
        ):
            scores = xeval.run(
                [model], folder / "results.jsonl", tasks=[task], source=source, language=data_set,
                languages=size.languages if language == first else (language,),
                protocol=_tuning(size), work=folder / "tuned" / f"{name}-{number}",
            )  # fmt: skip
            for target, value in _by_language(scores, metric).items():
                by_target.setdefault(target, {}).setdefault(name, []).append(value)
        for target, by_model in by_target.items():
            zero_shot = target != language
            figures = by_model | {
                "teacher": by_model["teacher"] * seeds
            }  # one model, beside each student
            recorder.add(
                f"{task} {metric}, tuned on {language}", figures, unit="%",
                floor=None if zero_shot else "teacher",
                bar=None if zero_shot else {"distilled": 0.95}, at_least=True,
                shape={"scored on": target, "steps": size.tuning_steps},
            )  # fmt: skip


def _tuning(size: Size) -> xeval.Protocol:
    return xeval.Protocol(
        steps=size.tuning_steps, evaluate_every=max(1, size.tuning_steps // 4), learning_rate=5e-4
    )


def _by_language(results: Sequence[xeval.Result], metric: str) -> dict[str, float]:
    """The mean over a language's test sets."""
    values: dict[str, list[float]] = {}
    for result in results:
        if result.metric == metric and result.value is not None:
            values.setdefault(result.language, []).append(result.value)
    return {language: sum(scores) / len(scores) for language, scores in values.items()}


def interval(values: Sequence[float], scale: float = 1.0) -> str:
    """A mean with its 95 % interval over seeds."""
    if not values:
        return "-"
    if missed := sum(map(math.isinf, values)):
        return f"not reached by {missed} of {len(values)} seeds"
    mean, half = mean_and_interval(values)
    return f"{scale * mean:.3f}" + ("" if math.isnan(half) else f" ± {scale * half:.3f}")


def _mean(outcome: Outcome, part: str, number: int) -> float:
    figures = getattr(outcome, part)
    return sum(by_seed[number] for by_seed in figures.values()) / len(figures)


_told: set[str] = set()


def tell(*report: object) -> None:
    """Say on standard error that the next run has begun."""
    run = str(report[-1]).rpartition(":")[0]
    if run not in _told:
        _told.add(run)
        print(f"  {run}", file=sys.stderr, flush=True)
