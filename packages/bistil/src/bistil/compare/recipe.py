"""The recipe of a comparison: one multilingual model, some targets and tasks, the systems to compare; one YAML file, checked whole."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from bistil.compare.systems import PUBLISHED, SYSTEMS, require_system
from bistil.errors import AdaptError, ExtractError
from bistil.losses.weights import LossWeights
from bistil.multitask.config import PROTOCOL, Sampling, TeacherTasks
from teacherzoo.encoders.layers import Strategy
from teacherzoo.nearest import nearest
from teacherzoo.yaml_values import read_recipe_values
from xeval import FineTunedTask, XevalError, task_of

# In YAML a sequence is a list.
_NotStrict = Field(strict=False)


class _Part(BaseModel):
    # Strict: `true` is not 1, nor is "1" or 1.0.
    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False, strict=True
    )


class Extracting(_Part):
    """Phase 1, the same for every student (see `bistil extract`)."""

    reduction: Annotated[int, Field(ge=1)] = 2
    layers: Strategy | Annotated[tuple[int, ...], _NotStrict] | None = None
    """Which of the model's layers students take; None for what suits the model's kind."""
    width: Annotated[int, Field(ge=1)] | None = None
    feed_forward: Annotated[int, Field(ge=1)] | None = None
    heads: Annotated[int, Field(ge=1)] | None = None
    steps: Annotated[int, Field(ge=1)] = 200_000
    batch: Annotated[int, Field(ge=1)] = 8
    length: Annotated[int, Field(ge=8)] = 256
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    checkpoint_every: Annotated[int, Field(ge=1)] = 5000
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    terms: dict[str, float] | None = None
    """Of the loss of `bistil` and, where the model has no masked-LM head, of `scratch`; None for what suits the model's kind."""

    @field_validator("layers", mode="before")
    @classmethod
    def _strategy_or_numbers(cls, layers: Any) -> Any:
        numbers = isinstance(layers, list | tuple) and all(
            type(layer) is int and layer >= 0 for layer in layers
        )
        if not (numbers or layers is None or layers in get_args(Strategy)):
            raise ValueError(
                f"expected {', '.join(get_args(Strategy))} or numbers of layers such as [0, 3, 5], got {layers!r}"
            )
        return layers

    @field_validator("terms")
    @classmethod
    def _terms_exist(cls, terms: dict[str, float] | None) -> dict[str, float] | None:
        try:
            LossWeights.only(**terms or {"hidden": 1.0})
        except ExtractError as error:
            raise ValueError(str(error)) from error
        return terms


class LanguageTuning(_Part):
    """Sparse fine-tunings of the languages, on the whole model (see `bistil sft --corpus`)."""

    steps: Annotated[int, Field(ge=1)] = 10_000
    full_steps: Annotated[int, Field(ge=1)] | None = None
    batch: Annotated[int, Field(ge=1)] = 8
    length: Annotated[int, Field(ge=8)] = 256
    learning_rate: Annotated[float, Field(gt=0)] = 5e-5
    density: Annotated[float, Field(gt=0, le=1)] = 0.043
    l1: Annotated[float, Field(ge=0)] = 0.1
    evaluate_every: Annotated[int, Field(ge=1)] = 1000


class Tuning(_Part):
    """Learning a task, the same for every system (see `bistil adapt`)."""

    steps: Annotated[int, Field(ge=1)] = 2000
    full_steps: Annotated[int, Field(ge=1)] | None = None
    batch: Annotated[int, Field(ge=1)] = 8
    length: Annotated[int, Field(ge=8)] = 256
    learning_rate: Annotated[float, Field(gt=0)] = 5e-5
    warmup: Annotated[float, Field(ge=0, le=1)] = 0.0
    evaluate_every: Annotated[int, Field(ge=1)] = 200
    patience: Annotated[int, Field(ge=1)] = 1000
    density: Annotated[float, Field(gt=0, le=1)] = 0.08
    precision: Literal["auto", "float32"] = "auto"
    labels: Literal["common", "own"] = "common"
    pooling: Literal["first", "mean"] | None = None
    """How sub-words stand for words, and tokens for texts; None for the judge's own way."""
    times_t_squared: bool = False
    gold: Annotated[float, Field(ge=0)] = 0.0
    lines: Annotated[int, Field(ge=1)] | None = None
    """Of each language's text at most, which a teacher labels for systems with `text`; None for 10,000."""


