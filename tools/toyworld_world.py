"""The world: its sentences, its tasks and its limits, in every language."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import toyworld_tasks as tasks
from toyworld_ceilings import Ceiling, ceiling
from toyworld_grammar import Grammar
from toyworld_lexicon import LANGUAGES, TOPICS, Meanings, generator
from toyworld_oracle import Entropy, Oracle, Reveal
from toyworld_realizer import Token, words
from toyworld_sampler import Sampler
from toyworld_tasks import Question
from toyworld_word_order import LONGEST

PIVOT = "qav"


class World(Sampler):
    """A world of languages; everything in it is a function of the arguments.

    Args:
        seed: draws meanings, constructions and all languages.
        frames: of sentences; each gives some dozens of constructions.
        share: of the full number of meanings; below 1 for worlds small enough to enumerate.
        longest: words of the longest sentence, final mark apart.

    Example:
        >>> world = World(seed=0)
        >>> len(world.languages) >= 8
        True
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        frames: int = 200,
        share: float = 1.0,
        longest: int = LONGEST,
    ) -> None:
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed!r}")
        if not 0 < share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, got {share!r}")
        super().__init__(seed, Meanings(seed, share), Grammar(seed, frames, longest))
        self.share, self.frames = share, frames
        self._oracles: dict[str, Oracle] = {}

    @property
    def languages(self) -> tuple[str, ...]:
        """Codes of the languages (all from the range that ISO 639-2 leaves to local use)."""
        return tuple(LANGUAGES)

    def sentences(
        self, language: str, count: int, *, start: int = 0, split: str = "train"
    ) -> Iterator[str]:
        """Sentences `start` to `start + count` of a split; sentence i depends on (seed, language, split, i) alone."""
        realizer = self.realizer(language)
        for propositions in self.stream(language, count, start, split):
            yield from realizer.say(propositions)

    def treebank(
        self, language: str, count: int, split: str = "train", *, start: int = 0
    ) -> list[list[Token]]:
        """The same sentences as `sentences`, as dependency trees."""
        realizer = self.realizer(language)
        return [
            tree
            for propositions in self.stream(language, count, start, split)
            for tree in realizer.trees_of(propositions)
        ]

    def ner(
        self, language: str, count: int, split: str = "train", *, start: int = 0
    ) -> list[list[tuple[str, str]]]:
        """The same sentences as `sentences`, as words with IOB2 tags for PER, LOC and ORG."""
        realizer = self.realizer(language)
        return [
            row
            for propositions in self.stream(language, count, start, split)
            for row in realizer.iob2_of(propositions)
        ]

    def topics(
        self, language: str, count: int, split: str = "train", *, start: int = 0
    ) -> list[tuple[int, str, str]]:
        """(index, topic, sentence); an index means the same in every language."""
        realizer, rows = self.realizer(language), []
        for propositions in self.stream("topics", count, start, split):
            rows += zip(
                (TOPICS[t] for t in propositions.topics), realizer.say(propositions), strict=True
            )
        return [(start + i, topic, text) for i, (topic, text) in enumerate(rows)]

    def parallel(
        self, language: str, count: int, split: str = "test", *, pivot: str = PIVOT, start: int = 0
    ) -> list[tuple[str, str]]:
        """(sentence, its translation into the pivot), no sentence twice on either side."""
        sides: tuple[set[str], set[str]] = (set(), set())
        rows: list[tuple[str, str]] = []
        for propositions in self.stream("parallel", 4 * count + 100, start, split):
            for row in zip(
                self.realizer(language).say(propositions),
                self.realizer(pivot).say(propositions),
                strict=True,
            ):
                if row[0] not in sides[0] and row[1] not in sides[1]:
                    rows.append(row)
                    sides[0].add(row[0])
                    sides[1].add(row[1])
        return rows[:count]

    def nli(
        self, language: str, count: int, split: str = "train", *, start: int = 0
    ) -> list[tuple[str, str, str]]:
        """(premise, hypothesis, entailment | neutral | contradiction); row i means the same in every language."""
        return tasks.nli(self, language, count, split, start)

    def paraphrases(
        self, language: str, count: int, split: str = "train", *, start: int = 0
    ) -> list[tuple[str, str, int]]:
        """(sentence, sentence, 1 if they mean the same else 0); row i means the same in every language."""
        return tasks.paraphrases(self, language, count, split, start)

    def questions(
        self, language: str, count: int, split: str = "train", *, start: int = 0
    ) -> list[Question]:
        """Questions about short paragraphs; row i means the same in every language."""
        return tasks.questions(self, language, count, split, start)

    def oracle(self, language: str) -> Oracle:
        """The best possible reader of a language: exact posteriors over all that a sentence leaves open."""
        if language not in self._oracles:
            self._oracles[language] = Oracle(self.realizer(language))
        return self._oracles[language]

    def entropy(
        self,
        language: str,
        *,
        masks: float | str = "each",
        count: int = 300,
        split: str = "test",
        start: int = 0,
        reveal: Reveal | None = None,
    ) -> Entropy:
        """The Bayes conditional entropy of masked words given the visible ones: the floor of a pseudo-likelihood.

        Exact for each sentence, averaged over sentences `start` to `start + count` of a split. For masks of your own,
        or a known topic, ask `oracle(language).entropy`.

        Args:
            language: code.
            masks: "each": every word masked alone, in turn; or the rate at which words are masked together.
            count: sentences.
            split: where they come from.
            start: the first of them.
            reveal: what of a masked word stays visible, a function of the word: its number of pieces where those show. By
                default nothing does, and a model that sees more may stay below the floor.

        Example:
            >>> floor = World(seed=0).entropy("qav", masks=0.15, count=20)
            >>> 3 < floor.bits_per_word < 13
            True
        """
        rows = [
            words(sentence)
            for sentence in self.sentences(language, count, start=start, split=split)
        ]
        if masks == "each":
            cases = [(row, [i]) for row in rows for i in range(len(row))]
        else:
            cases = list(zip(rows, self._masks(rows, float(masks)), strict=True))
        return self.oracle(language).entropy(cases, reveal=reveal)

    def _masks(self, rows: list[list[str]], rate: float) -> Iterator[list[int]]:
        """Positions to mask, at least one a sentence; the same for the same sentence."""
        for row in rows:
            draws = generator(self.seed, "masks", " ".join(row)).random(len(row))
            yield np.flatnonzero(draws < rate).tolist() or [int(draws.argmin())]

    def ceiling(
        self, task: str, language: str, *, count: int = 1000, split: str = "test"
    ) -> Ceiling:
        """The best possible score of a task in a language; see `toyworld_ceilings.ceiling`."""
        sample = self.sentences(language, count, split=split)
        return ceiling(task, self.oracle(language), sample)
