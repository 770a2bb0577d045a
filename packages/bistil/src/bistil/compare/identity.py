"""What a comparison's models are made of, known by contents, never by where they lie; and which figures are of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from bistil.compare.recipe import Comparison
from bistil.compare.systems import SYSTEMS, System
from bistil.errors import AdaptError
from bistil.multitask.data import read_mixture
from bistil.tasks.adapt import ResultLabel
from bistil.text.languages import text_files
from teacherzoo.digests import digest_of_inputs
from xeval import (
    DataSet,
    Protocol,
    Result,
    XevalError,
    ZeroShotTask,
    open_source,
    read_results,
    task_of,
)
from xeval.data.source import choose_source, choose_targets, digest_of_training
from xeval.statistics.items import digest_of_examples

# Parts of a recipe that no student depends on.
_OF_TASKS = ("tune", "tune_by_task", "sources", "version_of_tasks")
# Raised where the code makes other models of an equal recipe: students and all behind them, or what learns tasks alone.
_VERSION = 4
_VERSION_OF_TASKS = 2


class RecipeDigests:
    """What decides a comparison's models. A task's data does not: figures state of what data they are, and are made anew where it changed.

    Args:
        recipe: of the comparison.

    Raises:
        CorpusError, ExtractError, XevalError: for a model or text that is not there.
    """

    def __init__(self, recipe: Comparison) -> None:
        self._recipe = recipe
        texts = {code: text_files(code, text) for code, text in recipe.corpora.items()}
        inputs = digest_of_inputs(corpora=texts, models={"model": recipe.model})
        left_out = {"model", "corpora", "data", "out", "targets", "tasks", "systems", "seeds", "tune_by_task", "teacher_tasks"}  # fmt: skip
        # What is left open is not stated, so that a recipe keeps its name when there is more to leave open.
        open_parts = {part: getattr(recipe, part).model_dump(exclude_none=True) for part in ("extract", "tune")}  # fmt: skip
        self._all = {"version": _VERSION, "version_of_tasks": _VERSION_OF_TASKS, **inputs, **recipe.model_dump(exclude=left_out), **open_parts}  # fmt: skip
        if recipe.tune_by_task:
            self._all["tune_by_task"] = {task: recipe.tuning_of(task).model_dump(exclude_none=True) for task in recipe.tune_by_task}  # fmt: skip

    @cached_property
    def of_all(self) -> str:
        """A digest of everything."""
        return _digest(self._all)

    @cached_property
    def before_tasks(self) -> str:
        """A digest of what students and languages depend on: recipes that differ in the learning of tasks alone share those."""
        return _digest({name: part for name, part in self._all.items() if name not in _OF_TASKS})

    @cached_property
    def labels(self) -> dict[str, ResultLabel]:
        """What results call each system: one model for all its targets, tasks and seeds."""
        return {
            name: ResultLabel(name=name, digest=_digest([name, self._all, *self._beside(system)]))
            for name, system in SYSTEMS.items()
        }

    def _beside(self, system: System) -> list[str]:
        """What decides this system and no other."""
        return [self.of_teacher] if system.model == "multitask" and self.of_teacher else []

    @cached_property
    def of_teacher(self) -> str:
        """A digest of what the teacher of `multitask` is tuned on, the data included; empty where no system asks for it."""
        if not any(SYSTEMS[name].model == "multitask" for name in self._recipe.systems):
            return ""
        return _digest(read_mixture(self._recipe.tasks_of_teacher()).inputs())


class WantedResults:
    """The figures that a recipe asks for, and on what data.

    Args:
        recipe: of the comparison.

    Attributes:
        digests: of the recipe.
        labels: what results call each system.
        sets: (task, target) to its test sets.
        notes: on pairs that have none.

    Raises:
        AdaptError: for a task without any test set.
        XevalError: for data that cannot be used.
    """

    def __init__(self, recipe: Comparison) -> None:
        self._recipe = recipe
        self.digests = RecipeDigests(recipe)
        self.labels = self.digests.labels
        self._source = open_source(recipe.data)
        self.sets: dict[tuple[str, str], Sequence[DataSet]] = {}
        self.notes: list[str] = []
        for task in recipe.tasks:
            sets = self._source.data_sets(task_of(task))
            for target in recipe.targets:
                try:
                    self.sets[task, target] = choose_targets(sets, [target])[0]
                except XevalError as error:
                    self.notes.append(f"{task} {target} was left out: {error}")
            if not any(name == task for name, _ in self.sets):
                raise AdaptError(f"{recipe.data}: there is no test set of {task!r} for any of {', '.join(recipe.targets)}; change tasks or targets.")  # fmt: skip
        self._train = {task: self._digest_of_training(task) for task in recipe.tasks}
        self._test: dict[tuple[str, str], str] = {}

    def train_digest(self, task: str) -> str:
        """Of the data that a task is learnt from; empty where nothing is learnt."""
        return self._train[task] or ""

    def has(self, rows: Iterable[Result], system: str, task: str, sets: Sequence[DataSet], seed: int) -> bool:  # fmt: skip
        """Whether figures of all these test sets are among the rows, on the data as it is now."""
        names = {data_set.name for data_set in sets}
        asked = [row for row in rows if row.task == task and row.dataset in names]
        return names == {row.dataset for row in asked if self._is(row, system, seed)}

    def chosen(self, rows: Iterable[Result]) -> list[Result]:
        """The figures that the recipe asks for, of its models, on the data as it is now."""
        asked = {
            (task, data_set.name) for (task, _), sets in self.sets.items() for data_set in sets
        }
        seeds = range(self._recipe.seeds)
        return [
            row
            for row in rows
            if row.model in self._recipe.systems
            and row.seed in seeds
            and (row.task, row.dataset) in asked
            and self._is(row, row.model, row.seed)
        ]

    def _is(self, row: Result, system: str, seed: int) -> bool:
        label = self.labels[system]
        return (row.model, row.model_digest, row.seed) == (
            label.name,
            label.digest,
            seed,
        ) and row.is_of(self._train[row.task], self._test_digest(row.task, row.dataset))

    def _digest_of_training(self, name: str) -> str | None:
        task = task_of(name)
        if isinstance(task, ZeroShotTask):
            return None
        data_set = choose_source(self._source.data_sets(task), self._recipe.data_of(name))
        return digest_of_training(self._source, task, data_set)

    def _test_digest(self, name: str, dataset: str) -> str:
        """As the judge takes it, of the items as the protocol sees them."""
        if (name, dataset) not in self._test:
            task = task_of(name)
            [data_set] = [known for known in self._source.data_sets(task) if known.name == dataset]
            protocol = Protocol(labels=self._recipe.tuning_of(name).labels)
            examples, _ = task.view(self._source.read(task, data_set, "test"), protocol)
            self._test[name, dataset] = digest_of_examples(examples)
        return self._test[name, dataset]


def results_of(recipe: Comparison, wanted: WantedResults | None = None) -> tuple[list[Result], int]:
    """The figures of a recipe in its results file, and how many others that file has.

    Others are of recipes that were followed there before, with other settings, text or data, or of targets, tasks,
    systems or seeds that this recipe does not ask for.

    Raises:
        XevalError: where there is no such file yet, or data cannot be used.
    """
    rows = [row for row in read_results(Path(recipe.out) / "results.jsonl") if row.value is not None]  # fmt: skip
    chosen = (wanted or WantedResults(recipe)).chosen(rows)
    return chosen, len(rows) - len(chosen)


def summary(rows: Iterable[Result]) -> dict[str, dict[str, float]]:
    """Task to system to its mean over targets and seeds, in each task's first metric."""
    values: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        if row.value is not None and row.bootstrap is None and row.metric == task_of(row.task).metrics[0]:  # fmt: skip
            values.setdefault(row.task, {}).setdefault(row.model, []).append(row.value)
    return {
        task: {system: sum(scores) / len(scores) for system, scores in systems.items()}
        for task, systems in values.items()
    }


def _digest(value: Mapping[str, Any] | Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
