"""One recipe, many variants of it: trained on the same recordings, scored on the same held-out text, put in one table."""

from __future__ import annotations

import itertools
import json
import math
import re
import shutil
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import yaml

from mergedistill.errors import MergedistillError, RecipeError, StageError
from mergedistill.recipe.read import altered
from mergedistill.recipe.recipe import Recipe
from mergedistill.recipe.stages import Stage, stages
from teacherzoo.cache import alone_in
from teacherzoo.processes import wait_for_all
from teacherzoo.progress import ProgressCallback, no_progress
from teacherzoo.yaml_values import values_of

# Quantiles of Student's t that 95 % of it lie between, for 1, 2, … degrees of freedom.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)

_OF_ALL = {
    "seed": "every variant is trained with the same seeds, which --seeds states",
    "out": "every variant has a folder of its own in the recipe's",
    "signals": "all variants learn from the same recordings",
}


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A name, and what it changes: dotted keys of the recipe to values."""

    name: str
    changes: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A variant's figures on held-out text.

    Attributes:
        variant: which.
        seeds: it was trained with.
        students: their folders.
        bits_per_byte: per language, of each seed.
        accuracy: per language, share of masked pieces put first, of each seed.
    """

    variant: Variant
    seeds: tuple[int, ...]
    students: tuple[Path, ...]
    bits_per_byte: dict[str, list[float]] = field(default_factory=dict)
    accuracy: dict[str, list[float]] = field(default_factory=dict)


def ablate(
    recipe: Recipe,
    variants: Sequence[Variant],
    *,
    seeds: Sequence[int] = (),
    watch: ProgressCallback = no_progress,
) -> list[Outcome]:
    """Run every variant with every seed, each in `out/ablations/VARIANT/seed-N`.

    What variants have in common is done once: signals are recorded into one place, and a vocabulary is made once for all
    that agree on it. Interrupted, the same call goes on; finished runs are not repeated.

    Args:
        recipe: what the variants change.
        variants: see `grid` and `baselines`.
        seeds: of the student's weights and batches; by default the recipe's own.
        watch: told (done, total, what).

    Returns:
        One outcome for each variant, in order.

    Raises:
        RecipeError, StageError: for a key or value that the recipe does not take, and for a student that cannot begin so, before
            anything runs.
        MergedistillError, TeacherzooError: as `run`.
    """
    seeds = tuple(seeds) or (recipe.seed,)
    planned = [[_variant_recipe(recipe, variant, seed) for seed in seeds] for variant in variants]

    from mergedistill.run.run import refuse_early, run  # late: a wrong key does not wait for torch

    for variant, recipes in zip(variants, planned, strict=True):
        try:
            refuse_early(recipes[0])
        except MergedistillError as error:
            raise type(error)(f"{variant.name}: {error}") from error
    done: list[Recipe] = [recipe]
    outcomes = []
    total = len(planned) * len(seeds)
    for variant, recipes in zip(variants, planned, strict=True):
        students = []
        for variant_recipe in recipes:
            # No comma: behind one, progress has its figures.
            name = variant.name.replace(", ", " ")
            label = f"run {len(done)} of {total} ({name} seed {variant_recipe.seed})"
            _take_vocabulary(variant_recipe, done)
            students.append(run(variant_recipe, watch=_told(watch, label)))
            done.append(variant_recipe)
        outcomes.append(_outcome(variant, seeds, students))
    return outcomes


def grid(over: Mapping[str, Sequence[Any]]) -> list[Variant]:
    """Every combination of the values of some keys."""
    return [
        Variant(
            name=", ".join(
                f"{key.rpartition('.')[2]}={value}" for key, value in zip(over, values, strict=True)
            ),
            changes=dict(zip(over, values, strict=True)),
        )
        for values in itertools.product(*over.values())
    ]


def baselines(recipe: Recipe) -> list[Variant]:
    """The recipe itself and what it is to be compared with.

    No teacher, no text, no encoder's states, teachers asked in each step, one teacher alone (where the student begins in a stated
    teacher's space, that one), any teacher for any language; each where the recipe allows it.
    """
    made = [
        Variant(name="the recipe", changes={}),
        Variant(name="mlm only", changes={"distil.alpha": 0.0}),
        Variant(name="distillation only", changes={"distil.alpha": 1.0}),
    ]
    if recipe.states is not None:
        made.append(Variant(name="no encoder's states", changes={"states": None}))
    by_words = any(recipe.combination(language) == "words" for language in recipe.languages)
    if not recipe.distil.online and not by_words:
        made.append(Variant(name="online teachers", changes={"distil.online": True}))
    if len(recipe.teachers) > 1:
        made += [
            Variant(
                name=f"only {teacher.called}",
                changes={
                    "assign": "stated",
                    "teachers": [teacher.model_dump() | {"languages": [*recipe.languages]}],
                },
            )
            for teacher in recipe.teachers
            if recipe.student.teacher in (None, teacher.called)
        ]
    taught = [language for teacher in recipe.teachers for language in teacher.languages]
    if len(recipe.teachers) > 1 and recipe.assign == "stated" and len({*taught}) == len(taught):
        made.append(
            Variant(name="random teachers", changes={"teachers": _random_assignment(recipe)})
        )
    return made


