"""BiStil beside what it is compared with: the same data, steps and code, several targets, tasks and seeds."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from bistil.compare.identity import Contents, Wanted, results_of, summary
from bistil.compare.recipe import Comparison, System
from bistil.extract.config import Extraction
from bistil.extract.run import extract
from bistil.losses.weights import PRESETS, TaskLossWeights
from bistil.lottery.language import LanguageTraining, language_sft
from bistil.lottery.lottery_ticket import Sparsity
from bistil.sparse.files import read_sparse
from bistil.tasks.adapt import ResultLabel, adapt
from bistil.tasks.task_sft import apply_task, task_sft
from bistil.tasks.teacher import TaskTeacher
from bistil.tasks.training import TaskTraining
from teacherzoo.processes import rank, wait_for_all
from xeval import DataSet, Protocol, append_cost, cost, open_source, read_costs, read_results, score
from xeval.finetune.checkpoint import write_finetuned

__all__ = ["compare", "results_of", "summary"]

Watch = Callable[[int, int, str], None]
_BILINGUAL: dict[System, str] = {
    "bistil": "bistil",
    "no-task-teacher": "bistil",
    "full-fine-tuning": "bistil",
    "scratch": "mlm",
}
_MULTILINGUAL: dict[System, str] = {"distilmbert": "distilmbert", "minilmv2": "minilmv2"}


def compare(
    recipe: Comparison, *, watch: Watch = lambda done, total, what: None
) -> tuple[Path, list[str]]:
    """Make every system for every target, task and seed, and let the judge score it.

    What the results file has is not done again, and what was interrupted goes on; a changed recipe, another model or
    other texts are made anew beside, and so is what depends on a task's data where that changed. Where things lie makes no
    difference.

    bistil: extracted for source and target, adapted under a task teacher. full-teacher: the multilingual model with
    sparse fine-tunings of target and task. distilmbert, minilmv2: one student of all the corpora with the whole
    vocabulary, by that method's loss, then tuned and worn as the full teacher is. scratch: bistil's shape with random
    weights, masked-LM training on both languages, adapted on labels. no-task-teacher: bistil's student adapted on labels.
    full-fine-tuning: bistil with all weights free in phase 2, for the steps of both phases of the others. All train for the
    same number of steps, on batches of one size.

    In results a system goes by its name and a digest of the recipe, so that targets and seeds are of one model.

    Args:
        recipe: what to do.
        watch: told (done, total, what).

    Returns:
        The results file, and notes on what could not be compared.

    Raises:
        BistilError, TeacherzooError, VocabularyError, XevalError: for what cannot be made; they say why.
    """
    contents = Contents(recipe)
    wanted = Wanted(recipe, contents)
    plan = [
        (system, task, target, seed)
        for seed in range(recipe.seeds)
        for task, target in wanted.sets
        for system in recipe.systems
    ]
    bench = _Bench(recipe, contents, wanted)
    for number, (system, task, target, seed) in enumerate(plan):
        sets = wanted.sets[task, target]
        inner = _labelled(watch, f"{number + 1} of {len(plan)}: {system} {task} {target} seed {seed}")  # fmt: skip
        inner(0, 0, "looking")
        if not wanted.has(bench.known, system, task, sets, seed):
            bench.run(system, task, target, sets, seed, inner)
    for system in recipe.systems:
        bench.price(system, plan[0][2])
    return bench.results, wanted.notes


def _labelled(watch: Watch, label: str) -> Watch:
    return lambda done, total, what: watch(done, total, f"{label}: {what}")


class _Bench:
    """The folder of a comparison, and how each thing in it is made when it is needed."""

    def __init__(self, recipe: Comparison, contents: Contents, wanted: Wanted) -> None:
        self._recipe, self._contents, self._wanted = recipe, contents, wanted
        self._out = Path(recipe.out)
        self._out.mkdir(parents=True, exist_ok=True)
        self.results, self._costs = self._out / "results.jsonl", self._out / "costs.jsonl"
        self._source = open_source(recipe.data)
        # What another recipe made in this folder is never taken for what this one would make; recipes that differ in the
        # learning of tasks alone share students and languages, which take longest to make.
        self._untasked = self._out / f"students-{contents.before_tasks[:8]}"
        self.known = read_results(self.results) if self.results.is_file() else []
        wait_for_all()  # no process adds to the file before all have read it

    def run(
        self,
        system: System,
        task: str,
        target: str,
        sets: Sequence[DataSet],
        seed: int,
        watch: Watch,
    ) -> None:
        """Make one system for one target and task, and score it."""
        if system in _BILINGUAL:
            self._score(self._adapted(system, task, target, seed, watch), sets, watch)
            return
        model = self._model(system, target, seed, watch)
        worn = apply_task(
            model,
            read_sparse(self._task_file(system, model, task, seed, watch)),
            language_sfts=[read_sparse(file) for file in self._languages(system, model, [target], watch)],
            name=self._identity(system).name,
            digest=self._identity(system).digest,
        )  # fmt: skip
        with tempfile.TemporaryDirectory(dir=self._out, prefix=".worn-") as place:
            if rank() == 0:
                write_finetuned(Path(place) / "worn", worn)
            self._score(Path(place) / "worn", sets, watch)

    def _score(self, folder: Path, sets: Sequence[DataSet], watch: Watch) -> None:
        """By the first process alone, while the others wait."""
        if rank() == 0:
            wanted = [one.short for one in sets]
            score(folder, self.results, source=self._source, languages=wanted, watch=watch)
        wait_for_all()

    def price(self, system: System, target: str) -> None:
        """Append what a system's model costs, measured on that of a target and the first seed, if that is not known."""
        identity = self._identity(system)
        known = identity.digest in (read_costs(self._costs) if self._costs.is_file() else {})
        wait_for_all()
        if known:
            return
        model = self._model(system, target, 0, lambda done, total, what: None)
        if rank() == 0:
            priced = cost(model, length=self._recipe.tune.length)
            named = replace(priced, model=identity.name, model_digest=identity.digest)
            append_cost(self._costs, named)
        wait_for_all()

    def _identity(self, system: System) -> ResultLabel:
        return self._contents.identities[system]

    def _of_task(self, task: str) -> Path:
        """Where models of a task lie, which other data of the task makes anew."""
        return (
            self._out / self._contents.of_all[:8] / f"{task}-{self._wanted.train_digest(task)[:8]}"
        )

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
                loss=PRESETS[style],
                init="random" if style == "mlm" else "teacher",
                keep_vocabulary=shared,
                seed=seed,
            ),
            language_sfts=dict(zip(names, files, strict=True)) if worn else {},
            cache_dir=self._untasked / "cache",
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
        file = self._of_task(task) / "sft" / place / f"seed{seed}.safetensors"
        if not file.is_file():
            worn = self._languages(system, model, [self._recipe.source], watch)
            task_sft(
                model, file, task=task, source=self._source, language=self._recipe.data_of(task),
                language_sfts=worn, training=self._training(task, seed), watch=watch,
            )  # fmt: skip
        return file

    def _adapted(self, system: System, task: str, target: str, seed: int, watch: Watch) -> Path:
        folder = self._of_task(task) / "adapted" / f"{system}-{target}-seed{seed}"
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
            loss=TaskLossWeights(gold=tune.gold, times_t_squared=tune.times_t_squared),
            label=self._identity(system),
            watch=watch,
        )  # fmt: skip

    def _training(self, task: str, seed: int, *, full: bool = False) -> TaskTraining:
        tune = self._recipe.tuning_of(task)
        protocol = Protocol(
            steps=tune.steps, batch_size=tune.batch, learning_rate=tune.learning_rate, warmup=tune.warmup,
            weight_decay=0.0, evaluate_every=tune.evaluate_every, patience=tune.patience, max_length=tune.length,
            precision=tune.precision, labels=tune.labels, pooling=tune.pooling or Protocol().pooling,
        )  # fmt: skip
        full_steps = tune.full_steps or tune.steps
        # Fine-tuning in one phase takes the steps of both, so that every system is optimised for as long.
        sparsity = Sparsity(full=True, full_steps=full_steps) if full else Sparsity(density=tune.density, full_steps=full_steps)  # fmt: skip
        return TaskTraining(protocol=protocol, sparsity=sparsity, seed=seed)