class TeacherTuning(_Part):
    """The tasks that the teacher of `multitask` is tuned on together (see `bistil extract --teacher-tasks`)."""

    tasks: Annotated[tuple[str, ...] | None, _NotStrict] = None
    """None for those of the comparison that are tuned on."""
    languages: Annotated[tuple[str, ...] | None, _NotStrict] = None
    """Or data sets' own names; None for the source's."""
    sampling: Sampling = "even"
    steps: Annotated[int, Field(ge=1)] = PROTOCOL.steps
    batch: Annotated[int, Field(ge=1)] = PROTOCOL.batch_size
    length: Annotated[int, Field(ge=8)] = PROTOCOL.window
    learning_rate: Annotated[float, Field(gt=0)] = PROTOCOL.learning_rate
    warmup: Annotated[float, Field(ge=0, le=1)] = PROTOCOL.warmup
    evaluate_every: Annotated[int, Field(ge=1)] = PROTOCOL.evaluate_every
    labels: Literal["common", "own"] = "common"


class Comparison(_Part):
    """Everything that decides a comparison."""

    model: str
    """The multilingual model: a folder or a Hub name; what of `systems` and `languages` learns by masked words needs a masked LM."""
    corpora: Annotated[dict[str, str], Field(min_length=2)]
    """Language to text; students of multilingual data read all of them."""
    source: str = "en"
    targets: Annotated[tuple[str, ...], Field(min_length=1, strict=False)]
    tasks: Annotated[tuple[str, ...], Field(min_length=1, strict=False)]
    data: str = "data"
    """A folder of data as xeval reads it, or hub:NAME."""
    sources: dict[str, str] = {}
    """Task to the source's data set, where the source language has several."""
    systems: Annotated[
        tuple[Annotated[str, AfterValidator(require_system)], ...],
        Field(min_length=1, strict=False),
    ] = PUBLISHED
    """Names as `bistil.compare.systems.System` has them."""
    students: Literal["published", "pairs", "shared"] = "published"
    """For whom a student is extracted: as its authors do; for each target and the source; or once, for all the corpora."""
    seeds: Annotated[int, Field(ge=1)] = 3
    out: str
    """The folder of everything that is made; the results are in its `results.jsonl`."""
    extract: Extracting = Extracting()
    teacher_tasks: TeacherTuning = TeacherTuning()
    languages: LanguageTuning | None = LanguageTuning()
    """None: no language's sparse fine-tuning is applied to any model."""
    tune: Tuning = Tuning()
    tune_by_task: dict[str, Tuning] = {}
    """Task to what is otherwise there."""

    @model_validator(mode="after")
    def _languages_have_corpora(self) -> Self:
        for language in (self.source, *self.targets):
            if language not in self.corpora:
                raise ValueError(
                    f"there is no corpus of {language!r}{nearest(language, self.corpora)}; "
                    f"add it to `corpora`, which has {', '.join(self.corpora)}"
                )
        if self.source in self.targets or len({*self.targets}) != len(self.targets):
            raise ValueError("`targets` must differ from one another and from `source`")
        return self

    @model_validator(mode="after")
    def _tuned_tasks_exist(self) -> Self:
        for task in self.tune_by_task:
            try:
                task_of(task)
            except XevalError as error:
                raise ValueError(f"tune_by_task: {error}") from error
        return self

    @model_validator(mode="after")
    def _the_teacher_has_tasks(self) -> Self:
        if any(SYSTEMS[system].model == "multitask" for system in self.systems):
            try:
                self.tasks_of_teacher()
            except (ExtractError, XevalError) as error:
                raise ValueError(f"teacher_tasks: {error}") from error
        return self

    def tasks_of_teacher(self) -> TeacherTasks:
        """What the teacher of `multitask` is tuned on.

        Raises:
            ExtractError, XevalError: for tasks that tune nothing or are not known.
        """
        stated = self.teacher_tasks
        tasks = stated.tasks
        if tasks is None:
            tasks = tuple(task for task in self.tasks if isinstance(task_of(task), FineTunedTask))
        named = stated.languages or dict.fromkeys([*(self.sources[task] for task in tasks if task in self.sources), self.source])  # fmt: skip
        protocol = replace(
            PROTOCOL, steps=stated.steps, batch_size=stated.batch, max_length=stated.length, learning_rate=stated.learning_rate,
            warmup=stated.warmup, evaluate_every=stated.evaluate_every, labels=stated.labels,
        )  # fmt: skip
        return TeacherTasks(tasks=tasks, data=self.data, languages=tuple(named), sampling=stated.sampling, protocol=protocol)  # fmt: skip

    def tuning_of(self, task: str) -> Tuning:
        """How a task is learnt: `tune`, but for what `tune_by_task` states otherwise."""
        otherwise = self.tune_by_task.get(task, Tuning())
        return self.tune.model_copy(update={key: getattr(otherwise, key) for key in otherwise.model_fields_set})  # fmt: skip

    def data_of(self, task: str) -> str:
        """The source's data set of a task."""
        return self.sources.get(task, self.source)


