"""The models of a comparison, each made once: students, sparse fine-tunings of languages and tasks, adapted students."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from bistil.compare.identity import WantedResults
from bistil.compare.recipe import Comparison, System
from bistil.errors import AdaptError
from bistil.extract.config import Extraction
from bistil.extract.run import extract
from bistil.losses.weights import PRESETS, TaskLossWeights
from bistil.lottery.config import Sparsity
from bistil.lottery.language import LanguageTraining, language_sft
from bistil.sparse.files import read_sparse
from bistil.tasks.adapt import adapt
from bistil.tasks.task_sft import apply_task, task_sft
from bistil.tasks.teacher import TaskTeacher
from bistil.tasks.training import TaskTraining
from teacherzoo.atomic_write import temporary_beside
from teacherzoo.encoders.kinds import model_layout
from teacherzoo.encoders.teachers import teacher_folder
from teacherzoo.processes import rank, wait_for_all
from teacherzoo.progress import ProgressCallback
from vocabmerge import Kind
from xeval import Protocol, open_source
from xeval.finetune.checkpoint import write_finetuned

BILINGUAL: dict[System, str] = {
    "bistil": "bistil",
    "no-task-teacher": "bistil",
    "full-fine-tuning": "bistil",
    "scratch": "mlm",
}
"""Systems with a student for each target, and the loss that it is extracted by."""
_BY_MASKED_WORDS = ("distilmbert", "scratch")
MULTILINGUAL: dict[System, str] = {"distilmbert": "distilmbert", "minilmv2": "minilmv2"}
"""Systems with one student for all targets, and the loss that it is extracted by."""


def require_kind(recipe: Comparison) -> None:
    """Refuse what masked words teach where the model has no masked-LM head.

    Raises:
        AdaptError: naming the key of the recipe to change.
    """
    kind = model_layout(teacher_folder(recipe.model)).kind
    if kind in (Kind.MASKED_LM, Kind.SPARSE):
        return
    taught = [system for system in recipe.systems if system in _BY_MASKED_WORDS]
    if taught:
        raise AdaptError(
            f"{recipe.model}: {' and '.join(taught)} learn by a masked-LM head, which a model of kind {kind.value!r} does not have; "
            "leave them out of `systems`, or give a masked LM."
        )
    if recipe.languages is not None:
        raise AdaptError(
            f"{recipe.model}: sparse fine-tunings of languages are learnt by a masked-LM head, which a model of kind {kind.value!r} "
            "does not have; write `languages: null`, or give a masked LM."
        )


class Models:
    """A comparison's models in its folder, under names that say what they are made of.

    What another recipe made in this folder is never taken for what this one would make; recipes that differ in the learning of
    tasks alone share students and languages, which take longest to make.

    Args:
        recipe: of the comparison.
        wanted: of it.
    """

    def __init__(self, recipe: Comparison, wanted: WantedResults) -> None:
        self._recipe, self._wanted = recipe, wanted
        self._out = Path(recipe.out)
        self._source = open_source(recipe.data)
        self._before_tasks = self._out / f"students-{wanted.digests.before_tasks[:8]}"

    @contextlib.contextmanager
    def with_task(
        self, system: System, task: str, target: str, seed: int, watch: ProgressCallback
    ) -> Iterator[Path]:
        """The folder, for the length of a block, of a system that knows a task and is to be used on a target."""
        if system in BILINGUAL:
            yield self._adapted(system, task, target, seed, watch)
            return
        model, label = self.base(system, target, seed, watch), self._wanted.labels[system]
        applied = apply_task(
            model,
            read_sparse(self._task_file(system, model, task, seed, watch)),
            language_sfts=[read_sparse(file) for file in self._languages(system, model, [target], watch)],
            name=label.name,
            digest=label.digest,
        )  # fmt: skip
        with temporary_beside(self._out / "with-task") as folder:
            if rank() == 0:
                write_finetuned(folder, applied)
            wait_for_all()
            yield folder

    def base(self, system: System, target: str, seed: int, watch: ProgressCallback) -> str:
        """What a system tunes: the multilingual model, or a student, extracted now if it is not there."""
        if system == "full-teacher":
            return self._recipe.model
        shared = system in MULTILINGUAL
        preset = MULTILINGUAL[system] if shared else BILINGUAL[system]
        folder = self._before_tasks / f"{preset}-{'all' if shared else target}-seed{seed}"
        if folder.is_dir():
            return str(folder)
        recipe = self._recipe
        others = [code for code in recipe.corpora if code != recipe.source] if shared else [target]
        with_sfts = preset == "bistil" and recipe.languages is not None
        names = [recipe.source, *others]
        files = self._languages("full-teacher", recipe.model, names, watch) if with_sfts else []
        extract(
            recipe.model,
            {code: recipe.corpora[code] for code in names},
            folder,
            source=recipe.source,
            targets=others,
            extraction=Extraction(
                **recipe.extract.model_dump(),
                loss=PRESETS[preset],
                init="random" if preset == "mlm" else "teacher",
                keep_vocabulary=shared,
                seed=seed,
            ),
            language_sfts=dict(zip(names, files, strict=True)) if with_sfts else {},
            cache_dir=self._before_tasks / "cache",
            watch=watch,
        )
        return str(folder)

    def _languages(
        self, system: System, model: str, languages: Sequence[str], watch: ProgressCallback
    ) -> list[Path]:
        """The model's sparse fine-tunings of some languages, made now if they are not there."""
        plan = self._recipe.languages
        if plan is None:
            return []
        files = []
        for language in languages:
            place = "languages" if system == "full-teacher" else Path(model).name
            file = self._before_tasks / "sft" / place / f"{language}.safetensors"
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

    def _task_file(
        self, system: System, model: str, task: str, seed: int, watch: ProgressCallback
    ) -> Path:
        """The model's sparse fine-tuning of a task under the source's language, made now if it is not there."""
        place = "tasks" if system == "full-teacher" else Path(model).name
        file = self._of_task(task) / "sft" / place / f"seed{seed}.safetensors"
        if not file.is_file():
            languages = self._languages(system, model, [self._recipe.source], watch)
            task_sft(
                model, file, task=task, source=self._source, language=self._recipe.data_of(task),
                language_sfts=languages, training=self._training(task, seed), watch=watch,
            )  # fmt: skip
        return file

    def _adapted(
        self, system: System, task: str, target: str, seed: int, watch: ProgressCallback
    ) -> Path:
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
            self.base(system, target, seed, watch),
            folder,
            task=task,
            source=self._source,
            language=recipe.data_of(task),
            teacher=teacher,
            training=self._training(task, seed, full=system == "full-fine-tuning"),
            loss=TaskLossWeights(gold=tune.gold, times_t_squared=tune.times_t_squared),
            label=self._wanted.labels[system],
            watch=watch,
        )  # fmt: skip

    def _of_task(self, task: str) -> Path:
        """Where models of a task lie, which other data of the task makes anew."""
        digest = self._wanted.train_digest(task)
        return self._out / self._wanted.digests.of_all[:8] / f"{task}-{digest[:8]}"

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
