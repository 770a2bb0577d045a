"""Who teaches each language in the end: one teacher, or several with weights, as stated or as ranking found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mergedistill.errors import StageError
from mergedistill.recipe.recipe import Combine, Recipe, Teaching

Ratings = Mapping[str, Mapping[str, float]]
"""Language to teacher to bits per byte on the same text, every word charged."""

_LEAST = 0.01  # of the weights by rank: who has less is not asked


@dataclass(frozen=True, kw_only=True)
class TeacherEnsemble:
    """The teachers of a language.

    Attributes:
        combine: how several are heard.
        weights: name to weight, the largest first; they sum to 1.
    """

    combine: Combine
    weights: dict[str, float]

    @property
    def primary(self) -> str:
        """The teacher whose tokenizer cuts the language's text, and who is heard where others have nothing to say."""
        return next(iter(self.weights))


def choose_teachers(recipe: Recipe, ratings: Ratings | None = None) -> dict[str, TeacherEnsemble]:
    """Settle who teaches.

    Weights by rank are w ∝ 2^(-s · b), with b the teacher's bits per byte and s `rank.sharpness`: the odds of the
    teachers after each has read s bytes. Teachers with less than 1 % are left out. Under `best`, and where a language
    has one candidate, one teacher is left.

    Args:
        recipe: what is stated.
        ratings: what ranking found; needed where `needs_ranking` says so.

    Returns:
        The ensemble of each language.

    Raises:
        StageError: where the ratings are needed and lack a teacher.
    """
    return {language: _ensemble(recipe, language, ratings or {}) for language in recipe.languages}


def needs_ranking(recipe: Recipe) -> bool:
    """Whether anyone's part depends on the ranking: there is a choice, and no weights are stated."""
    return any(
        len(candidates) > 1 and not _stated(recipe, candidates)
        for candidates in map(recipe.candidates, recipe.languages)
    )


def teachers_in_use(
    recipe: Recipe, ensembles: Mapping[str, TeacherEnsemble]
) -> dict[str, tuple[Teaching, list[str]]]:
    """Name to teacher and the languages it teaches, in the recipe's order; those who teach nothing are absent."""
    used = {
        teacher.called: (
            teacher,
            [
                language
                for language, ensemble in ensembles.items()
                if teacher.called in ensemble.weights
            ],
        )
        for teacher in recipe.teachers
    }
    return {name: (teacher, languages) for name, (teacher, languages) in used.items() if languages}


def _ensemble(recipe: Recipe, language: str, ratings: Ratings) -> TeacherEnsemble:
    candidates = recipe.candidates(language)
    combine = recipe.combination(language)
    if len(candidates) == 1:
        return TeacherEnsemble(combine=combine, weights={candidates[0].called: 1.0})
    if _stated(recipe, candidates):
        weights = {teacher.called: teacher.weight or 0.0 for teacher in candidates}
    else:
        weights = _by_rank(recipe, language, candidates, ratings)
    # Python's sort is stable: of equals the first stated leads.
    ordered = dict(sorted(weights.items(), key=lambda item: -item[1]))
    if combine == "best":
        return TeacherEnsemble(combine=combine, weights={next(iter(ordered)): 1.0})
    total = sum(ordered.values())
    return TeacherEnsemble(
        combine=combine, weights={name: weight / total for name, weight in ordered.items()}
    )


def _by_rank(
    recipe: Recipe, language: str, candidates: tuple[Teaching, ...], ratings: Ratings
) -> dict[str, float]:
    rated = ratings.get(language, {})
    for teacher in candidates:
        if teacher.called not in rated:
            raise StageError(
                f"{language}: {teacher.called} has not been ranked; run the recipe until rank, or state weights."
            )
    bits = {teacher.called: rated[teacher.called] for teacher in candidates}
    best = min(bits.values())
    odds = {
        name: 2 ** (-recipe.rank.sharpness * (charged - best)) for name, charged in bits.items()
    }
    total = sum(odds.values())
    # With sharpness 0 all weigh the same, yet the best leads: the order of the ranking comes first.
    names = sorted(odds, key=lambda name: bits[name])
    return {name: odds[name] for name in names if odds[name] >= _LEAST * total}


def _stated(recipe: Recipe, candidates: tuple[Teaching, ...]) -> bool:
    return recipe.assign == "stated" and all(teacher.weight is not None for teacher in candidates)
