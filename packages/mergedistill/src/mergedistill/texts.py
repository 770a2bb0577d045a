"""The text of a recipe's languages: what is trained on, and what is held out from it."""

from __future__ import annotations

from typing import Literal

from mergedistill.recipe import Recipe
from teacherzoo import Corpus


def corpus(
    recipe: Recipe, language: str, *, part: Literal["train", "held_out"] = "train"
) -> Corpus:
    """A language's documents that stages read, or those that they do not."""
    text = recipe.languages[language]
    return Corpus(
        language,
        text.corpus,
        column=text.column,
        config=text.config,
        limit=text.limit,
        part=part,
        held_out_share=recipe.held_out_share,
    )


def held_out_corpus(recipe: Recipe, language: str) -> Corpus:
    """The documents of a language that no stage trains on."""
    return corpus(recipe, language, part="held_out")
