"""Weights of the loss terms in use, checked against the table, and the mixtures that have a name."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Self

from bistil.errors import AdaptError, BistilError, ExtractError
from bistil.losses.table import ADAPT_TERMS, EXTRACT_TERMS, Sees, Term, settings_of
from vocabmerge import Kind


class _Weights(Mapping[str, float]):
    """Name to weight of the terms in use, those of weight 0 left out, in the table's order; and the terms' settings.

    What is not given is the table's default.
    """

    table: ClassVar[tuple[Term, ...]]
    error: ClassVar[type[BistilError]]

    def __init__(self, **given: float | None) -> None:
        known = self.defaults()
        if strange := sorted(given.keys() - known.keys()):
            raise self.error(f"There is no term or setting {strange[0]!r}; there are {', '.join(known)}.")  # fmt: skip
        self._stated = {**known, **given}
        self._check()

    def _check(self) -> None:
        for term in self.table:
            if not 0 <= (weight := self._stated[term.name]) < math.inf:
                raise self.error(
                    f"The weight of {term.name} must be a number from 0 on, got {weight!r}."
                )
        for setting in settings_of(self.table).values():
            value = self._stated[setting.name]
            if setting.kind is not bool and value is not None and not value > 0:
                raise self.error(f"{setting.name} must be greater than 0, got {value!r}.")

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """The table's weights and settings."""
        settings = settings_of(cls.table).values()
        return {term.name: term.weight for term in cls.table} | {setting.name: setting.default for setting in settings}  # fmt: skip

    @classmethod
    def only(cls, **weights: float) -> Self:
        """These terms and no other."""
        return cls(**{term.name: 0.0 for term in cls.table} | weights)

    def replace(self, **given: float | None) -> Self:
        """The same, but for what is given."""
        return type(self)(**{**self._stated, **given})

    @property
    def terms(self) -> list[Term]:
        """The terms in use."""
        return [term for term in self.table if self._stated[term.name]]

    @property
    def settings(self) -> dict[str, Any]:
        """Name to value of the numbers that are no weights."""
        return {name: self._stated[name] for name in settings_of(self.table)}

    @property
    def sees(self) -> Sees:
        """What the terms in use must see of the student."""
        return _union(self.terms)

    @property
    def sees_of_teacher(self) -> Sees:
        """What they must see of the teacher; nothing where none is needed."""
        return _union([term for term in self.terms if term.taught])

    @property
    def needs_rows(self) -> bool:
        """Whether a term is about whole sentences, so that the text is read line by line and not as running text."""
        return bool(self.sees & (Sees.ANSWERS | Sees.VECTORS | Sees.PAIRS))

    def to_json(self) -> dict[str, Any]:
        """Every weight and setting, as plain values."""
        return dict(self._stated)

    def __getitem__(self, name: str) -> float:
        return {term.name: self._stated[term.name] for term in self.terms}[name]

    def __iter__(self) -> Iterator[str]:
        return iter(term.name for term in self.terms)

    def __len__(self) -> int:
        return len(self.terms)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self._stated == other._stated

    def __hash__(self) -> int:
        return hash(tuple(self._stated.items()))

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in self._stated.items())
        return f"{type(self).__name__}({given})"


class LossWeights(_Weights):
    """Weights of phase 1's terms, and their settings; by default those of BiStil (Ansell et al. 2023, section 3).

    L = Σ w_t · L_t over the terms t of `bistil.losses.table.EXTRACT_TERMS` (`bistil extract --help` lists them): attention
    and hidden with weight 1, and, with weight 0 unless given, scores, mlm, logits, logits_mse, relations and cosine, of
    sentence encoders embedding, similarity and parallel, and of classifiers and rerankers answers and answers_mse.

    Args:
        given: weights by the name of the term, and `temperature` of logits, `relation_heads` of relations or
            `similarity_temperature` of similarity.

    Raises:
        ExtractError: for names, weights and settings that are none, and where every weight is 0.

    Example:
        >>> dict(LossWeights(mlm=0.5))
        {'attention': 1.0, 'hidden': 1.0, 'mlm': 0.5}
        >>> dict(LossWeights.only(relations=1))
        {'relations': 1}
    """

    table = EXTRACT_TERMS
    error = ExtractError

    def on_text(self) -> Self | None:
        """The terms on batches of text; None where there are none."""
        return self._without([term for term in self.terms if Sees.PAIRS in term.sees])

    def on_pairs(self) -> Self | None:
        """The terms on batches of translation pairs; None where there are none."""
        return self._without([term for term in self.terms if Sees.PAIRS not in term.sees])

    def _without(self, terms: list[Term]) -> Self | None:
        if len(terms) == len(self):
            return None
        return self.replace(**{term.name: 0.0 for term in terms})

    def _check(self) -> None:
        super()._check()
        if not self:
            names = ", ".join(term.name for term in self.table)
            raise self.error(f"Every term has weight 0; give one of {names} another.")
        if self.needs_rows and (
            masked := [term.name for term in self.terms if Sees.MASKED_ROWS in term.sees]
        ):
            raise self.error(
                f"{masked[0]} is computed on masked running text, the other terms on whole sentences; leave one or the other out."
            )


