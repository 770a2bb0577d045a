"""What can be known about a sentence of the toy world, and what cannot: exact posteriors and what follows from them.

A sentence of n words w in a language comes from a topic t, a construction c of n words, and, position by position, a
word from the shape s(c, i) that the construction has there:

    P(w, c, t) = P(t) P(c) Π_i P(w_i | s(c, i), t)

Topics and constructions are few enough to sum over, so every conditional probability below is exact. The generator is
the one before the division into splits, which is a hash that nothing can learn.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from toyworld_lexicon import TOPIC_PRIOR, UPOS
from toyworld_realizer import Realizer

_K = TypeVar("_K", bound=Hashable)
Reveal = Callable[[str], Hashable]


class Entropy(NamedTuple):
    """Bits that the best possible predictor needs for masked words.

    Each masked word is predicted by itself from the words left visible, as in a pseudo-likelihood.
    """

    bits_per_word: float
    error: float  # standard error of bits_per_word, over sentences
    bits_per_byte: float  # per UTF-8 byte of the masked words
    words: int
    bytes: int


class Reading(NamedTuple):
    """What the visible words of a sentence leave open: weights [constructions, topics] that sum to 1."""

    constructions: np.ndarray
    weights: np.ndarray


class Oracle:
    """The best possible reader of one language.

    Args:
        realizer: the language's words and constructions.
    """

    def __init__(self, realizer: Realizer) -> None:
        self.realizer = realizer
        kinds = [kind for kind, _ in realizer.inflections]
        meanings = realizer.meanings
        sizes = [meanings.count(kind) for kind in kinds]
        self._shape = np.repeat(np.arange(len(kinds)), sizes)  # of every (shape, meaning)
        self._word = np.concatenate(realizer.forms)
        self._probability = np.concatenate(
            [meanings.probability[kind].T for kind in kinds]
        )  # [.., topics]
        self._order = np.argsort(self._word, kind="stable")
        self._first = np.searchsorted(self._word[self._order], np.arange(len(realizer.words) + 1))
        self._tag = np.array([UPOS[kind] for kind in kinds])
        self._revealed: dict[tuple[Reveal, Hashable], np.ndarray] = {}
        self._labels: dict[Reveal, list[Hashable]] = {}

    def emission(self, word: str) -> np.ndarray:
        """P(word | shape, topic) [shapes, topics]."""
        if word not in self.realizer.number:
            raise ValueError(
                f"{word!r} is no word of {self.realizer.language.code}: give sentences of this world"
            )
        number = self.realizer.number[word]
        return self._emissions(self._order[self._first[number] : self._first[number + 1]])

    def _emissions(self, senses: np.ndarray) -> np.ndarray:
        table = np.zeros((len(self._tag), len(TOPIC_PRIOR)))
        np.add.at(table, self._shape[senses], self._probability[senses])
        return table

    def _seen(self, word: str, reveal: Reveal) -> np.ndarray:
        """P(what is seen of the word | shape, topic)."""
        key = reveal, reveal(word)
        if key not in self._revealed:
            labels = self._labels.setdefault(reveal, [reveal(w) for w in self.realizer.words])
            alike = np.array([label == key[1] for label in labels])
            self._revealed[key] = self._emissions(np.flatnonzero(alike[self._word]))
        return self._revealed[key]

    def read(
        self,
        words: Sequence[str],
        hidden: Collection[int] = (),
        *,
        reveal: Reveal | None = None,
        topic: int | None = None,
    ) -> Reading:
        """The posterior over constructions and topics.

        Args:
            words: the sentence with its final mark.
            hidden: positions of the masked words; that there is a word is known, and the number of words.
            reveal: what of a masked word stays visible, for instance its number of pieces; nothing by default.
            topic: the topic, if known.

        Raises:
            ValueError: no construction gives these words.
        """
        rows = np.flatnonzero(self.realizer.lengths == len(words))
        prior = TOPIC_PRIOR if topic is None else np.eye(len(TOPIC_PRIOR))[topic]
        joint = self.realizer.grammar.prior[rows, None] * prior
        for i, word in enumerate(words):
            if i in hidden and not reveal:
                continue
            given = self._seen(word, reveal) if i in hidden and reveal else self.emission(word)
            joint = joint * given[self.realizer.inflection_at[rows, i]]
            possible = joint.any(1)
            rows, joint = rows[possible], joint[possible]
        if not len(rows):
            raise ValueError(
                f"{' '.join(words)!r} is no sentence of {self.realizer.language.code}: no construction gives it"
            )
        return Reading(rows, joint / joint.sum())

    def surprisal(
        self,
        words: Sequence[str],
        hidden: Collection[int],
        *,
        reveal: Reveal | None = None,
        topic: int | None = None,
    ) -> np.ndarray:
        """-log2 P(masked word | visible words) for each masked position, in their order [hidden]."""
        reading = self.read(words, hidden, reveal=reveal, topic=topic)
        bits = []
        for i in sorted(hidden):
            shapes = self.realizer.inflection_at[reading.constructions, i]
            given = self.emission(words[i])[shapes]
            if reveal:  # the weights know what was seen of this word: P(word | shape, topic, seen)
                given = given / self._seen(words[i], reveal)[shapes].clip(1e-300)
            bits.append(-np.log2((reading.weights * given).sum()))
        return np.array(bits)

    def predict(
        self, words: Sequence[str], hidden: Collection[int], at: int, *, topic: int | None = None
    ) -> np.ndarray:
        """P(word at a masked position | visible words) over all words of the language [words]."""
        reading = self.read(words, hidden, topic=topic)
        table = np.zeros((len(self._tag), len(TOPIC_PRIOR)))
        np.add.at(table, self.realizer.inflection_at[reading.constructions, at], reading.weights)
        given = (table[self._shape] * self._probability).sum(1)
        return np.bincount(self._word, weights=given, minlength=len(self.realizer.words))

    def entropy(
        self,
        sentences: Iterable[tuple[Sequence[str], Collection[int]]],
        *,
        reveal: Reveal | None = None,
        topic: int | None = None,
    ) -> Entropy:
        """The mean surprisal of masked words, over (words, masked positions)."""
        bits, counts, size = [], [], 0
        for words, hidden in sentences:
            bits.append(self.surprisal(words, hidden, reveal=reveal, topic=topic).sum())
            counts.append(len(hidden))
            size += sum(len(words[i].encode()) for i in hidden)
        total, n = float(np.sum(bits)), int(np.sum(counts))
        spread = np.array(bits) - total / n * np.array(counts)
        error = float(np.sqrt((spread**2).sum()) / n)
        return Entropy(total / n, error, total / size, n, size)

    def tags(self, words: Sequence[str]) -> list[dict[str, float]]:
        """P(universal tag | sentence) of every word."""
        return self._marginals(
            words,
            lambda c: [
                UPOS[self.realizer.grammar.trees[c][n].kind] for n in self.realizer.placed[c].nodes
            ],
        )

    def arcs(self, words: Sequence[str]) -> list[dict[tuple[int, str], float]]:
        """P(head, relation | sentence) of every word; the head counts from 1, 0 is the root."""

        def arcs(c: int) -> list[tuple[int, str]]:
            placed, tree = self.realizer.placed[c], self.realizer.grammar.trees[c]
            return [
                (h + 1, tree[n].relation) for n, h in zip(placed.nodes, placed.heads, strict=True)
            ]

        return self._marginals(words, arcs)

    def names(self, words: Sequence[str]) -> list[dict[str, float]]:
        """P(IOB2 tag | sentence) of every word."""
        return self._marginals(words, lambda c: self.realizer.names[c])

    def spans(self, words: Sequence[str]) -> dict[tuple[int, int, str], float]:
        """P(name | sentence) of every span [first, last) with its label that can be a name."""
        result: dict[tuple[int, int, str], float] = {}
        reading = self.read(words)
        for c, weight in zip(reading.constructions, reading.weights.sum(1), strict=True):
            for span in spans(self.realizer.names[c]):
                result[span] = result.get(span, 0.0) + float(weight)
        return result

    def topics(self, words: Sequence[str]) -> np.ndarray:
        """P(topic | sentence) [topics]."""
        return self.read(words).weights.sum(0)

    def _marginals(
        self, words: Sequence[str], label: Callable[[int], list[_K]]
    ) -> list[dict[_K, float]]:
        result: list[dict[_K, float]] = [{} for _ in words]
        reading = self.read(words)
        for c, weight in zip(reading.constructions, reading.weights.sum(1), strict=True):
            for row, key in zip(result, label(int(c)), strict=True):
                row[key] = row.get(key, 0.0) + float(weight)
        return result

    def word_tags(self) -> dict[str, dict[str, float]]:
        """P(word, universal tag) of a word drawn from running text."""
        used = np.zeros(len(self._tag))
        for prior, row in zip(
            self.realizer.grammar.prior, self.realizer.inflection_at, strict=True
        ):
            np.add.at(used, row[row >= 0], prior)
        joint = used[self._shape] * (self._probability @ TOPIC_PRIOR) / used.sum()
        table: dict[str, dict[str, float]] = {}
        for word, shape, p in zip(self._word, self._shape, joint, strict=True):
            tags = table.setdefault(self.realizer.words[word], {})
            tags[self._tag[shape]] = tags.get(self._tag[shape], 0.0) + float(p)
        return table


def spans(tags: Sequence[str]) -> list[tuple[int, int, str]]:
    """The names [first, last) with their labels that IOB2 tags mark."""
    names: list[tuple[int, int, str]] = []
    for i, tag in enumerate(tags):
        if tag.startswith("B-"):
            names.append((i, i + 1, tag[2:]))
        elif tag.startswith("I-"):
            names[-1] = (names[-1][0], i + 1, names[-1][2])
    return names
