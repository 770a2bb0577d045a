"""Surface realization: how one language says what the world means, with its words and its order."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import NamedTuple

import numpy as np
from toyworld_grammar import Grammar
from toyworld_lexicon import UPOS, Language, Meanings, stems
from toyworld_word_order import Node, Placed, Tree, iob2, place


class Token(NamedTuple):
    """One word of a treebank, as in CoNLL-U."""

    id: int
    form: str
    lemma: str
    upos: str
    feats: str
    head: int
    deprel: str


class Propositions(NamedTuple):
    """Some sentences before they are said: constructions [n], topics [n], a meaning per node [n, nodes]."""

    constructions: np.ndarray
    topics: np.ndarray
    meanings: np.ndarray


class Realizer:
    """A language's words, and how it says each construction."""

    def __init__(self, language: Language, seed: int, meanings: Meanings, grammar: Grammar) -> None:
        self.language, self.meanings, self.grammar = language, meanings, grammar
        self.stems = stems(language, meanings, seed)
        self.words: list[str] = []
        self.number: dict[str, int] = {}
        # (kind, affixes) -> row of `forms`, which has the number of the word for every meaning
        self.inflections: dict[tuple[str, tuple[str, ...]], int] = {}
        self.forms: list[np.ndarray] = []
        self._inflection_of = np.array(
            [*(self.inflection(kind, features) for kind, features in grammar.categories), -1]
        )

    @cached_property
    def placed(self) -> list[Placed]:
        """The order of every construction's words; it does not depend on features."""
        orders: dict[tuple[tuple[str, str, int], ...], Placed] = {}
        placed = []
        for tree in self.grammar.trees:
            bare = tuple(node[:3] for node in tree)
            if bare not in orders:
                orders[bare] = place(tree, self.language)
            placed.append(orders[bare])
        return placed

    @cached_property
    def lengths(self) -> np.ndarray:
        """How many words a construction has, with its final mark."""
        return np.array([len(placed.nodes) for placed in self.placed])

    @cached_property
    def nodes(self) -> np.ndarray:
        """[constructions, positions] -> node of the tree, -1 after the end."""
        table = np.full((len(self.placed), self.lengths.max()), -1)
        for row, placed in zip(table, self.placed, strict=True):
            row[: len(placed.nodes)] = placed.nodes
        return table

    @cached_property
    def inflection_at(self) -> np.ndarray:
        """[constructions, positions] -> inflection, -1 after the end."""
        categories = np.take_along_axis(self.grammar.category_at, self.nodes.clip(0), axis=1)
        return np.where(self.nodes < 0, -1, self._inflection_of[categories])

    def inflection(self, kind: str, features: tuple[str, ...]) -> int:
        """The number of the (kind, affixes) that a node of this kind and these features takes here."""
        key = kind, tuple(self.language.affixes[f] for f in features if f in self.language.affixes)
        if key not in self.inflections:
            self.inflections[key] = len(self.forms)
            self.forms.append(
                np.array(
                    [self._word(self.language.inflect(stem, key[1])) for stem in self.stems[kind]]
                )
            )
        return self.inflections[key]

    def _word(self, form: str) -> int:
        if form not in self.number:
            self.number[form] = len(self.words)
            self.words.append(form)
        return self.number[form]

    def homographs(self) -> list[set[int]]:
        """Sets of meanings (numbered through all kinds) that share a form."""
        senses: list[set[int]] = [set() for _ in self.words]
        for (kind, _), forms in zip(self.inflections, self.forms, strict=True):
            for meaning, word in enumerate(forms):
                senses[word].add(self.meanings.offset[kind] + meaning)
        return [alike for alike in senses if len(alike) > 1]

    def numbers(self, propositions: Propositions) -> np.ndarray:
        """Numbers of the words [n, width], -1 after the end."""
        first = np.concatenate([[0], np.cumsum([len(forms) for forms in self.forms])])
        nodes, inflections = (
            self.nodes[propositions.constructions],
            self.inflection_at[propositions.constructions],
        )
        meanings = np.take_along_axis(propositions.meanings, nodes.clip(0), axis=1)
        return np.where(
            nodes < 0,
            -1,
            np.concatenate(self.forms)[(first[inflections] + meanings).clip(0, first[-1] - 1)],
        )

    def say(self, propositions: Propositions) -> list[str]:
        """The sentences as text."""
        words = [*self.words, ""]
        lengths = self.lengths[propositions.constructions].tolist()
        rows = self.numbers(propositions).tolist()
        return [text(words[w] for w in row[:n]) for row, n in zip(rows, lengths, strict=True)]

    def trees_of(self, propositions: Propositions) -> list[list[Token]]:
        """The sentences as trees."""
        return [
            self.tokens(self.grammar.trees[c], self.placed[c], meanings)
            for c, meanings in zip(propositions.constructions, propositions.meanings, strict=True)
        ]

    def tokens(self, tree: Tree, placed: Placed, meanings: np.ndarray) -> list[Token]:
        """One tree with words."""
        rows = []
        for p, (n, head) in enumerate(zip(placed.nodes, placed.heads, strict=True)):
            node, m = tree[n], int(meanings[n])
            feats = {
                _FEATS[f.split(".")[-1]] for f in node.features if _category(f) in self._marked
            }
            lemma = self.stems[node.kind][m]
            rows.append(
                Token(
                    p + 1,
                    self.form(node, m),
                    lemma,
                    UPOS[node.kind],
                    "|".join(sorted(feats)) or "_",
                    head + 1,
                    node.relation,
                )
            )
        return rows

    @cached_property
    def _marked(self) -> set[tuple[str, str]]:
        """What the language shows at all, as (part of speech, category): the number of nouns, the tense of verbs."""
        return {_category(feature) for feature in self.language.affixes}

    def form(self, node: Node, meaning: int) -> str:
        """The word for a node."""
        return self.words[self.forms[self.inflection(node.kind, node.features)][meaning]]

    def iob2_of(self, propositions: Propositions) -> list[list[tuple[str, str]]]:
        """The sentences as (word, IOB2 tag)."""
        rows = []
        for c, numbers in zip(propositions.constructions, self.numbers(propositions), strict=True):
            rows.append(
                [(self.words[w], tag) for w, tag in zip(numbers, self.names[c], strict=False)]
            )
        return rows

    @cached_property
    def names(self) -> list[list[str]]:
        """IOB2 tags of every construction."""
        return [
            iob2(tree, placed) for tree, placed in zip(self.grammar.trees, self.placed, strict=True)
        ]


_FEATS = {
    "Sing": "Number=Sing", "Plur": "Number=Plur", "Past": "Tense=Past", "Pres": "Tense=Pres", "Fut": "Tense=Fut",
    "neg": "Polarity=Neg", "acc": "Case=Acc", "dat": "Case=Dat", "gen": "Case=Gen", "loc": "Case=Loc", "abl": "Case=Abl",
    "ins": "Case=Ins", "nom": "Case=Nom",
}  # fmt: skip


def _category(feature: str) -> tuple[str, str]:
    return feature.split(".")[0], _FEATS[feature.split(".")[-1]].split("=")[0]


def text(words: Iterable[str]) -> str:
    """Words as running text: spaces between them, none before the final mark."""
    *inner, mark = words
    return " ".join(inner) + mark


def words(sentence: str) -> list[str]:
    """The words of a sentence and its final mark: the inverse of `text`."""
    return [*sentence[:-1].split(" "), sentence[-1]]
