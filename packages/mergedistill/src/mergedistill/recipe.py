"""The recipe: which languages, which teachers, what student; one YAML file, checked whole before anything runs."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from mergedistill.errors import RecipeError
from teacherzoo.shapes import Architecture, Shape


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Text(_Part):
    """A language's text: a file, a folder or a data set on the Hub; a bare name stands for `{corpus: name}`."""

    corpus: str
    column: str = "text"
    limit: Annotated[int, Field(ge=1)] | None = None
    """Most documents."""


def _bare_name(value: Any) -> Any:
    return {"corpus": value} if isinstance(value, str) else value


class Teaching(_Part):
    """A teacher and the languages that it teaches."""

    teacher: str
    """A catalogue name, a Hub name or a model folder."""
    languages: Annotated[tuple[str, ...], Field(min_length=1)]
    name: str | None = None
    """How maps and signals call it; by default the last part of `teacher`."""

    @property
    def called(self) -> str:
        """Its name in folders and reports."""
        return self.name or self.teacher.rstrip("/").rpartition("/")[2]


class VocabularyPolicy(_Part):
    """How the teachers' vocabularies become one (see `vocabmerge merge`)."""

    convention: Literal["bert", "roberta"] = "bert"
    normalizer: Literal["keep", "fold", "first"] | None = None
    """What to do where the teachers normalise text differently; without it, such a difference is refused."""
    max_size: Annotated[int, Field(ge=16)] | None = None
    pad_to: Annotated[int, Field(ge=1)] = 8
    calibration_lines: Annotated[int, Field(ge=10)] = 50_000
    """Lines of each language that calibrate a union of several tokenizer families and measure its fidelity."""


class Student(_Part):
    """The student: a stock architecture, trained from scratch."""

    architecture: Architecture = "modernbert"
    layers: Annotated[int, Field(ge=1)] = 6
    width: Annotated[int, Field(ge=1)] = 384
    heads: Annotated[int, Field(ge=1)] | None = None
    feed_forward: Annotated[int, Field(ge=1)] | None = None
    positions: Annotated[int, Field(ge=8)] = 512

    @property
    def shape(self) -> Shape:
        """As teacherzoo builds it."""
        return Shape(**self.model_dump())

    @model_validator(mode="after")
    def _fits(self) -> Self:
        _ = self.shape
        return self


class Distil(_Part):
    """What the student learns from (see `kdkernels.linear_distil_loss` and `teacherzoo record`)."""

    k: Annotated[int, Field(ge=1)] = 8
    """Ids recorded at each masked position."""
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.7
    """Weight of the teacher's distribution; the gold label has the rest. 0 is plain masked-LM training."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    tail: Literal["bucket", "renormalise", "drop"] = "bucket"
    divergence: Literal["forward_kl", "reverse_kl", "jsd"] = "forward_kl"
    draws: Annotated[int, Field(ge=1)] = 1
    """Masks drawn for every block."""
    policy: Literal["bert", "whole_word"] = "bert"
    rate: Annotated[float, Field(gt=0, lt=1)] = 0.15
    mask_seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Of the masks; apart from the recipe's `seed`, so that students of several seeds share one recording."""
    block_length: Annotated[int, Field(ge=8)] = 128
    max_lost: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Refuse where more than this share of a teacher's probability is on pieces that the student lacks."""


class Recording(_Part):
    """How teachers are asked (see `teacherzoo record`)."""

    precision: Literal["float32", "bfloat16"] = "float32"
    tokens: Annotated[int, Field(ge=8)] = 4096
    """Tokens in a batch."""
    offload: str | None = None
    """For teachers larger than memory: `cpu`, or a folder on a fast disk (DeepSpeed ZeRO-3)."""


class Train(_Part):
    """How the student is trained; what is not named here goes into `arguments`."""

    steps: Annotated[int, Field(ge=1)] = 10_000
    tokens: Annotated[int, Field(ge=8)] = 8192
    """Tokens in a step of one process, padding included: blocks of one language, so many as fit."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    warmup: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of the steps in which the learning rate rises."""
    sampling_exponent: Annotated[float, Field(ge=0, le=1)] = 0.7
    """A language is drawn in proportion to its number of blocks to this power."""
    checkpoint_every: Annotated[int, Field(ge=1)] = 1000
    evaluate_every: Annotated[int, Field(ge=1)] | None = None
    """Steps between evaluations on held-out text, per language, in bits per byte and masked accuracy; by default a tenth of all."""
    arguments: dict[str, Any] = {}
    """Any further field of `transformers.TrainingArguments`."""


