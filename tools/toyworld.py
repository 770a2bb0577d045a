"""A seeded world of languages whose truth is known.

Several languages talk about the same meanings with different words, scripts, endings and word orders. Whatever is said
in them, the world knows what was meant: tags, trees, names, topics, entailments, translations. And it knows its
limits: how many bits a masked word costs at best, and how often the best tagger must err.

    python tools/toyworld.py --describe
    python tools/toyworld.py OUT --languages qav qag --words 1000000 --seed 0
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

import numpy as np
import toyworld_tasks
from toyworld_bayes import Entropy, Oracle, Reveal
from toyworld_ceilings import TASKS, Ceiling, ceiling
from toyworld_describe import describe
from toyworld_files import ROWS, check, write_folder
from toyworld_grammar import LONGEST, Tree, inventory, polar
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
from toyworld_splits import Division
from toyworld_tasks import Question
from toyworld_tongue import Sayings, Token, Tongue, words

__all__ = [
    "LANGUAGES",
    "PIVOT",
    "SPLITS",
    "TASKS",
    "TOPICS",
    "Token",
    "World",
    "words",
    "write_world",
]

PIVOT = "qav"
_BLOCK = 512  # sentences that share one stream of random numbers


class World:
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
        self.seed, self.share, self.frames = seed, share, frames
        self.meanings = Meanings(seed, share)
        self.trees, self.prior = inventory(seed, frames, longest)
        self.shown = _shown(self.trees)
        number = {key: i for i, key in enumerate(self.shown)}
        self.signs = np.full(
            (len(self.trees), max(map(len, self.trees))), -1
        )  # node -> number in `shown`
        for row, tree in zip(self.signs, self.trees, strict=True):
            row[: len(tree)] = [number[node.kind, node.features] for node in tree]
        kinds = np.array([*(KINDS.index(kind) for kind, _ in self.shown), -1])
        self.kinds = kinds[self.signs]
        self.thoughts: dict[tuple[str, str], tuple[list, Iterator]] = {}
        self._spoken: dict[str, Tongue] = {}
        self._oracles: dict[str, Oracle] = {}

    @property
    def languages(self) -> tuple[str, ...]:
        """Codes of the languages (all from the range that ISO 639-2 leaves to local use)."""
        return tuple(LANGUAGES)

    def tongue(self, language: str) -> Tongue:
        """A language with its words and its way to say each construction."""
        if language not in self._spoken:
            if language not in LANGUAGES:
                raise ValueError(
                    f"language must be one of {', '.join(LANGUAGES)}, got {language!r}"
                )
            self._spoken[language] = Tongue(self, LANGUAGES[language])
        return self._spoken[language]

    def sentences(
        self, language: str, count: int, *, start: int = 0, split: str = "train"
    ) -> Iterator[str]:
        """Sentences `start` to `start + count` of a split; sentence i depends on (seed, language, split, i) alone."""
        tongue = self.tongue(language)
        for sayings in self._stream(language, count, start, split):
            yield from tongue.say(sayings)

    def treebank(
        self, language: str, count: int, split: str = "train", *, start: int = 0
    ) -> list[list[Token]]:
        """The same sentences as `sentences`, as dependency trees."""
        tongue = self.tongue(language)
        return [
            tree
            for sayings in self._stream(language, count, start, split)
            for tree in tongue.parse(sayings)
        ]

    def ner(
        self, language: str, count: int, split: str = "train", *, start: int = 0
    ) -> list[list[tuple[str, str]]]:
        """The same sentences as `sentences`, as words with IOB2 tags for PER, LOC and ORG."""
        tongue = self.tongue(language)
        return [
            row
            for sayings in self._stream(language, count, start, split)
            for row in tongue.tag(sayings)
        ]

    def topics(
        self, language: str, count: int, split: str = "train", *, start: int = 0
    ) -> list[tuple[int, str, str]]:
        """(index, topic, sentence); an index means the same in every language."""
        tongue, rows = self.tongue(language), []
        for sayings in self._stream("topics", count, start, split):
            rows += zip((TOPICS[t] for t in sayings.topics), tongue.say(sayings), strict=True)
        return [(start + i, topic, text) for i, (topic, text) in enumerate(rows)]

    def parallel(
        self, language: str, count: int, split: str = "test", *, pivot: str = PIVOT, start: int = 0
    ) -> list[tuple[str, str]]:
        """(sentence, its translation into the pivot), no sentence twice on either side."""
        sides: tuple[set[str], set[str]] = (set(), set())
        rows: list[tuple[str, str]] = []
        for sayings in self._stream("parallel", 4 * count + 100, start, split):
            for row in zip(
                self.tongue(language).say(sayings), self.tongue(pivot).say(sayings), strict=True
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
        return toyworld_tasks.nli(self, language, count, split, start)

    def paraphrases(
        self, language: str, count: int, split: str = "train", *, start: int = 0
    ) -> list[tuple[str, str, int]]:
        """(sentence, sentence, 1 if they mean the same else 0); row i means the same in every language."""
        return toyworld_tasks.paraphrases(self, language, count, split, start)

    def questions(
        self, language: str, count: int, split: str = "train", *, start: int = 0
    ) -> list[Question]:
        """Questions about short paragraphs; row i means the same in every language."""
        return toyworld_tasks.questions(self, language, count, split, start)

    def oracle(self, language: str) -> Oracle:
        """The best possible reader of a language: exact posteriors over all that a sentence leaves open."""
        if language not in self._oracles:
            self._oracles[language] = Oracle(self.tongue(language))
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
        return ceiling(self, task, language, count=count, split=split)

    def _stream(self, purpose: str, count: int, start: int, split: str) -> Iterator[Sayings]:
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
        while count > 0:
            block, first = divmod(start, _BLOCK)
            sayings = self._block(purpose, split, block)
            piece = Sayings(*(part[first : first + count] for part in sayings))
            yield piece
            start += len(piece.topics)
            count -= len(piece.topics)

    def _block(self, purpose: str, split: str, block: int) -> Sayings:
        """A block of a split: draws from the generator, those that belong to other splits left out."""
        rng = generator(self.seed, "block", purpose, split, block)
        pieces: list[Sayings] = []
        missing = _BLOCK
        low, high = SPLITS[split]
        while missing > 0:
            drawn = self.draw(rng, 100 * missing // (high - low) + 64)
            here = self.splits(drawn) == split
            pieces.append(Sayings(*(part[here] for part in drawn)))
            missing -= int(here.sum())
        return Sayings(*(np.concatenate(parts)[:_BLOCK] for parts in zip(*pieces, strict=True)))

    def draw(
        self, rng: np.random.Generator, count: int, among: np.ndarray | None = None
    ) -> Sayings:
        """Draws from the generator itself, whatever their split; `among` masks the constructions allowed."""
        edges = (self.prior if among is None else self.prior * among).cumsum()
        drawn = np.searchsorted(edges, rng.random(count) * edges[-1], side="right")
        constructions = drawn.clip(0, len(edges) - 1)
        topics = np.searchsorted(TOPIC_PRIOR.cumsum(), rng.random(count)).clip(0, len(TOPICS) - 1)
        kinds = self.kinds[constructions]
        edges, first = self._choices
        cells = kinds * len(TOPICS) + topics[:, None]
        found = np.searchsorted(edges, cells + rng.random(kinds.shape), side="right")
        meanings = np.where(kinds < 0, -1, found - first[cells.clip(0)])
        return Sayings(constructions, topics, meanings)

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

    def splits(self, sayings: Sayings) -> np.ndarray:
        """The split [n] each saying belongs to, in every language."""
        return self.division.split_of(self.kinds[sayings.constructions], sayings.meanings)

    @cached_property
    def division(self) -> Division:
        """Which sentences belong to which split."""
        return Division(self)


def _shown(trees: list[Tree]) -> list[tuple[str, tuple[str, ...]]]:
    """Every (kind, features) a sentence can need: those of the constructions, verbs also with the other polarity."""
    shown = {(node.kind, node.features) for tree in trees for node in tree}
    return sorted(
        shown
        | {
            (kind, polar(features, negated))
            for kind, features in shown
            for negated in (False, True)
            if UPOS[kind] in ("VERB", "AUX")
        }
    )


def write_world(
    folder: Path | str,
    *,
    seed: int = 0,
    languages: Sequence[str] = (),
    words: int = 200_000,
    rows: Mapping[str, int] = MappingProxyType(ROWS),
    share: float = 1.0,
    frames: int = 200,
) -> Path:
    """Write corpora and every task of some languages, in the layout of a folder of real data.

    Args:
        folder: to be made; it must not exist, and appears under its name only when it is complete.
        seed: of the world.
        languages: codes; all of the world's when empty.
        words: of each language's corpus, about, counted with white space between them.
        rows: sentences or questions per split of every task.
        share: of the full number of meanings; a small world is learnt in a minute.
        frames: of sentences.

    Returns:
        The folder.

    Raises:
        ValueError: the folder exists, a number makes no sense, or a language is not of this world.
    """
    check(Path(folder), languages, words)
    world = World(seed, share=share, frames=frames)
    return write_folder(world, Path(folder), languages, words, rows)


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", nargs="?", type=Path, help="folder to write (must not exist)")
    parser.add_argument(
        "--languages", nargs="+", default=list(LANGUAGES), metavar="CODE", help="default: all"
    )
    parser.add_argument(
        "--words", type=int, default=200_000, help="of each corpus (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument(
        "--share", type=float, default=1.0, help="of the meanings; a small world is learnt sooner"
    )
    parser.add_argument(
        "--frames", type=int, default=200, help="of sentences (default: %(default)s)"
    )
    parser.add_argument("--describe", action="store_true", help="print a table of the world")
    options = parser.parse_args(arguments)
    if not options.describe and options.out is None:
        parser.error("name a folder to write, or ask to --describe the world")
    try:
        if options.out:
            check(options.out, options.languages, options.words)
        world = World(options.seed, share=options.share, frames=options.frames)
        if options.describe:
            print(*describe(world, options.languages), sep="\n")
        if options.out:
            write_folder(world, options.out, options.languages, options.words)
    except (ValueError, OSError) as error:
        print(f"toyworld: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
