"""The deep grammar all languages share, and the order in which each says it.

A construction is a dependency tree without words: every node names a kind of meaning, its relation to its
head, and the features an inflecting language may show. The world owns a finite inventory of constructions,
drawn once from `draw_tree`; a sentence is a construction, a topic and a meaning per node. The inventory is finite
so that everything about the world can be computed exactly.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import numpy as np
from toyworld_lexicon import LANGUAGES, Language, generator

SHORTEST, LONGEST = 4, 20  # words of a sentence in every language, final mark apart

# Children of a head before it (negative) and after it (positive), nearest first. A key is a kind or a relation;
# the kind wins.
SVO = {
    "cc": -45, "mark": -40, "ask": -38, "front": -36, "nsubj": -30, "cop": -25, "aux": -24, "neg": -22,
    "case": -15, "det": -12, "nummod": -11, "amod": -10, "compound": -9, "flat": 1, "nmod": 3, "acl:relcl": 5,
    "iobj": 11, "obj": 12, "obl": 13, "advmod": 14, "ccomp": 16, "advcl": 18, "conj": 20, "punct": 30,
}  # fmt: skip
ORDERS = {
    "SVO": SVO,
    "SVO, adjective last": SVO | {"amod": 2.5, "compound": 2.4},
    "SVO, modifiers last": SVO | {"amod": 2.2, "compound": 2.1, "nummod": 2.4, "det": 2.6, "advmod": 12.5},
    "SOV": SVO | {
        "advcl": -36, "ccomp": -29, "obl": -28, "iobj": -27.5, "obj": -27, "advmod": -26, "neg": 5, "aux": 6, "cop": 5.5,
        "case": 2, "nmod": -14, "acl:relcl": -16, "mark": 22, "ask": 23,
    },
    "VSO": SVO | {"nsubj": 10, "amod": 2.5, "compound": 2.4, "cop": -25},
}  # fmt: skip


class Node(NamedTuple):
    """A word to be: the kind of its meaning, its relation to its head, what may show in its form."""

    kind: str
    relation: str
    head: int  # -1 at the root
    features: tuple[str, ...] = ()


Tree = tuple[Node, ...]


class Placed(NamedTuple):
    """A tree said in one language: which node stands where."""

    nodes: tuple[int, ...]  # position -> node of the tree
    heads: tuple[int, ...]  # position -> position of the head, -1 at the root


def inventory(seed: int, draws: int, longest: int = LONGEST) -> tuple[list[Tree], np.ndarray]:
    """The world's constructions and their probabilities: what `draws` draws from the grammar gave."""
    rng = generator(seed, "grammar")
    counts: Counter[Tree] = Counter()
    while counts.total() < draws:
        tree = draw_tree(rng)
        sizes = [
            sum(node.kind not in tongue.silent for node in tree) - 1
            for tongue in LANGUAGES.values()
        ]
        if min(sizes) >= SHORTEST and max(sizes) <= longest:
            counts[tree] += 1
    trees = sorted(counts)
    weight = np.array([counts[tree] for tree in trees], dtype=float)
    return trees, weight / weight.sum()


def place(tree: Tree, language: Language, *, fronted: bool = False) -> Placed:
    """The order of a tree's words in a language; `fronted` moves adverbs and obliques to the front."""
    ranks = ORDERS[language.order]
    children: dict[int, list[int]] = {}
    for i, node in enumerate(tree):
        if node.kind not in language.silent:
            children.setdefault(node.head, []).append(i)

    def rank(i: int) -> float:
        node = tree[i]
        if fronted and node.relation in ("obl", "advmod") and node.kind != "neg":
            return ranks["front"]
        return ranks[node.kind] if node.kind in ranks else ranks[node.relation]

    def spell(i: int) -> list[int]:
        order = sorted(children.get(i, []), key=rank)
        before = [n for child in order if rank(child) < 0 for n in spell(child)]
        after = [n for child in order if rank(child) > 0 for n in spell(child)]
        return [*before, i, *after]

    nodes = spell(children[-1][0])
    position = {node: p for p, node in enumerate(nodes)}
    return Placed(tuple(nodes), tuple(position.get(tree[n].head, -1) for n in nodes))


