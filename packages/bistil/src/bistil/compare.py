"""BiStil beside what it is compared with: the same data, steps and code, several targets, tasks and seeds."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bistil.adapt import Identity, TaskTeacher, adapt
from bistil.compare_recipe import Comparison, System
from bistil.distilling import Distillation
from bistil.errors import AdaptError
from bistil.extract import extract
from bistil.extraction import Extraction
from bistil.language_sft import LanguageTraining, language_sft
from bistil.lottery import Sparsity
from bistil.sparse_file import read_sparse
from bistil.task_sft import task_sft, wear_task
from bistil.task_training import TaskTraining
from bistil.terms import STYLES
from xeval import (
    DataSet,
    Protocol,
    Result,
    append_cost,
    cost,
    open_source,
    read_costs,
    read_results,
    score,
    task_of,
)
from xeval.encoder import model_digest
from xeval.source import choose_targets
from xeval.tuned import write_tuned

Watch = Callable[[int, int, str], None]
_BILINGUAL: dict[System, str] = {
    "bistil": "bistil",
    "no-task-teacher": "bistil",
    "full-fine-tuning": "bistil",
    "scratch": "mlm",
}
# Parts of a recipe that no student depends on.
_OF_TASKS = ("tune", "tune_by_task", "data", "sources")
_MULTILINGUAL: dict[System, str] = {"distilmbert": "distilmbert", "minilmv2": "minilmv2"}


def compare(
    recipe: Comparison, *, watch: Watch = lambda done, total, what: None
) -> tuple[Path, list[str]]:
    """Make every system for every target, task and seed, and let the judge score it.

    What the results file has is not done again, and what was interrupted goes on; a changed recipe, or another model, is
    made anew beside.

    bistil: extracted for source and target, adapted under a task teacher. full-teacher: the multilingual model with
    sparse fine-tunings of target and task. distilmbert, minilmv2: one student of all the corpora with the whole
    vocabulary, by that method's loss, then tuned and worn as the full teacher is. scratch: bistil's shape with random
    weights, masked-LM training on both languages, adapted on labels. no-task-teacher: bistil's student adapted on labels.
    full-fine-tuning: bistil with all weights free in phase 2. Students of all systems train for the same number of
    steps, on batches of one size.

    In results a system goes by its name and a digest of the recipe, so that targets and seeds are of one model.

    Args:
        recipe: what to do.
        watch: told (done, total, what).

    Returns:
        The results file, and notes on what could not be compared.

    Raises:
        BistilError, TeacherzooError, VocabularyError, XevalError: for what cannot be made; they say why.
    """
    found, notes = _test_sets(recipe)
    plan = [
        (system, task, target, seed)
        for seed in range(recipe.seeds)
        for task, target in found
        for system in recipe.systems
    ]
    bench = _Bench(recipe)
    for number, (system, task, target, seed) in enumerate(plan):
        label = f"{number + 1} of {len(plan)}: {system}, {task} {target}, seed {seed}"
        inner = _labelled(watch, label)
        inner(0, 0, "looking")
        if not bench.has(system, task, found[task, target], seed):
            bench.run(system, task, target, found[task, target], seed, inner)
    for system in recipe.systems:
        bench.price(system)
    return bench.results, notes


def _labelled(watch: Watch, label: str) -> Watch:
    return lambda done, total, what: watch(done, total, f"{label}: {what}")


def _test_sets(recipe: Comparison) -> tuple[dict[tuple[str, str], Sequence[DataSet]], list[str]]:
    """(task, target) to its test sets, and notes on pairs that have none."""
    from xeval import XevalError

    source = open_source(recipe.data)
    found: dict[tuple[str, str], Sequence[DataSet]] = {}
    notes = []
    for task in recipe.tasks:
        sets = source.data_sets(task_of(task))
        for target in recipe.targets:
            try:
                found[task, target] = choose_targets(sets, [target])[0]
            except XevalError as error:
                notes.append(f"{task} {target} was left out: {error}")
        if not any(name == task for name, _ in found):
            raise AdaptError(f"{recipe.data}: there is no test set of {task!r} for any of {', '.join(recipe.targets)}; change tasks or targets.")  # fmt: skip
    return found, notes


class _Bench:
    """The folder of a comparison, and how each thing in it is made when it is needed."""

    def __init__(self, recipe: Comparison) -> None:
        self._recipe = recipe
        self._out = Path(recipe.out)
        self._out.mkdir(parents=True, exist_ok=True)
        self.results, self._costs = self._out / "results.jsonl", self._out / "costs.jsonl"
        self._source = open_source(recipe.data)
        self._decides = {
            "model_digest": model_digest(recipe.model),
            **recipe.model_dump(
                exclude={"out", "targets", "tasks", "systems", "seeds", "tune_by_task"}
            ),
            # What is left open is not stated, so that a recipe keeps its name when there is more to leave open.
            **{
                part: getattr(recipe, part).model_dump(exclude_none=True)
                for part in ("extract", "tune")
            },
        }
        if recipe.tune_by_task:
            self._decides["tune_by_task"] = {task: recipe.tuning_of(task).model_dump(exclude_none=True) for task in recipe.tune_by_task}  # fmt: skip
        # What another recipe made in this folder is never taken for what this one would make; recipes that differ in the
        # learning of tasks alone share students and languages, which take longest to make.
        before_tasks = {name: its for name, its in self._decides.items() if name not in _OF_TASKS}
        self._untasked = self._out / f"students-{_digest(before_tasks)[:8]}"
        self._made = self._out / _digest(self._decides)[:8]
        self._known = {
            (r.model, r.model_digest, r.task, r.dataset, r.seed)
            for r in (read_results(self.results) if self.results.is_file() else [])
            if r.value is not None
        }

    def has(self, system: System, task: str, sets: Sequence[DataSet], seed: int) -> bool:
        """Whether the results have it."""
        name = self._identity(system)
        return all((name.name, name.digest, task, one.name, seed) in self._known for one in sets)

    def run(
        self,
        system: System,
        task: str,
        target: str,
        sets: Sequence[DataSet],
        seed: int,
        watch: Watch,
    ) -> list[Result]:
        """Make one system for one target and task, and score it."""
        wanted = [one.short for one in sets]
        if system in _BILINGUAL:
            folder = self._adapted(system, task, target, seed, watch)
            return score(folder, self.results, source=self._source, languages=wanted, watch=watch)
        model = self._model(system, target, seed, watch)
        worn = wear_task(
            model,
            read_sparse(self._task_file(system, model, task, seed, watch)),
            language_sfts=[read_sparse(file) for file in self._languages(system, model, [target], watch)],
            name=self._identity(system).name,
            digest=self._identity(system).digest,
        )  # fmt: skip
        with tempfile.TemporaryDirectory(dir=self._out, prefix=".worn-") as place:
            write_tuned(Path(place) / "worn", worn)
            return score(Path(place) / "worn", self.results, source=self._source, languages=wanted, watch=watch)  # fmt: skip

    def price(self, system: System) -> None:
        """Append what a system's model costs, measured on that of the first target and seed."""
        identity = self._identity(system)
        known = read_costs(self._costs) if self._costs.is_file() else {}
        if identity.digest not in known:
            model = self._model(system, self._recipe.targets[0], 0, lambda done, total, what: None)
            priced = cost(model, length=self._recipe.tune.length)
            append_cost(
                self._costs, replace(priced, model=identity.name, model_digest=identity.digest)
            )

    def _identity(self, system: System) -> Identity:
        return Identity(name=system, digest=_digest([system, self._decides]))

    def _model(self, system: System, target: str, seed: int, watch: Watch) -> str:
        """What a system tunes: the multilingual model, or a student, extracted now if it is not there."""
        if system == "full-teacher":
            return self._recipe.model
        shared = system in _MULTILINGUAL
        style = _MULTILINGUAL[system] if shared else _BILINGUAL[system]
        folder = self._untasked / f"{style}-{'all' if shared else target}-seed{seed}"
        if folder.is_dir():
            return str(folder)
        recipe = self._recipe
        others = [code for code in recipe.corpora if code != recipe.source] if shared else [target]
        worn = style == "bistil" and recipe.languages is not None
        names = [recipe.source, *others]
        files = self._languages("full-teacher", recipe.model, names, watch) if worn else []
        extract(
            recipe.model,
            {code: recipe.corpora[code] for code in names},
            folder,
            source=recipe.source,
            targets=others,
            extraction=Extraction(
                **recipe.extract.model_dump(),
                terms=STYLES[style],
                init="random" if style == "mlm" else "teacher",
                keep_vocabulary=shared,
                seed=seed,
            ),
            language_sfts=dict(zip(names, files, strict=True)) if worn else {},
            shelf=self._untasked / "text",
            watch=watch,
        )
        return str(folder)

    def _languages(
        self, system: System, model: str, languages: Sequence[str], watch: Watch
    ) -> list[Path]:
        """The model's sparse fine-tunings of some languages, made now if they are not there."""
        plan = self._recipe.languages
        if plan is None:
            return []
        files = []
        for language in languages:
            place = "languages" if system == "full-teacher" else Path(model).name
            file = self._untasked / "sft" / place / f"{language}.safetensors"
            if not file.is_file():
                language_sft(
                    model, self._recipe.corpora[language], file, language=language, watch=watch,
                    training=LanguageTraining(
                        **plan.model_dump(include={"steps", "batch", "length", "learning_rate", "evaluate_every"}),
                        checkpoint_every=plan.evaluate_every,
                    ),
                    sparsity=Sparsity(density=plan.density, l1=plan.l1, full_steps=plan.full_steps),
                )  # fmt: skip
            files.append(file)
        return files

    def _task_file(self, system: System, model: str, task: str, seed: int, watch: Watch) -> Path:
        """The model's sparse fine-tuning of a task under the source's language, made now if it is not there."""
        place = "tasks" if system == "full-teacher" else Path(model).name
        file = self._made / "sft" / place / f"{task}-seed{seed}.safetensors"
        if not file.is_file():
            worn = self._languages(system, model, [self._recipe.source], watch)
            task_sft(
                model, file, task=task, source=self._source, language=self._recipe.data_of(task),
                language_sfts=worn, training=self._training(task, seed), watch=watch,
            )  # fmt: skip
        return file

    def _adapted(self, system: System, task: str, target: str, seed: int, watch: Watch) -> Path:
        folder = self._made / "adapted" / f"{system}-{task}-{target}-seed{seed}"
        if folder.is_dir():
            return folder
        recipe, teacher = self._recipe, None
        tune = recipe.tuning_of(task)
        if system in ("bistil", "full-fine-tuning"):
            teacher = TaskTeacher(
                model=recipe.model,
                task_sft=self._task_file("full-teacher", recipe.model, task, seed, watch),
                language_sfts=self._languages("full-teacher", recipe.model, [recipe.source], watch),
            )
        return adapt(
            self._model(system, target, seed, watch),
            folder,
            task=task,
            source=self._source,
            language=recipe.data_of(task),
            teacher=teacher,
            training=self._training(task, seed, full=system == "full-fine-tuning"),
            distillation=Distillation(gold=tune.gold, times_t_squared=tune.times_t_squared),
            identity=self._identity(system),
            watch=watch,
        )  # fmt: skip

    def _training(self, task: str, seed: int, *, full: bool = False) -> TaskTraining:
        tune = self._recipe.tuning_of(task)
        protocol = Protocol(
            steps=tune.steps, batch_size=tune.batch, learning_rate=tune.learning_rate, warmup=tune.warmup,
            weight_decay=0.0, evaluate_every=tune.evaluate_every, patience=tune.patience, max_length=tune.length,
            precision=tune.precision, labels=tune.labels, pooling=tune.pooling or Protocol().pooling,
        )  # fmt: skip
        sparsity = Sparsity(full=True) if full else Sparsity(density=tune.density, full_steps=tune.full_steps)  # fmt: skip
        return TaskTraining(protocol=protocol, sparsity=sparsity, seed=seed)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def summary(results: Path) -> dict[str, dict[str, float]]:
    """Task to system to its mean over targets and seeds, in each task's first metric."""
    sums: dict[str, dict[str, list[float]]] = {}
    for result in read_results(results):
        if result.value is not None and result.bootstrap is None and result.metric == task_of(result.task).metrics[0]:  # fmt: skip
            sums.setdefault(result.task, {}).setdefault(result.model, []).append(result.value)
    return {
        task: {system: sum(its) / len(its) for system, its in systems.items()}
        for task, systems in sums.items()
    }
