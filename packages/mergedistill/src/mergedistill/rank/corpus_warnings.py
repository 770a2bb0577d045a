"""What is suspicious about text and teachers: said before anything dear is spent, and refused by nobody."""

from __future__ import annotations

from mergedistill.recipe.recipe import Recipe
from mergedistill.recipe.stages import settled, stages

_UNKNOWN = 0.05  # share of words: a teacher's own language has next to none
_LETTERS = 1.25  # times the bits of single letters: hidden words cost more than words in a row


def suspicions(recipe: Recipe) -> list[str]:
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
    found = settled(recipe, first)
    if not first.done or found is None:
        return []
    return [
        sentence
        for language, of_language in first.facts()["ratings"].items()
        for name, its in of_language.items()
        if name in found[language].weights
        for sentence in _about(language, name, its)
    ]


def _about(language: str, name: str, its: dict[str, float]) -> list[str]:
    found = []
    if its["left_out"] > _UNKNOWN:
        found.append(
            f"{language}: its teacher {name} cannot spell {its['left_out']:.0%} of the words; "
            "is the corpus in that language and script?"
        )
    if its["charged"] > _LETTERS * its["letters"]:
        found.append(
            f"{language}: its teacher {name} needs {its['charged']:.2f} bits per byte, where the frequencies of single letters give "
            f"{its['letters']:.2f}; is the corpus in that language?"
        )
    return found
