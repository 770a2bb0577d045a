"""Which sentences are for training, development and test, in every language alike."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from toyworld_lexicon import KINDS, LANGUAGES, SPLITS, UPOS

if TYPE_CHECKING:
    from toyworld import World

_COUNTED = ("NOUN", "VERB", "PROPN")  # what a sentence is about


class Division:
    """The split of a sentence is a hash of the bag of its nouns, verbs and names.

    Meanings that share a spelling in some language count as one, and those that share it with another part of speech do not
    count: so the bag can be read off the sentence, whatever it means, and two splits never share a sentence. As the
    bag is the same in all languages, no split holds a translation of another's. Nothing that a model could learn tells
    the splits apart.
    """

    def __init__(self, world: World) -> None:
        self.world = world

    def split_of(self, kinds: np.ndarray, meanings: np.ndarray) -> np.ndarray:
        """The split [n] of bags of (kind, meaning) [n, nodes], -1 where there is no node."""
        offsets = np.array([self.world.meanings.offset[kind] for kind in KINDS])
        numbers = (offsets[kinds] + meanings).clip(0)
        marks = np.where(kinds < 0, np.uint64(0), self._marks[numbers])
        hashed = _mix(marks.sum(1, dtype=np.uint64) ^ np.uint64(self.world.seed)) % np.uint64(100)
        names = np.array([name for name, (low, high) in SPLITS.items() for _ in range(high - low)])
        return names[hashed]

    def spelled_alone(self, kind: str, meaning: int) -> bool:
        """Whether no other meaning is spelled as this one, in any language."""
        return bool(self._alone[self.world.meanings.offset[kind] + meaning])

    @cached_property
    def spelled_alike(self) -> np.ndarray:
        """Per meaning the first of those that can be spelled as it is, in any language, directly or by a chain."""
        parent = list(range(self.world.meanings.total))

        def find(i: int) -> int:
            while parent[i] != i:
                parent[i] = parent[parent[i]]
                i = parent[i]
            return i

        for language in LANGUAGES:
            for alike in self.world.tongue(language).homographs():
                first, *others = sorted({find(i) for i in alike})
                for other in others:
                    parent[other] = first
        return np.array([find(i) for i in range(self.world.meanings.total)])

    @cached_property
    def _alone(self) -> np.ndarray:
        sizes = np.bincount(self.spelled_alike, minlength=self.world.meanings.total)
        return sizes[self.spelled_alike] == 1

    @cached_property
    def _marks(self) -> np.ndarray:
        """A random number per meaning; one for all that share a spelling; 0 for what does not count."""
        first, meanings = self.spelled_alike, self.world.meanings
        counted = np.repeat(
            [UPOS[kind] in _COUNTED for kind in KINDS], [meanings.count(kind) for kind in KINDS]
        )
        uncounted = np.isin(first, first[~counted])
        return np.where(uncounted, np.uint64(0), _mix(first.astype(np.uint64) + np.uint64(1)))


def _mix(x: np.ndarray) -> np.ndarray:
    """The splitmix64 finaliser: bits that look random, equal for equal x."""
    x = (x + np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