def mean_and_interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and half the width of its 95 % interval by Student's t; NaN for a single value.

    Example:
        >>> mean_and_interval([1.0, 2.0, 3.0])[0]
        2.0
    """
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, math.nan
    freedom = len(values) - 1
    # Beyond the table: the expansion of t around the normal quantile.
    t = _T[freedom - 1] if freedom <= len(_T) else 1.95996 + 2.3724 / freedom + 2.8225 / freedom**2
    return mean, t * statistics.stdev(values) / math.sqrt(len(values))


def as_records(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Outcomes as plain values, one record for each variant, language and measure."""
    return [
        {
            "variant": outcome.variant.name,
            "changes": dict(outcome.variant.changes),
            "language": language,
            "measure": measure,
            "seeds": list(outcome.seeds),
            "values": values,
            "mean": mean_and_interval(values)[0],
            "interval": None if len(values) < 2 else mean_and_interval(values)[1],
        }
        for outcome in outcomes
        for measure in ("bits_per_byte", "accuracy")
        for language, values in getattr(outcome, measure).items()
    ]


def read_over(given: Sequence[str]) -> dict[str, list[Any]]:
    """What `--over` says: `distil.alpha=0,0.5` is a key and its values, read as the items of a list in YAML.

    Raises:
        RecipeError: for what is not of that form.

    Example:
        >>> read_over(["distil.alpha=0,0.5", "states.languages=[de],[de,fi]"])
        {'distil.alpha': [0, 0.5], 'states.languages': [['de'], ['de', 'fi']]}
    """
    over: dict[str, list[Any]] = {}
    for option in given:
        key, _, values = option.partition("=")
        try:
            read = values_of(f"[{values}]")
        except yaml.YAMLError as error:
            raise RecipeError(
                f"--over must be KEY=VALUE,VALUE… with values as a recipe has them, got {option!r}; write in quotes what YAML reads as a "
                "sign of its own."
            ) from error
        if not key or not isinstance(read, list) or not read:
            raise RecipeError(f"--over must be KEY=VALUE,VALUE…, got {option!r}.")
        if key in over:
            raise RecipeError(f"--over names {key!r} twice; put all its values into one.")
        over[key] = read
    return over


def read_seeds(given: str) -> tuple[int, ...]:
    """What `--seeds` says.

    Raises:
        RecipeError: for what is no list of different numbers.
    """
    parts = [part.strip() for part in given.split(",") if part.strip()]
    if not all(part.isdecimal() for part in parts) or len(set(parts)) < len(parts):
        raise RecipeError(f"--seeds must be different numbers such as 0,1,2, got {given!r}.")
    return tuple(map(int, parts))


def _variant_recipe(recipe: Recipe, variant: Variant, seed: int) -> Recipe:
    for key in variant.changes:
        if key in _OF_ALL:
            raise RecipeError(f"{key}: {_OF_ALL[key]}; leave it out of the variants.")
    folder = re.sub(r"[^A-Za-z0-9._=-]+", "_", variant.name)
    places = {
        "out": str(Path(recipe.out) / "ablations" / folder / f"seed-{seed}"),
        "signals": recipe.signals or str(Path(recipe.out) / "signals"),
    }
    return altered(altered(recipe, variant.changes), {"seed": seed, **places})


def _take_vocabulary(recipe: Recipe, others: Sequence[Recipe]) -> None:
    """Copy the vocabulary of the first that agrees on it."""
    wait_for_all()
    wanted = stages(recipe)["vocabulary"]
    if wanted.done:
        return
    for made in (stages(recipe_before)["vocabulary"] for recipe_before in others):
        if made.key == wanted.key and made.done:
            with alone_in(Path(recipe.out), refuse=StageError):
                wanted.make(partial(_copied, made))
            return


def _copied(stage: Stage, folder: Path) -> dict[str, Any]:
    shutil.copytree(stage.place, folder, dirs_exist_ok=True)
    return stage.facts()


def _outcome(variant: Variant, seeds: Sequence[int], students: Sequence[Path]) -> Outcome:
    outcome = Outcome(variant=variant, seeds=tuple(seeds), students=tuple(students))
    for student in students:
        scores = json.loads((student / "run.json").read_text(encoding="utf-8"))
        for language, figures in scores["held_out"].items():
            outcome.bits_per_byte.setdefault(language, []).append(figures["student"])
            outcome.accuracy.setdefault(language, []).append(figures["student_accuracy"])
    return outcome


def _random_assignment(recipe: Recipe) -> list[dict[str, Any]]:
    """Languages dealt anew among the teachers, as many to each as before, and not all to whom they had."""
    places = [teacher for teacher in recipe.teachers for _ in teacher.languages]
    before = [language for teacher in recipe.teachers for language in teacher.languages]
    random = Random(recipe.seed)
    order = list(before)
    while all(code in place.languages for code, place in zip(order, places, strict=True)):
        random.shuffle(order)
    return [
        teacher.model_dump()
        | {
            "languages": [
                language for place, language in zip(places, order, strict=True) if place is teacher
            ]
        }
        for teacher in recipe.teachers
    ]


def _told(watch: ProgressCallback, label: str) -> ProgressCallback:
    return lambda done, total, what: watch(done, total, f"{label}: {what}")
