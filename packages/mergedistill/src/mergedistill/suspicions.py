"""What is suspicious about text and teachers: said before anything dear is spent, and refused by nobody."""

from __future__ import annotations

from mergedistill.recipe import Recipe
from mergedistill.stages import settled, stages

_UNKNOWN = 0.05  # share of words: a teacher's own language has next to none


def suspicions(recipe: Recipe) -> list[str]:
    """Signs that a corpus is not in the language that its teachers know, one sentence each.

    They follow from the measures of the `rank` stage, so there are none before it. A corpus is suspicious where its
    teacher cannot spell more than 5 % of the words, and where it needs more bits for them than their letters'
    frequencies do (the entropy of single letters): it then knows nothing of that language.

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
    if its["charged"] > its["letters"]:
        found.append(
            f"{language}: its teacher {name} needs {its['charged']:.2f} bits per byte, more than the "
            f"{its['letters']:.2f} that the frequencies of single letters give; is the corpus in that language?"
        )
    return found