class TaskLossWeights(_Weights):
    """Weights of phase 2's terms, and their settings; by default those of BiStil (Ansell et al. 2023, section 3).

    L = Σ w_t · L_t over the terms t of `bistil.losses.table.ADAPT_TERMS`: soft, attention and hidden with weight 1, and gold,
    the labels, with weight 0 unless given.

    Args:
        given: weights by the name of the term, and `temperature` and `times_t_squared` of soft, the latter of which keeps
            the size of its gradient at that for T = 1 (Hinton et al. 2015, section 2); the paper's code does without.

    Raises:
        AdaptError: for names, weights and settings that are none, and where nothing would train the head.

    Example:
        >>> dict(TaskLossWeights(gold=0.5))
        {'soft': 1.0, 'gold': 0.5, 'attention': 1.0, 'hidden': 1.0}
    """

    table = ADAPT_TERMS
    error = AdaptError

    @classmethod
    def suited(cls, *, text: bool, **given: float | None) -> Self:
        """What is given, and otherwise the defaults; where a teacher labels text, its answers alone, as they are.

        There they are the lesson, and matching of states and maps takes many more steps to come to it: in 800 steps a student of
        multilingual-e5-small had 2.9 points of F1 more in German entities without.

        Example:
            >>> dict(TaskLossWeights.suited(text=True, hidden=0.5))
            {'soft': 1.0, 'hidden': 0.5}
        """
        start = cls.only(soft=1.0, temperature=1.0) if text else cls()
        return start.replace(**given)

    def _check(self) -> None:
        super()._check()
        if Sees.ANSWERS not in self.sees:
            names = " or ".join(term.name for term in self.table if Sees.ANSWERS in term.sees)
            raise self.error(
                f"The head learns from {names} answers; give one of them a weight above 0."
            )


def _union(terms: list[Term]) -> Sees:
    return functools.reduce(operator.or_, (term.sees for term in terms), Sees(0))


PRESETS = {
    "bistil": LossWeights(),
    "answers": LossWeights(answers_mse=1),
    "distilmbert": LossWeights.only(logits=5, mlm=2, cosine=1),
    "minilmv2": LossWeights.only(relations=1),
    "states": LossWeights.only(hidden=1, cosine=1),
    "mlm": LossWeights.only(mlm=1),
    "sentences": LossWeights.only(embedding=3, hidden=1),
}

_WITH_ANSWERS = (Kind.CLASSIFIER, Kind.TOKEN_CLASSIFIER, Kind.QUESTION_ANSWERING)
PRESET_OF_KIND = {**dict.fromkeys(_WITH_ANSWERS, "answers"), Kind.SENTENCE: "sentences"}
"""Kind of a teacher to the preset of its extraction; "bistil" for every other."""

_NEEDS = {
    Sees.MASKED_ROWS: ((Kind.MASKED_LM, Kind.SPARSE), "a masked-LM head"),
    Sees.ANSWERS: (_WITH_ANSWERS, "a classifier's or reranker's head"),
    Sees.VECTORS: ((Kind.SENTENCE,), "the pooling of a sentence encoder"),
}


def weights_for(kind: Kind, *, narrow: bool = False) -> LossWeights:
    """What is compared of a teacher of this kind unless one says otherwise.

    Attention and hidden states (Ansell et al. 2023); of classifiers and rerankers their logits, too, by mean squared
    difference (Gurgurov et al. 2025); of sentence encoders their vectors, or where the student is narrower, so that it has none of the
    teacher's dimension, their nearness to one another.

    Example:
        >>> dict(weights_for(Kind.CLASSIFIER))
        {'attention': 1.0, 'hidden': 1.0, 'answers_mse': 1}
        >>> dict(weights_for(Kind.SENTENCE, narrow=True))
        {'hidden': 1, 'similarity': 1}
    """
    if narrow and kind is Kind.SENTENCE:
        return LossWeights.only(similarity=1, hidden=1)
    return PRESETS[PRESET_OF_KIND.get(kind, "bistil")]


def require_seen(weights: LossWeights, kind: Kind) -> None:
    """Refuse terms that a teacher of this kind has nothing for.

    Raises:
        ExtractError: naming the term, what it needs and what the teacher is.
    """
    for term in weights.terms:
        for sees, (kinds, part) in _NEEDS.items():
            if sees in term.sees and kind not in kinds:
                raise ExtractError(
                    f"{term.name} needs {part}, which a teacher of kind {kind.value!r} does not have; leave the term out, or give "
                    "a teacher that has it."
                )
