"""The text of a recipe's languages: what is trained on, and what is held out from it."""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, overload

import numpy as np
from numpy.typing import NDArray

from mergedistill.recipe.recipe import Recipe
from teacherzoo.text.corpora import Corpus


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


class TextOnDisk(Sequence[str]):
    """Documents in one file, read when they are asked for; in memory is where each of them begins.

    Args:
        documents: to write.
        file: to write them to.
    """

    def __init__(self, documents: Iterable[str], file: Path) -> None:
        ends = [0]
        with file.open("wb") as stream:
            for document in documents:
                ends.append(ends[-1] + stream.write(document.encode("utf-8", "surrogatepass")))
        self._ends: NDArray[np.int64] = np.array(ends)
        with file.open("rb") as stream:  # an empty file cannot be mapped
            self._bytes = (
                mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) if ends[-1] else b""
            )

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        begin, end = self._ends[index % len(self) : index % len(self) + 2]
        return self._bytes[begin:end].decode("utf-8", "surrogatepass")
