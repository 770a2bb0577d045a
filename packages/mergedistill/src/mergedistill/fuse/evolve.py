"""Mixing weights by differential evolution: a population of mixtures, of which development text keeps the better ones."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mergedistill.fuse.development import (
    JUDGED,
    Example,
    Outcome,
    gain_interval,
    outcome,
    read_examples,
    score,
)
from mergedistill.fuse.mean import mean_of, values_of
from mergedistill.fuse.models import ModelFiles
from teacherzoo import Teacher, load_teacher
from teacherzoo.atomic_write import written_whole
from teacherzoo.progress import ProgressCallback, no_progress
from vocabmerge.model_files import stored_names

FEWEST = 20
"""Rows that a development set must have to confirm a choice by, beside as many to choose by."""
_POPULATION, _F, _CROSSOVER = 8, 0.6, 0.7
_CHOOSING, _CONFIRMING = slice(0, None, 2), slice(1, None, 2)
_LAYER = re.compile(r"(?:^|\.)(?:layers?|blocks?|h)\.(\d+)\.")

Mixture = tuple[tuple[float, ...], ...]
"""For each group of layers a weight for each model; they sum to one."""


@dataclass(frozen=True, kw_only=True)
class Evolved:
    """How a search ended.

    Attributes:
        mixture: the best one, or the start where the rows do not tell them apart.
        verdict: that, in a sentence with figures.
        trials: mixtures that were judged.
        start: the score of the start on the rows to confirm by; NaN where there are too few.
        best: of the best.
        gain: 95 % interval of the difference.
    """

    mixture: Mixture
    verdict: str
    trials: int
    start: float
    best: float
    gain: tuple[float, float]


def evolve(
    models: Sequence[ModelFiles],
    development: Mapping[str, Path],
    trials_file: Path,
    *,
    start: Sequence[float],
    groups: int,
    trials: int,
    seed: int,
    watch: ProgressCallback = no_progress,
) -> Evolved:
    """Search mixing weights, after Du et al. 2024 (Knowledge fusion by evolving weights, arXiv 2406.12208).

    They evolve the weights of the models; here the shares of the models evolve, one for each model and group of layers, so
    that the outcome is a mean of the models. Every other row of the development sets chooses, the rest confirms: the best
    mixture is taken only if its gain over the start there is above zero in 95 % of bootstrap samples.

    Every judged mixture is written to `trials_file` at once, so that a search that was killed goes on and ends alike.

    Memory: one model, and one tensor of each of the others, which are read from their files at every trial.

    Args:
        models: of a kind in `JUDGED`.
        development: names to files, see `read_examples`; the score is the mean over them.
        trials_file: JSON, read if it is there.
        start: the mixture to begin with, and to keep where the rows tell nothing.
        groups: of neighbouring layers with shares of their own; 1 for the whole model.
        trials: at most so many different mixtures are judged.
        seed: of the search and the bootstrap.
        watch: told (done, total, what) in trials.

    Raises:
        FuseError: for models that no development set judges, for groups or trials that make no sense, and for rows that
            cannot be read.
    """
    mixtures = _Mixtures(models, groups)
    rows = {name: read_examples(mixtures.teacher, file) for name, file in development.items()}
    first: Mixture = tuple(tuple(start) for _ in range(groups))
    least = min(map(len, rows.values()))
    if least < 2 * FEWEST:
        name = min(rows, key=lambda name: len(rows[name]))
        sentence = f"The development set {name} has {least} {'row' if least == 1 else 'rows'}, too few to choose on (at least {2 * FEWEST}), so the start is kept."
        return Evolved(mixture=first, verdict=sentence, trials=0, start=np.nan, best=np.nan, gain=(np.nan, np.nan))  # fmt: skip
    scores: dict[str, float] = json.loads(trials_file.read_text()) if trials_file.is_file() else {}

    def judged(mixture: Mixture) -> float:
        key = json.dumps(mixture)
        if key not in scores:
            scores[key] = score(mixtures.outcomes(mixture, rows, _CHOOSING))
            with written_whole(trials_file) as part:
                part.write_text(json.dumps(scores, indent=1) + "\n", encoding="utf-8")
        return scores[key]

    told = f"mixtures, judged by {JUDGED[mixtures.teacher.kind]}"
    best, count = search(judged, first, trials=trials, seed=seed, watch=lambda done, total, _: watch(done, total, told))  # fmt: skip
    before = mixtures.outcomes(first, rows, _CONFIRMING)
    after = mixtures.outcomes(best, rows, _CONFIRMING)
    gain = gain_interval(after, before, seed=seed)
    clear = gain[0] > 0
    sentence = (
        f"The best of {count} mixtures has {score(after):.4f} on the rows kept back, the start {score(before):.4f}; the 95 % "
        f"interval of the gain is {gain[0]:+.4f} to {gain[1]:+.4f}, "
        + (
            "so the best is taken."
            if clear
            else "so these rows do not tell them apart and the start is kept."
        )
    )
    return Evolved(
        mixture=best if clear else first,
        verdict=sentence,
        trials=count,
        start=score(before),
        best=score(after),
        gain=gain,
    )


def search(
    judged: Callable[[Mixture], float],
    start: Mixture,
    *,
    trials: int,
    seed: int,
    watch: ProgressCallback = no_progress,
) -> tuple[Mixture, int]:
    """Differential evolution, rand/1/bin (Storn and Price 1997): a + F (b - c), crossed with its parent, kept if it is better.

    The first population is the start, each model alone, and mixtures by chance.

    Returns:
        The mixture of the highest score, the earliest of equals, and how many different ones were judged.

    Example:
        >>> best, _ = search(lambda mixture: -((mixture[0][0] - 0.3) ** 2), ((0.5, 0.5),), trials=60, seed=0)
        >>> round(best[0][0], 1)
        0.3
    """
    generator = np.random.default_rng(seed)
    seen: dict[Mixture, float] = {}

    def fitness(mixture: Mixture) -> float:
        if mixture not in seen:
            seen[mixture] = judged(mixture)
            watch(len(seen), trials, "mixtures")
        return seen[mixture]

    population = list(_first_population(start, generator))
    population = population[:trials]
    scores = [fitness(member) for member in population]
    # Where a population has come together, what it makes is known already.
    for _ in range(10 * trials if len(population) >= 4 else 0):
        if len(seen) >= trials:
            break
        place = int(generator.integers(len(population)))
        others = generator.choice([index for index in range(len(population)) if index != place], 3, replace=False)  # fmt: skip
        a, b, c = (np.array(population[index]) for index in others)
        parent = np.array(population[place])
        crossed = generator.random(parent.shape) < _CROSSOVER
        crossed[tuple(generator.integers(parent.shape))] = True
        child = _normalised(np.where(crossed, a + _F * (b - c), parent), start)
        if (value := fitness(child)) > scores[place]:
            population[place], scores[place] = child, value
    return max(seen, key=lambda mixture: seen[mixture]), len(seen)


def group_of(name: str, *, groups: int, depth: int) -> int:
    """The group of layers that a tensor belongs to: embeddings to the first, heads and last norms to the last.

    Example:
        >>> [group_of(name, groups=2, depth=4) for name in ("embeddings.norm", "encoder.layer.1.x", "encoder.layer.2.x", "classifier.bias")]
        [0, 0, 1, 1]
    """
    layer = _LAYER.search(name)
    if layer is not None:
        return int(layer[1]) * groups // depth
    return 0 if "embed" in name else groups - 1


def depth_of(models: Sequence[ModelFiles]) -> int:
    """How many layers the names of the tensors count."""
    part = models[0].parts[models[0].encoder]
    return max((int(layer[1]) + 1 for name in part if (layer := _LAYER.search(name))), default=1)


class _Mixtures:
    """A model in memory that takes the weights of one mixture after the other."""

    def __init__(self, models: Sequence[ModelFiles], groups: int) -> None:
        self._models, self._groups = models, groups
        self._depth = depth_of(models)
        self.teacher: Teacher = load_teacher(models[0].folder, headless=True)
        self._stored = stored_names(models[0].folder / models[0].encoder, self.teacher.model)

    def outcomes(
        self, mixture: Mixture, rows: Mapping[str, Sequence[Example]], chosen: slice
    ) -> dict[str, Outcome]:
        """Of some of the rows of each development set."""
        self._take(mixture)
        return {name: outcome(self.teacher, examples[chosen]) for name, examples in rows.items()}

    def _take(self, mixture: Mixture) -> None:
        state = self.teacher.model.state_dict(keep_vars=True)
        with torch.no_grad():
            for name, stored in self._stored.items():
                tensors = [model.parts[model.encoder][stored] for model in self._models]
                shares = mixture[group_of(stored, groups=self._groups, depth=self._depth)]
                if state[name].is_floating_point():
                    state[name].copy_(values_of(mean_of(tensors, shares)))


def _first_population(start: Mixture, generator: np.random.Generator) -> Iterator[Mixture]:
    groups, models = len(start), len(start[0])
    yield start
    for model in range(models):
        yield tuple(tuple(float(index == model) for index in range(models)) for _ in range(groups))
    for _ in range(max(_POPULATION - models - 1, 2)):
        yield _normalised(generator.dirichlet(np.ones(models), size=groups), start)


def _normalised(shares: NDArray[Any], start: Mixture) -> Mixture:
    """Shares of at least zero that sum to one, a thousandth being the finest step; where none is above zero, the start's."""
    clipped = np.clip(shares, 0, None)
    total = clipped.sum(axis=1, keepdims=True)
    clipped = np.where(total > 0, clipped / np.where(total > 0, total, 1), np.array(start))
    rounded = np.round(clipped, 3)
    return tuple(tuple(float(share) for share in row / row.sum()) for row in rounded)