def polar(features: tuple[str, ...], negated: bool) -> tuple[str, ...]:
    """The features of a verb said or denied: the sign of denial stands behind the tense, which comes first."""
    rest = tuple(f for f in features if f != "verb.neg")
    return (*rest[:1], "verb.neg", *rest[1:]) if negated else rest


def draw_tree(rng: np.random.Generator) -> Tree:
    """One construction: a main clause, perhaps with a second one beside, under or before it."""
    tree = _Sapling(rng)
    question = tree.chance(0.1)
    root = tree.clause("root", -1, question=question)
    shape = tree.choose({"plain": 0.72, "advcl": 0.14, "conj": 0.14}) if not question else "plain"
    if shape == "advcl":
        tree.add("when", "mark", tree.clause("advcl", root, simple=True))
    if shape == "conj":
        tree.add("cc", "cc", tree.clause("conj", root, simple=True))
    tree.add("query" if question else "stop", "punct", root)
    return tuple(
        Node(kind, relation, head, tuple(features)) for kind, relation, head, features in tree.nodes
    )


class _Sapling:
    """A tree while it grows."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.nodes: list[tuple[str, str, int, list[str]]] = []

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def choose(self, weights: dict[str, float]) -> str:
        edges = np.cumsum(list(weights.values()))
        return list(weights)[
            int(np.searchsorted(edges, self.rng.random() * edges[-1], side="right"))
        ]

    def add(self, kind: str, relation: str, head: int, *features: str) -> int:
        self.nodes.append((kind, relation, head, list(features)))
        return len(self.nodes) - 1

    def clause(
        self,
        relation: str,
        head: int,
        *,
        question: bool = False,
        simple: bool = False,
        subject: bool = True,
    ) -> int:
        verb = self.choose(
            {
                "rest": 0.2,
                "act": 0.3,
                "meet": 0.15,
                "give": 0.07,
                "go": 0.1,
                "say": 0.05,
                "is": 0.13,
            }
        )
        if simple and verb == "say":
            verb = "act"
        if verb == "is" and subject:
            return self._copula(relation, head, question)
        verb = "rest" if verb == "is" else verb
        tense = self.choose({"Pres": 0.5, "Past": 0.35, "Fut": 0.15})
        negated = self.chance(0.15)
        root = self.add(verb, relation, head, f"verb.{tense}", *(["verb.neg"] if negated else []))
        asked = (
            self.choose({"ask": 0.4, "who": 0.3, "what": 0.15, "where": 0.15}) if question else ""
        )
        if subject:
            self._subject(root, asked)
        self._particles(root, tense, negated, asked == "ask")
        self._arguments(root, verb, asked, full=subject and not simple)
        if self.chance(0.25):
            self.add("adv", "advmod", root)
        if asked == "where" and verb != "go":
            self.add("where", "advmod", root)
        elif verb != "go" and self.chance(0.3):
            self.phrase(
                "obl",
                root,
                {"place": 0.5, "city": 0.3, "thing": 0.2},
                self.choose({"loc": 0.6, "abl": 0.2, "ins": 0.2}),
            )
        return root

    def _subject(self, root: int, asked: str) -> None:
        if asked == "who":
            self.add("who", "nsubj", root)
            self.nodes[root][3].extend(["verb.Sing", "verb.person.Sing"])
            return
        kinds = {
            "person": 0.45,
            "given": 0.18,
            "family": 0.06,
            "firm": 0.08,
            "city": 0.02,
            "he": 0.06,
            "they": 0.05,
            "thing": 0.1,
        }
        at = self.phrase("nsubj", root, kinds, "nom", depth=0)
        number, group = self._agreement(at)
        self.nodes[root][3].extend([f"verb.{number}", f"verb.{group}.{number}"])

    def _particles(self, root: int, tense: str, negated: bool, ask: bool) -> None:
        if tense != "Pres":
            self.add("past" if tense == "Past" else "fut", "aux", root)
        if negated:
            self.add("neg", "advmod", root)
        if ask:
            self.add("ask", "discourse", root)

    def _arguments(self, root: int, verb: str, asked: str, *, full: bool) -> None:
        depth = 0 if full else 1
        if verb in ("act", "give") and asked == "what":
            self.add("what", "obj", root)
        elif verb in ("act", "give"):
            self.phrase("obj", root, {"thing": 1.0}, "acc", depth=depth)
        if verb == "meet":
            self.phrase(
                "obj",
                root,
                {"person": 0.6, "given": 0.25, "family": 0.05, "firm": 0.1},
                "acc",
                depth=depth,
            )
        if verb == "give":
            self.phrase("iobj", root, {"person": 0.6, "given": 0.3, "firm": 0.1}, "dat")
        if verb == "go":
            self.phrase(
                "obl", root, {"place": 0.5, "city": 0.5}, self.choose({"loc": 0.5, "abl": 0.5})
            )
        if verb == "say":
            self.add("that", "mark", self.clause("ccomp", root, simple=True))

    def _copula(self, relation: str, head: int, question: bool) -> int:
        noun = self.chance(0.4)
        tense = self.choose({"Pres": 0.7, "Past": 0.3})
        negated = self.chance(0.15)
        if noun:
            root = self.phrase(
                relation, head, {"person": 0.6, "thing": 0.4}, "nom", depth=1, plain=True
            )
        else:
            root = self.add("adj", relation, head)
        at = self.phrase(
            "nsubj",
            root,
            {"person": 0.45, "given": 0.2, "thing": 0.25, "place": 0.1},
            "nom",
            depth=1,
        )
        number, group = self._agreement(at)
        if not noun:
            self.nodes[root][3].extend([f"adj.{number}", f"adj.{group}.{number}"])
        self.add("cop", "cop", root, *polar((f"verb.{tense}", f"verb.{number}"), negated))
        self._particles(root, "Past" if tense == "Past" else "Pres", negated, question)
        if self.chance(0.3):
            self.phrase("obl", root, {"place": 0.6, "city": 0.4}, "loc")
        return root

    def phrase(
        self,
        relation: str,
        head: int,
        kinds: dict[str, float],
        case: str,
        *,
        depth: int = 1,
        plain: bool = False,
    ) -> int:
        """A noun phrase with its modifiers; depth 0 allows a relative clause."""
        kind = self.choose(kinds)
        at = self.add(kind, relation, head)
        last = at
        if kind == "given" and self.chance(0.5):
            last = self.add("family", "flat", at)
        if kind == "firm" and self.chance(0.5):
            last = self.add("orgkind", "flat", at)
        if kind == "city" and self.chance(0.2):
            last = self.add("region", "flat", at)
        if kind in ("person", "thing", "place"):
            self._modify(at, kind, case, depth, plain)
        if case != "nom":
            self.nodes[last][3].append(f"noun.{case}")
            if case != "acc":
                self.add(case, "case", at)
        return at

    def _modify(self, at: int, kind: str, case: str, depth: int, plain: bool) -> None:
        number = "Plur" if self.chance(0.3) else "Sing"
        self.nodes[at][3].extend([f"noun.{number}", f"noun.{kind}.{number}"])
        articles = {"def": 0.5, "dem": 0.1, "none": 0.1}
        article = self.choose(articles | ({"indef": 0.3} if number == "Sing" else {"num": 0.15}))
        if article != "none":
            self.add(article, "nummod" if article == "num" else "det", at)
        if self.chance(0.35):
            self.add("adj", "amod", at, f"adj.{number}", f"adj.{kind}.{number}", f"adj.{case}")
        if plain:
            return
        if self.chance(0.12):
            self.add("thing", "compound", at)
        if self.chance(0.12):
            self.phrase("nmod", at, {"person": 0.5, "given": 0.2, "city": 0.1, "firm": 0.2}, "gen")
        elif self.chance(0.1):
            self.phrase("nmod", at, {"place": 0.7, "city": 0.3}, "loc")
        if depth == 0 and self.chance(0.1):
            verb = self.clause("acl:relcl", at, simple=True, subject=False)
            self.nodes[verb][3].extend([f"verb.{number}", f"verb.{kind}.{number}"])
            self.add("rel", "nsubj", verb)

    def _agreement(self, at: int) -> tuple[str, str]:
        """Number and noun class that a subject lends to what agrees with it."""
        kind, _, _, features = self.nodes[at]
        number = "Plur" if "noun.Plur" in features or kind == "they" else "Sing"
        return number, kind if kind in ("thing", "place") else "person"
