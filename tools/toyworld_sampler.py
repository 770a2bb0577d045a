"""Draws what is to be said, the same in every language, and tells the splits apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property

import numpy as np
from toyworld_grammar import Grammar
from toyworld_lexicon import (
    KINDS,
    LANGUAGES,
    SPLITS,
    TOPIC_PRIOR,
    TOPICS,
    UPOS,
    Meanings,
    generator,
)
from toyworld_realizer import Propositions, Realizer

_BLOCK = 512  # sentences that share one stream of random numbers
_COUNTED = ("NOUN", "VERB", "PROPN")  # what a sentence is about


class Sampler:
    """Meanings, constructions and languages of a seed, and draws from them.

    Args:
        seed: draws meanings, constructions and all languages.
        meanings: what can be meant.
        grammar: the constructions.
    """

    def __init__(self, seed: int, meanings: Meanings, grammar: Grammar) -> None:
        self.seed, self.meanings, self.grammar = seed, meanings, grammar
        self.splits = Splits(seed, meanings, self.realizer)
        self.task_rows: dict[tuple[str, str], tuple[list, Iterator]] = {}
        self._realizers: dict[str, Realizer] = {}

    def realizer(self, language: str) -> Realizer:
        """A language with its words and its way to say each construction."""
        if language not in self._realizers:
            if language not in LANGUAGES:
                raise ValueError(
                    f"language must be one of {', '.join(LANGUAGES)}, got {language!r}"
                )
            self._realizers[language] = Realizer(
                LANGUAGES[language], self.seed, self.meanings, self.grammar
            )
        return self._realizers[language]

    def stream(self, purpose: str, count: int, start: int, split: str) -> Iterator[Propositions]:
        """Sentences `start` to `start + count` of a split, before they are said."""
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
        while count > 0:
            block, first = divmod(start, _BLOCK)
            propositions = self._block(purpose, split, block)
            wanted = Propositions(*(part[first : first + count] for part in propositions))
            yield wanted
            start += len(wanted.topics)
            count -= len(wanted.topics)

    def _block(self, purpose: str, split: str, block: int) -> Propositions:
        """A block of a split: draws from the generator, those that belong to other splits left out."""
        rng = generator(self.seed, "block", purpose, split, block)
        pieces: list[Propositions] = []
        missing = _BLOCK
        low, high = SPLITS[split]
        while missing > 0:
            drawn = self.draw(rng, 100 * missing // (high - low) + 64)
            here = self.split_of(drawn) == split
            pieces.append(Propositions(*(part[here] for part in drawn)))
            missing -= int(here.sum())
        return Propositions(
            *(np.concatenate(parts)[:_BLOCK] for parts in zip(*pieces, strict=True))
        )

    def draw(
        self, rng: np.random.Generator, count: int, among: np.ndarray | None = None
    ) -> Propositions:
        """Draws from the generator itself, whatever their split; `among` masks the constructions allowed."""
        edges = (self.grammar.prior if among is None else self.grammar.prior * among).cumsum()
        drawn = np.searchsorted(edges, rng.random(count) * edges[-1], side="right")
        constructions = drawn.clip(0, len(edges) - 1)
        topics = np.searchsorted(TOPIC_PRIOR.cumsum(), rng.random(count)).clip(0, len(TOPICS) - 1)
        kinds = self.grammar.kind_at[constructions]
        edges, first = self._choices
        cells = kinds * len(TOPICS) + topics[:, None]
        choices = np.searchsorted(edges, cells + rng.random(kinds.shape), side="right")
        meanings = np.where(kinds < 0, -1, choices - first[cells.clip(0)])
        return Propositions(constructions, topics, meanings)

    @cached_property
    def _choices(self) -> tuple[np.ndarray, np.ndarray]:
        """The cumulated P(meaning | kind, topic) of every cell (kind, topic) on one line, and where cells begin."""
        edges, first = [], []
        for k, kind in enumerate(KINDS):
            for t, row in enumerate(self.meanings.probability[kind]):
                line = row.cumsum().clip(0, 1)
                line[-1] = 1.0
                first.append(sum(map(len, edges)))
                edges.append(line + k * len(TOPICS) + t)
        return np.concatenate(edges), np.array(first)

    def split_of(self, propositions: Propositions) -> np.ndarray:
        """The split [n] each proposition belongs to, in every language."""
        return self.splits.split_of(
            self.grammar.kind_at[propositions.constructions], propositions.meanings
        )


class Splits:
    """The split of a sentence is a hash of the bag of its nouns, verbs and names.

    Meanings that share a spelling in some language count as one, and those that share it with another part of speech do not
    count: so the bag can be read off the sentence, whatever it means, and two splits never share a sentence. As the
    bag is the same in all languages, no split holds a translation of another's. Nothing that a model could learn tells
    the splits apart.
    """

    def __init__(self, seed: int, meanings: Meanings, realizer: Callable[[str], Realizer]) -> None:
        self.seed, self.meanings, self.realizer = seed, meanings, realizer

    def split_of(self, kinds: np.ndarray, meanings: np.ndarray) -> np.ndarray:
        """The split [n] of bags of (kind, meaning) [n, nodes], -1 where there is no node."""
        offsets = np.array([self.meanings.offset[kind] for kind in KINDS])
        numbers = (offsets[kinds] + meanings).clip(0)
        marks = np.where(kinds < 0, np.uint64(0), self._marks[numbers])
        hashed = _mix(marks.sum(1, dtype=np.uint64) ^ np.uint64(self.seed)) % np.uint64(100)
        names = np.array([name for name, (low, high) in SPLITS.items() for _ in range(high - low)])
        return names[hashed]

    def spelled_alone(self, kind: str, meaning: int) -> bool:
        """Whether no other meaning is spelled as this one, in any language."""
        return bool(self._alone[self.meanings.offset[kind] + meaning])

    @cached_property
    def spelled_alike(self) -> np.ndarray:
        """Per meaning the first of those that can be spelled as it is, in any language, directly or by a chain."""
        parent = list(range(self.meanings.total))

        def find(i: int) -> int:
            while parent[i] != i:
                parent[i] = parent[parent[i]]
                i = parent[i]
            return i

        for language in LANGUAGES:
            for alike in self.realizer(language).homographs():
                first, *rest = sorted({find(i) for i in alike})
                for number in rest:
                    parent[number] = first
        return np.array([find(i) for i in range(self.meanings.total)])

    @cached_property
    def _alone(self) -> np.ndarray:
        sizes = np.bincount(self.spelled_alike, minlength=self.meanings.total)
        return sizes[self.spelled_alike] == 1

    @cached_property
    def _marks(self) -> np.ndarray:
        """A random number per meaning; one for all that share a spelling; 0 for what does not count."""
        first, meanings = self.spelled_alike, self.meanings
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