class Recipe(_Part):
    """Everything that decides the student."""

    languages: Annotated[
        dict[str, Annotated[Text, BeforeValidator(_bare_name)]], Field(min_length=1)
    ]
    teachers: Annotated[tuple[Teaching, ...], Field(min_length=1)]
    out: str
    """The folder of the run; the student is in its `student/`."""
    held_out_share: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """Share of the documents kept from training, chosen by content."""
    vocabulary: VocabularyPolicy = VocabularyPolicy()
    student: Student = Student()
    distil: Distil = Distil()
    record: Recording = Recording()
    train: Train = Train()
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0

    @property
    def teacher_of(self) -> dict[str, str]:
        """Language to the name of its teacher."""
        return {language: each.called for each in self.teachers for language in each.languages}

    @model_validator(mode="after")
    def _languages_and_teachers_match(self) -> Self:
        names = [each.called for each in self.teachers]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(
                    f"two teachers are called {name!r}; give one of them another `name`"
                )
        taught = [language for each in self.teachers for language in each.languages]
        for language in taught:
            if language not in self.languages:
                raise ValueError(
                    f"{language!r} is taught but not among the languages"
                    f"{_nearest(language, self.languages)}; add its corpus"
                )
            if taught.count(language) > 1:
                raise ValueError(f"{language!r} has two teachers; name it under one of them")
        for language in self.languages:
            if language not in taught:
                raise ValueError(f"no teacher teaches {language!r}; add it to one, or leave it out")
        return self


def read_recipe(file: Path) -> Recipe:
    """Read and check a recipe; names of files in it count from the recipe's own folder.

    Raises:
        RecipeError: naming file and key, what was expected and what stands there, all faults at once.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{file}: the recipe cannot be read: {error}.") from error
    try:
        stated = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"{file}: not YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(stated, dict):
        raise RecipeError(
            f"{file}: expected keys such as `languages:` and `teachers:`, got {stated!r}."
        )
    try:
        recipe = Recipe.model_validate(stated)
    except ValidationError as error:
        faults = "; ".join(_sentence(fault) for fault in error.errors())
        raise RecipeError(f"{file}: {faults}.") from error
    return _from_folder(recipe, file.parent)


def _from_folder(recipe: Recipe, folder: Path) -> Recipe:
    def settled(name: str) -> str:
        local = folder / name
        return str(local) if local.exists() else name

    return recipe.model_copy(
        update={
            "out": str(folder / recipe.out),
            "languages": {
                code: text.model_copy(update={"corpus": settled(text.corpus)})
                for code, text in recipe.languages.items()
            },
            "teachers": tuple(
                each.model_copy(update={"teacher": settled(each.teacher)})
                for each in recipe.teachers
            ),
        }
    )


def _sentence(fault: Any) -> str:
    where = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        parent, key = _part_at(fault["loc"][:-1]), str(fault["loc"][-1])
        return f"unknown key {where!r}{_nearest(key, parent.model_fields)}"
    if fault["type"] == "missing":
        return f"the key {where!r} is missing"
    if fault["type"] in ("value_error", "assertion_error"):
        message = str(fault["ctx"]["error"]).rstrip(".")
        return f"{where}: {message}" if where else message
    said = fault["msg"][0].lower() + fault["msg"][1:]
    return f"{where}: {said}, got {fault['input']!r}"


def _part_at(path: tuple[Any, ...]) -> type[BaseModel]:
    """The model whose keys stand at a place of the recipe."""
    if not path:
        return Recipe
    if path[0] == "languages":
        return Text
    if path[0] == "teachers":
        return Teaching
    found = Recipe.model_fields[path[0]].annotation
    assert isinstance(found, type)
    assert issubclass(found, BaseModel)
    return found


def _nearest(name: str, known: Any) -> str:
    found = get_close_matches(name, list(known), n=1)
    return f", did you mean {found[0]!r}?" if found else ""