def read_comparison(file: Path) -> Comparison:
    """Read and check a recipe; names of files in it count from the recipe's own folder.

    Raises:
        AdaptError: naming file and key, what was expected and what stands there, all faults at once.
    """
    stated = read_recipe_values(file, keys="`model:` and `targets:`", refuse=AdaptError)
    try:
        recipe = Comparison.model_validate(stated)
    except ValidationError as error:
        faults = "; ".join(_sentence(fault) for fault in error.errors())
        raise AdaptError(f"{file}: {faults}.") from error
    return _from_folder(recipe, file.parent)


def _from_folder(recipe: Comparison, folder: Path) -> Comparison:
    def settled(name: str) -> str:
        return str(folder / name) if (folder / name).exists() else name

    return recipe.model_copy(
        update={
            "model": settled(recipe.model),
            "corpora": {code: settled(text) for code, text in recipe.corpora.items()},
            "data": settled(recipe.data),
            "out": str(folder / recipe.out),
        }
    )


def _sentence(fault: Any) -> str:
    path = fault["loc"][:-2] if fault["loc"][-1:] == ("[key]",) else fault["loc"]
    where = ".".join(str(part) for part in path)
    if fault["type"] == "extra_forbidden":
        fields = _part_at(path[:-1]).model_fields
        there = f" (the keys there are {', '.join(fields)})"
        return f"unknown key {where!r}{nearest(str(path[-1]), fields) or there}"
    if fault["type"] == "model_type":
        fields = _part_at(path).model_fields
        return f"{where}: expected keys such as `{next(iter(fields))}:`, got {fault['input']!r}"
    if fault["type"] == "missing":
        return f"the key {where!r} is missing"
    if fault["type"] == "value_error":
        message = str(fault["ctx"]["error"]).rstrip(".")
        return f"{where}: {message}" if where else message
    said = (fault["msg"][0].lower() + fault["msg"][1:]).replace("tuple", "list")
    return f"{where}: {said}, got {fault['input']!r}{_hint(fault)}"


def _part_at(path: tuple[Any, ...]) -> type[BaseModel]:
    """The model whose keys stand at a place of the recipe."""
    parts: dict[str, type[BaseModel]] = {
        "extract": Extracting,
        "languages": LanguageTuning,
        "teacher_tasks": TeacherTuning,
        "tune": Tuning,
        "tune_by_task": Tuning,
    }
    return parts.get(str(path[0]), Comparison) if path else Comparison


def _hint(fault: Any) -> str:
    """What YAML made of something that was meant otherwise."""
    wanted, stated = fault["type"].removesuffix("_type"), fault["input"]
    if wanted not in ("int", "float", "string"):
        return ""
    if isinstance(stated, bool):
        return " (YAML reads no, yes, on and off as true or false)"
    if wanted == "string":
        return " (write it in quotes)" if isinstance(stated, int | float | date) else ""
    return " (a number stands without quotes)" if isinstance(stated, str) else ""
