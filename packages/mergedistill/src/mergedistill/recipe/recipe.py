"""The recipe: which languages, which teachers, what student; checked whole before anything runs."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from teacherzoo.encoders.families import Architecture
from teacherzoo.nearest import nearest
from teacherzoo.pretrain.shapes import Shape

Combine = Literal["best", "mixture", "mince", "words"]


# An empty one would be the recipe's own folder.
_Place = Annotated[str, Field(min_length=1)]
# In YAML a sequence is a list.
_NotStrict = Field(strict=False)


class _Part(BaseModel):
    # Strict: `true` is not 1, nor is "1" or 1.0.
    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False, strict=True
    )


class Text(_Part):
    """A language's text: a file, a folder or a data set on the Hub; a bare name stands for `{corpus: name}`."""

    corpus: _Place
    config: str | None = None
    """Of a data set on the Hub: which of its configurations."""
    column: str = "text"
    limit: Annotated[int, Field(ge=1)] | None = None
    """Most documents."""
    licence: str | None = None
    """For the student's card."""


def _bare_name(value: Any) -> Any:
    return {"corpus": value} if isinstance(value, str) else value


def _combinations(value: Any) -> Any:
    """One combination for all languages, or one for each language named."""
    if isinstance(value, dict) and "likelihood" not in value:
        return {language: _combination(stated) for language, stated in value.items()}
    return _combination(value)


def _combination(value: Any) -> Any:
    """`{likelihood: words}` is called `words`."""
    if value == {"likelihood": "words"}:
        return "words"
    if not isinstance(value, str) or value not in get_args(Combine):
        raise ValueError(
            f"expected best, mixture, mince or {{likelihood: words}}, got {value!r}"
            f"{nearest(value, get_args(Combine)) if isinstance(value, str) else ''}"
        )
    return value


class Teaching(_Part):
    """A teacher and the languages that it teaches, or under `assign: rank` those that it may be chosen for."""

    teacher: _Place
    """A catalogue name, a Hub name or a model folder."""
    languages: Annotated[tuple[str, ...], _NotStrict] = ()
    """Under `assign: rank` none stands for all."""
    name: str | None = None
    """How maps and signals call it; by default the last part of `teacher`."""
    weight: Annotated[float, Field(gt=0)] | None = None
    """Of its say among several teachers of a language; without it, ranking on held-out text decides."""

    @property
    def called(self) -> str:
        """Its name in folders and reports."""
        return self.name or _last_part(self.teacher)


class Ranking(_Part):
    """How teachers are measured on held-out text, and what their weights follow from."""

    documents: Annotated[int, Field(ge=1)] = 200
    """Most documents of each language."""
    sharpness: Annotated[float, Field(ge=0)] = 4.0
    """s, in bytes: a teacher's weight is in proportion to 2^(-s · its bits per byte), the likelihood it gives s bytes of text."""


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
    """The student: a stock architecture, from scratch or from its teachers' weights."""

    start: Literal["scratch", "carried", "teacher"] = "scratch"
    """`carried`: embeddings made from the teachers'; `teacher`: layers of one teacher too; shapes must agree."""
    teacher: str | None = None
    """Where `start` is not `scratch`: whose layers and whose space; by default the first teacher's."""
    take: Literal["last", "even", "bottom"] = "even"
    """Of a teacher's layers: the last of each of as many blocks, evenly spread from first to last, or the lowest."""
    carry: Literal["copy", "mean", "subword", "focus", "omp", "procrustes"] = "procrustes"
    """How embeddings are made from the teachers' (see `vocabmerge carry`)."""
    architecture: Architecture = "modernbert"
    layers: Annotated[int, Field(ge=1)] = 6
    width: Annotated[int, Field(ge=1)] = 384
    heads: Annotated[int, Field(ge=1)] | None = None
    feed_forward: Annotated[int, Field(ge=1)] | None = None
    positions: Annotated[int, Field(ge=8)] | None = None
    """The longest row in tokens: 512 by default; with `start: teacher` it is the teacher's, and cannot be stated."""

    @property
    def longest_row(self) -> int:
        """In tokens, of a student that is built anew."""
        return 512 if self.positions is None else self.positions

    @property
    def shape(self) -> Shape:
        """As teacherzoo builds it."""
        stated = self.model_dump(exclude={"start", "teacher", "take", "carry", "positions"})
        return Shape(**stated, positions=self.longest_row)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        _ = self.shape
        if self.start == "teacher" and self.positions is not None:
            raise ValueError(
                f"positions: with `start: teacher` the student has its teacher's, got {self.positions}; leave it out"
            )
        return self


