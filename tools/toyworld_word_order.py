"""Dependency trees without words, and the order in which each language says one."""

from __future__ import annotations

from typing import NamedTuple

from toyworld_lexicon import LANGUAGES, NAMES, UPOS, Language

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


def fits(tree: Tree, longest: int = LONGEST) -> bool:
    """Whether a tree makes a sentence of allowed length in every language."""
    sizes = [sum(said) - 1 for said in zip(*(_SAID[node.kind] for node in tree), strict=True)]
    return min(sizes) >= SHORTEST and max(sizes) <= longest


_SAID = {kind: [kind not in language.silent for language in LANGUAGES.values()] for kind in UPOS}


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


def iob2(tree: Tree, placed: Placed) -> list[str]:
    """The IOB2 tag of every position: a name is its head and the flat words behind it."""
    tags = []
    for n in placed.nodes:
        label = NAMES.get(tree[n].kind)
        inside = tree[n].relation == "flat"
        first = NAMES[tree[tree[n].head].kind] if inside else label
        tags.append(f"{'I' if inside else 'B'}-{first}" if label else "O")
    return tags


def polar(features: tuple[str, ...], negated: bool) -> tuple[str, ...]:
    """The features of a verb said or denied: the sign of denial stands behind the tense, which comes first."""
    rest = tuple(f for f in features if f != "verb.neg")
    return (*rest[:1], "verb.neg", *rest[1:]) if negated else rest
