"""The models of a comparison, each made once: students, sparse fine-tunings of languages and tasks, adapted students."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from bistil.compare.identity import WantedResults
from bistil.compare.recipe import Comparison
from bistil.compare.systems import OF_ALL_LANGUAGES, SYSTEMS, Model, System
from bistil.encoders.capture import layers_of
from bistil.errors import AdaptError
from bistil.extract.config import Extraction
from bistil.extract.run import extract
from bistil.losses.weights import PRESETS, LossWeights, TaskLossWeights
from bistil.lottery.config import Sparsity
from bistil.lottery.language import LanguageTraining, language_sft
from bistil.sparse.files import read_sparse
from bistil.tasks.adapt import adapt
from bistil.tasks.data import read_task
from bistil.tasks.task_sft import apply_task, task_sft
from bistil.tasks.teacher import TaskTeacher
from bistil.tasks.training import TaskTraining
from bistil.tasks.unlabelled import LINES, UnlabelledText, require_lines
from teacherzoo.atomic_write import temporary_beside
from teacherzoo.encoders.families import longest_row
from teacherzoo.encoders.kinds import model_layout, shell_of
from teacherzoo.encoders.layers import spread_layers
from teacherzoo.encoders.teachers import teacher_folder
from teacherzoo.processes import rank, wait_for_all
from teacherzoo.progress import ProgressCallback
from vocabmerge import Kind, read_vocabulary
from xeval import FineTunedTask, Protocol, open_source, task_of
from xeval.cost.parameters import Parameters, parameters_of
from xeval.finetune.checkpoint import write_finetuned

_PRESETS = {
    "paper": "bistil",
    "states": "states",
    "distilmbert": "distilmbert",
    "minilmv2": "minilmv2",
}  # losses of their own
_UNTRAINED = ("trimmed", "small", "cut")  # of which no seed makes another
_BY_MASKED_WORDS = ("distilmbert",)


def require_kind(recipe: Comparison) -> None:
    """Refuse what masked words teach where the model has no masked-LM head.

    Raises:
        AdaptError: naming the key of the recipe to change.
    """
    if _has_words(recipe.model):
        return
    kind = model_layout(teacher_folder(recipe.model)).kind
    taught = [name for name in recipe.systems if SYSTEMS[name].model in _BY_MASKED_WORDS]
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


def require_rows(recipe: Comparison) -> None:
    """Refuse rows that are longer than the model reads, at whose length all systems are timed in the end.

    Raises:
        AdaptError: naming the key of the recipe to change.
    """
    longest = longest_row(shell_of(model_layout(teacher_folder(recipe.model))).config)
    if longest is not None and recipe.tune.length > longest:
        raise AdaptError(
            f"tune.length: {recipe.model} reads at most {longest:,} tokens, got {recipe.tune.length:,}; set no more than that."
        )


def require_lines_of_text(recipe: Comparison) -> None:
    """Refuse systems that learn from lines of text where a task has examples of another kind.

    Raises:
        AdaptError: naming the task.
        XevalError: for data that cannot be used.
    """
    if not any(SYSTEMS[name].text for name in recipe.systems):
        return
    source, protocol = open_source(recipe.data), Protocol()
    for task in recipe.tasks:
        if isinstance(task_of(task), FineTunedTask):
            require_lines(read_task(task, source, recipe.data_of(task), protocol), "the systems with +text")  # fmt: skip


def _has_words(model: str) -> bool:
    return model_layout(teacher_folder(model)).kind in (Kind.MASKED_LM, Kind.SPARSE)


def size_within(room: int, model: Parameters, *, pieces: int, layers: int) -> tuple[int, int] | None:  # fmt: skip
    """Pieces and layers that a model keeps to have at most `room` parameters: all layers, as long as a quarter of its pieces stay.

    Args:
        room: parameters.
        model: its own.
        pieces: of its vocabulary.
        layers: that it has.

    Returns:
        Pieces and layers; None where not even one layer fits.

    Example:
        >>> size_within(170, Parameters(architecture="", vocabulary=100, embeddings=110, body=90, head=0), pieces=50, layers=3)
        (35, 3)
    """
    width = model.vocabulary // pieces
    for depth in range(layers, 0, -1):
        fixed = model.total - model.vocabulary - (layers - depth) * (model.body // layers)
        if (kept := min(pieces, (room - fixed) // width)) >= pieces / 4:
            return kept, depth
    return None


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
        self, system: str, task: str, target: str, seed: int, watch: ProgressCallback
    ) -> Iterator[Path]:
        """The folder, for the length of a block, of a system that knows a task and is to be used on a target."""
        chosen = SYSTEMS[system]
        if chosen.taught or chosen.full or not self._keeps_vocabulary(chosen.model):
            yield self._adapted(chosen, task, target, seed, watch)
            return
        model, label = self.base(chosen.model, target, seed, watch), self._wanted.labels[system]
        applied = apply_task(
            model,
            read_sparse(self._task_file(chosen.model, model, task, seed, watch)),
            language_sfts=[read_sparse(file) for file in self._languages(chosen.model, model, [target], watch)],
            name=label.name,
            digest=label.digest,
        )  # fmt: skip
        with temporary_beside(self._out / "with-task") as folder:
            if rank() == 0:
                write_finetuned(folder, applied)
            wait_for_all()
            yield folder

    def base(self, model: Model, target: str, seed: int, watch: ProgressCallback) -> str:
        """What learns a task: the multilingual model, or a student, extracted now if it is not there."""
        if model == "whole":
            return self._recipe.model
        seed = 0 if model in _UNTRAINED else seed
        folder = (
            self._before_tasks
            / f"{self._with_teacher(model, model)}-{self._place(model, target)}-seed{seed}"
        )
        if folder.is_dir():
            return str(folder)
        recipe = self._recipe
        others = self._others(model, target)
        with_sfts = model == "bistil" and recipe.languages is not None
        names = [recipe.source, *others]
        files = self._languages("whole", recipe.model, names, watch) if with_sfts else []
        extract(
            recipe.model,
            {code: recipe.corpora[code] for code in names},
            folder,
            source=recipe.source,
            targets=others,
            extraction=self._extraction(model, target, seed, watch),
            language_sfts=dict(zip(names, files, strict=True)) if with_sfts else {},
            teacher_tasks=recipe.tasks_of_teacher() if model == "multitask" else None,
            cache_dir=self._before_tasks / "cache",
            watch=watch,
        )
        return str(folder)

    def _extraction(self, model: Model, target: str, seed: int, watch: ProgressCallback) -> Extraction:  # fmt: skip
        stated = self._recipe.extract
        loss = LossWeights.only(**stated.terms) if stated.terms else None
        if model in _PRESETS:
            loss = PRESETS[_PRESETS[model]]
        if model == "scratch" and self._has_words:
            loss = PRESETS["mlm"]
        extraction = Extraction(
            **stated.model_dump(exclude={"terms"}),
            loss=loss,
            init="random" if model == "scratch" else "teacher",
            keep_vocabulary=self._keeps_vocabulary(model),
            seed=seed,
        )
        if model in _UNTRAINED:
            extraction = replace(extraction, steps=0)
        if model == "paper":
            extraction = replace(extraction, layers="last")
        if model == "trimmed":
            extraction = replace(
                extraction, reduction=1, layers=None, width=None, feed_forward=None, heads=None
            )
        if model == "small":
            extraction = replace(extraction, width=None, feed_forward=None, heads=None, **self._as_small_as_cut(target, watch))  # fmt: skip
        return extraction

    def _as_small_as_cut(self, target: str, watch: ProgressCallback) -> dict[str, Any]:
        """Layers and pieces of a trim that has the parameters of `cut`, or hardly fewer: as many layers as leave room for words."""
        cut, trimmed = (Path(self.base(model, target, 0, watch)) for model in ("cut", "trimmed"))
        depth = len(layers_of(shell_of(model_layout(trimmed))))
        pieces = len(read_vocabulary(trimmed))
        size = size_within(parameters_of(cut).total, parameters_of(trimmed), pieces=pieces, layers=depth)  # fmt: skip
        if size is None:
            raise AdaptError(f"{self._recipe.model}: no trim of it is as small as its student; leave small out of `systems`.")  # fmt: skip
        top, layers = size
        return {"layers": spread_layers(depth, layers, "last"), "top": top}

    @cached_property
    def _has_words(self) -> bool:
        """Whether the model has a masked-LM head."""
        return _has_words(self._recipe.model)

    def _others(self, model: Model, target: str) -> list[str]:
        """Beside the source, the languages that a model is for."""
        codes = self._recipe.corpora if self._is_shared(model) else [target]
        return [code for code in codes if code != self._recipe.source]

    def _is_shared(self, model: Model) -> bool:
        """Whether one model is for all targets."""
        if model == "whole":
            return True
        if self._recipe.students == "published":
            return model in OF_ALL_LANGUAGES
        return self._recipe.students == "shared"

    def _keeps_vocabulary(self, model: Model) -> bool:
        return model == "whole" or (self._recipe.students == "published" and model in OF_ALL_LANGUAGES)  # fmt: skip

    def _with_teacher(self, name: str, model: Model) -> str:
        """The name with what its teacher was tuned on, where that is no part of the rest of the recipe."""
        return f"{name}-{self._wanted.digests.of_teacher[:8]}" if model == "multitask" else name

    def _place(self, model: Model, target: str) -> str:
        return "all" if self._is_shared(model) else target

    def _languages(
        self, kind: Model, model: str, languages: Sequence[str], watch: ProgressCallback
    ) -> list[Path]:
        """The model's sparse fine-tunings of some languages, made now if they are not there."""
        plan = self._recipe.languages
        if plan is None:
            return []
        files = []
        for language in languages:
            place = "languages" if kind == "whole" else Path(model).name
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
        self, kind: Model, model: str, task: str, seed: int, watch: ProgressCallback
    ) -> Path:
        """The model's sparse fine-tuning of a task under the source's language, made now if it is not there."""
        place = "tasks" if kind == "whole" else Path(model).name
        file = self._of_task(task) / "sft" / place / f"seed{seed}.safetensors"
        if not file.is_file():
            languages = self._languages(kind, model, [self._recipe.source], watch)
            task_sft(
                model, file, task=task, source=self._source, language=self._recipe.data_of(task),
                language_sfts=languages, training=self._training(task, seed), watch=watch,
            )  # fmt: skip
        return file

    def _adapted(
        self, system: System, task: str, target: str, seed: int, watch: ProgressCallback
    ) -> Path:
        name = f"{self._with_teacher(system.name, system.model)}-{self._place(system.model, target)}-seed{seed}"
        folder = self._of_task(task) / "adapted" / name
        if folder.is_dir():
            return folder
        recipe, teacher, text = self._recipe, None, None
        tune = recipe.tuning_of(task)
        if system.taught:
            teacher = self._teacher(system, task, target, seed, watch)
        if system.text:
            codes = [recipe.source, *self._others(system.model, target)]
            sources = {code: [recipe.corpora[code]] for code in codes}
            text = UnlabelledText(sources=sources, lines=tune.lines or LINES)
        return adapt(
            self.base(system.model, target, seed, watch),
            folder,
            task=task,
            source=self._source,
            language=recipe.data_of(task),
            teacher=teacher,
            training=self._training(task, seed, full=system.full),
            loss=TaskLossWeights.suited(
                text=system.text, gold=tune.gold, times_t_squared=tune.times_t_squared
            ),
            text=text,
            label=self._wanted.labels[system.name],
            watch=watch,
        )

    def _teacher(
        self, system: System, task: str, target: str, seed: int, watch: ProgressCallback
    ) -> TaskTeacher:
        recipe = self._recipe
        # Sparse fine-tunings of languages want a teacher that is tuned sparsely on top of them.
        if system.full and recipe.languages is None:
            return TaskTeacher(
                model=self._adapted(SYSTEMS["whole+full"], task, target, seed, watch)
            )
        return TaskTeacher(
            model=recipe.model,
            task_sft=self._task_file("whole", recipe.model, task, seed, watch),
            language_sfts=self._languages("whole", recipe.model, [recipe.source], watch),
        )

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