class Distil(_Part):
    """What the student learns from (see `kdkernels.linear_distil_loss` and `teacherzoo record`)."""

    sampler: Literal["topk", "random"] = "topk"
    """What is recorded at each masked position: the likeliest ids and the mass of all others, or ids drawn from the distribution."""
    k: Annotated[int, Field(ge=1)] = 8
    """Ids that `topk` records at each masked position."""
    draws: Annotated[int, Field(ge=1, le=255)] | None = None
    """Ids that `random` draws at each masked position; 12 where nothing is said."""
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.7
    """Weight of the teacher's distribution; the gold label has the rest. 0 is plain masked-LM training."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    tail: Literal["bucket", "renormalise", "drop"] = "bucket"
    divergence: Literal["forward_kl", "reverse_kl", "jsd"] = "forward_kl"
    mask_draws: Annotated[int, Field(ge=1)] = 1
    """Masks drawn for every block."""
    policy: Literal["bert", "whole_word"] = "bert"
    rate: Annotated[float, Field(gt=0, lt=1)] = 0.15
    mask_seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Of the masks; apart from the recipe's `seed`, so that students of several seeds share one recording."""
    block_length: Annotated[int, Field(ge=8)] = 128
    online: bool = False
    """Ask the teachers in each step instead of recording them once; no signals are kept."""
    max_lost: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Refuse where more than this share of a teacher's probability is on pieces that the student lacks."""

    @property
    def ids_drawn(self) -> int | None:
        """At each masked position, by `random`."""
        return (self.draws or 12) if self.sampler == "random" else None

    @property
    def loss_tail(self) -> Literal["bucket", "renormalise", "drop"]:
        """Of the loss: drawn ids leave no tail, and what the student's vocabulary lacks of them is dropped."""
        return "drop" if self.sampler == "random" else self.tail

    @model_serializer(mode="wrap")
    def _as_values(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what the sampler would refuse, so that the values make the same recipe again."""
        values: dict[str, Any] = handler(self)
        refused = {"k", "tail"} if self.sampler == "random" else {"draws"}
        return {name: value for name, value in values.items() if name not in refused}

    @model_validator(mode="after")
    def _goes_with_the_sampler(self) -> Self:
        if self.sampler == "topk":
            if self.draws is not None:
                raise ValueError(
                    f"draws: goes with `sampler: random`, which draws ids, got {self.draws}; set the sampler, or mask_draws for the "
                    "masks of a block"
                )
            return self
        if "k" in self.model_fields_set:
            raise ValueError(
                f"k: goes with `sampler: topk`, got {self.k}; leave it out and set draws"
            )
        if "tail" in self.model_fields_set:
            raise ValueError(
                f"tail: drawn ids leave none, got {self.tail!r} with `sampler: random`; leave it out"
            )
        if self.divergence != "forward_kl":
            raise ValueError(
                f"divergence: only forward_kl has the gradient of the whole distribution in the mean over draws, got "
                f"{self.divergence!r} with `sampler: random`; leave it out, or record with `sampler: topk`"
            )
        if self.online:
            raise ValueError(
                "online: the teacher's whole distribution is there in each step, and nothing is drawn; leave out one of online "
                "and `sampler: random`"
            )
        return self


class Recording(_Part):
    """How teachers are asked (see `teacherzoo record`)."""

    precision: Literal["float32", "bfloat16"] = "float32"
    tokens: Annotated[int, Field(ge=8)] = 4096
    """Tokens in a batch: lower it where memory runs out, and the recording goes on."""
    offload: _Place | None = None
    """For teachers larger than memory: `cpu`, or a folder on a fast disk (DeepSpeed ZeRO-3)."""


class States(_Part):
    """An encoder whose hidden states of words the student learns beside its teachers' predictions (see `StatesTerm`)."""

    encoder: _Place
    """A model folder, a catalogue name or a Hub name: any encoder with a fast tokenizer; it needs no masked-LM head."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    layer: int | Literal["last"] = "last"
    """Behind which of its layers the states are; 0 stands for the embeddings. Those above are not run."""
    languages: Annotated[tuple[str, ...], _NotStrict] = ()
    """In which the student learns them; none stands for all."""

    @property
    def called(self) -> str:
        """The encoder's name in reports."""
        return _last_part(self.encoder)

    @field_validator("layer", mode="before")
    @classmethod
    def _is_layer(cls, value: Any) -> Any:
        if value == "last" or (type(value) is int and value >= 0):
            return value
        raise ValueError(f"expected last or the number of a layer from 0, got {value!r}")


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
    teachers: Annotated[tuple[Teaching, ...], Field(min_length=1, strict=False)]
    assign: Literal["stated", "rank"] = "stated"
    """Who teaches what: as the teachers' `languages` say, or as ranking them on held-out text recommends."""
    combine: Annotated[Combine | dict[str, Combine], BeforeValidator(_combinations)] = "best"
    """Where a language has several teachers: the best one alone, a mixture by weight, or in each block the one with the
    lowest cross-entropy with the text; `{likelihood: words}`, also for one teacher, is a mixture that compares whole words
    where pieces differ; for all languages, or by language (`best` for those not named)."""
    rank: Ranking = Ranking()
    out: _Place
    """The folder of the run; the student is in its `student/`."""
    signals: _Place | None = None
    """Where recordings are kept, by default in `out`; recipes that ask the same teachers the same may share it."""
    held_out_share: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """Share of the documents kept from training, chosen by content."""
    vocabulary: VocabularyPolicy = VocabularyPolicy()
    student: Student = Student()
    distil: Distil = Distil()
    record: Recording = Recording()
    states: States | None = None
    """Without it the student learns from its teachers alone."""
    train: Train = Train()
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0

    def candidates(self, language: str) -> tuple[Teaching, ...]:
        """The teachers that may teach a language, as stated."""
        return tuple(
            teacher
            for teacher in self.teachers
            if language in teacher.languages or (self.assign == "rank" and not teacher.languages)
        )

    def combination(self, language: str) -> Combine:
        """What is done where the language has several teachers."""
        return self.combine if isinstance(self.combine, str) else self.combine.get(language, "best")

    @model_validator(mode="after")
    def _languages_and_teachers_match(self) -> Self:
        names = [teacher.called for teacher in self.teachers]
        for name in [*names, *self.languages]:
            if not name or name in (".", "..") or set(name) & set("/\\\0"):
                raise ValueError(
                    f"{name!r} is to be the name of a folder, and cannot be; give another `name`"
                )
        for name in names:
            if names.count(name) > 1:
                raise ValueError(
                    f"two teachers are called {name!r}; give one of them another `name`"
                )
        for teacher in self.teachers:
            self._check_teaching(teacher)
        for language in self.languages:
            candidates = self.candidates(language)
            if not candidates:
                raise ValueError(f"no teacher teaches {language!r}; add it to one, or leave it out")
            stated = [teacher.called for teacher in candidates if teacher.weight is not None]
            if self.assign == "stated" and 0 < len(stated) < len(candidates):
                raise ValueError(
                    f"of the teachers of {language!r} only {', '.join(stated)} has a weight; give one to each or to none"
                )
        for language in self.combine if isinstance(self.combine, dict) else ():
            if language not in self.languages:
                raise ValueError(
                    f"combine: {language!r} is not among the languages{nearest(language, self.languages)}"
                )
        self._check_words()
        self._check_states()
        self._check_student()
        return self

    def _check_words(self) -> None:
        worded = [language for language in self.languages if self.combination(language) == "words"]
        if worded and self.distil.policy != "whole_word":
            raise ValueError(
                f"combine: the likelihood of words ({', '.join(worded)}) needs words that are masked whole; set distil.policy: whole_word"
            )
        if worded and self.distil.online:
            raise ValueError(
                f"combine: the likelihood of words ({', '.join(worded)}) is read from recordings; leave distil.online out"
            )
        if worded and self.distil.sampler == "random":
            raise ValueError(
                f"combine: the likelihood of words ({', '.join(worded)}) is compared at a teacher's likeliest words, which drawn ids are "
                "not; set distil.sampler: topk"
            )

    def _check_states(self) -> None:
        named = self.states.languages if self.states else ()
        for language in named:
            if language not in self.languages:
                raise ValueError(
                    f"states.languages: {language!r} is not among the languages{nearest(language, self.languages)}"
                )
            if named.count(language) > 1:
                raise ValueError(f"states.languages: {language!r} stands twice; once is enough")

    def _check_student(self) -> None:
        names = [teacher.called for teacher in self.teachers]
        wanted = self.student.teacher
        if wanted is not None and wanted not in names:
            raise ValueError(
                f"student.teacher: no teacher is called {wanted!r}{nearest(wanted, names)}"
            )
        if self.student.start != "teacher" and self.distil.block_length > self.student.longest_row:
            raise ValueError(
                f"distil.block_length: the student reads at most {self.student.longest_row} tokens (student.positions), got "
                f"blocks of {self.distil.block_length}; lower the one or raise the other"
            )
        if self.distil.online and self.record.offload is not None:
            raise ValueError(
                "distil.online keeps the teachers in memory and record.offload outside of it; leave one of the two out"
            )

    def _check_teaching(self, teacher: Teaching) -> None:
        if teacher.weight is not None and self.assign == "rank":
            raise ValueError(
                f"the teacher {teacher.called!r} has a weight, but under `assign: rank` ranking weighs; leave one of the two out"
            )
        if not teacher.languages and self.assign == "stated":
            raise ValueError(
                f"the teacher {teacher.called!r} has no languages; list them, or let ranking decide with `assign: rank`"
            )
        for language in teacher.languages:
            if language not in self.languages:
                raise ValueError(
                    f"{language!r} is taught but not among the languages"
                    f"{nearest(language, self.languages)}; add its corpus"
                )
            if teacher.languages.count(language) > 1:
                raise ValueError(f"{teacher.called!r} teaches {language!r} twice; once is enough")


def _last_part(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2]
