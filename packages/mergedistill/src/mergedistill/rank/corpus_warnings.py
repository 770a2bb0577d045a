"""Warnings about texts and teachers that do not fit each other, before anything is spent on them."""

from __future__ import annotations

from mergedistill.recipe.recipe import Recipe
from mergedistill.recipe.stages import known_ensembles, stages

_UNKNOWN = 0.05  # share of words: a teacher's own language has next to none
_LETTERS = 1.25  # times the bits of single letters: hidden words cost more than words in a row


def corpus_warnings(recipe: Recipe) -> list[str]:
    """Signs that a corpus is not in the language that its teachers know, one sentence each.

    They follow from the measures of the `rank` stage, so there are none before it. A corpus is suspicious where its
    teacher cannot spell more than 5 % of the words, and where it needs more than 1.25 times the bits that their letters'
    frequencies do (the entropy of single letters): it then knows nothing of that language, or nothing at all.

    Args:
        recipe: of the run.

    Returns:
        Sentences; empty where nothing is suspicious.
    """
    first = stages(recipe)["rank"]
    ensembles = known_ensembles(recipe, first)
    if not first.done or ensembles is None:
        return []
    return [
        sentence
        for language, of_language in first.facts()["ratings"].items()
        for name, measures in of_language.items()
        if name in ensembles[language].weights
        for sentence in _warnings(language, name, measures)
    ]


def _warnings(language: str, name: str, measures: dict[str, float]) -> list[str]:
    warnings = []
    if measures["left_out"] > _UNKNOWN:
        warnings.append(
            f"{language}: its teacher {name} cannot spell {measures['left_out']:.0%} of the words; "
            "is the corpus in that language and script?"
        )
    if measures["charged"] > _LETTERS * measures["letters"]:
        warnings.append(
            f"{language}: its teacher {name} needs {measures['charged']:.2f} bits per byte, where the frequencies of single letters give "
            f"{measures['letters']:.2f}; is the corpus in that language?"
        )
    return warnings
