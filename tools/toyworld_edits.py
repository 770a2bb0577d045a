"""What may be done to a sentence before it is said, and what it then means."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from toyworld_lexicon import KINDS
from toyworld_sampler import Sampler
from toyworld_word_order import Node, Tree, fits, polar

_MODIFIERS = ("amod", "advmod", "obl", "nmod")


class Proposition(NamedTuple):
    """One sentence before it is said."""

    tree: Tree
    meanings: tuple[int, ...]


def denied(proposition: Proposition) -> bool:
    """Whether it is denied."""
    return any(node.kind == "neg" for node in proposition.tree)


def deny(proposition: Proposition, negative: bool) -> Proposition:
    """The same statement, denied or not."""
    if denied(proposition) == negative:
        return proposition
    top = root(proposition.tree)
    verb = next((i for i, node in enumerate(proposition.tree) if node.kind == "cop"), top)
    nodes = list(proposition.tree)
    nodes[verb] = nodes[verb]._replace(features=polar(nodes[verb].features, negative))
    if negative:
        return Proposition(
            (*nodes[:-1], Node("neg", "advmod", top), nodes[-1]),
            (*proposition.meanings[:-1], 0, proposition.meanings[-1]),
        )
    return without(
        Proposition(tuple(nodes), proposition.meanings),
        {i for i, node in enumerate(nodes) if node.kind == "neg"},
    )


def drop(proposition: Proposition, rng: np.random.Generator) -> Proposition | None:
    """The statement without one modifier of its root or object."""
    tree = proposition.tree
    scope = _scope(tree)
    goes = [
        i for i, n in enumerate(tree)
        if n.relation in _MODIFIERS and n.kind != "neg" and n.head in scope and not (n.relation == "obl" and tree[n.head].kind == "go")
    ]  # fmt: skip
    if not goes:
        return None
    return without(proposition, subtree(tree, goes[int(rng.random() * len(goes))]))


def _scope(tree: Tree) -> set[int]:
    """The root and its object: what a denial denies."""
    top = root(tree)
    return {top} | {i for i, node in enumerate(tree) if node.relation == "obj" and node.head == top}


def replace(
    sampler: Sampler,
    proposition: Proposition,
    kin: str,
    rng: np.random.Generator,
    *,
    scope: bool = False,
) -> Proposition | None:
    """The statement with one word exchanged for its synonym, antonym, hypernym or hyponym.

    Only words that share their spelling with none, in any language, take part: what was done shows. Antonyms replace
    the predicate only, since two things are no contradiction.
    """
    places = []
    inside = _scope(proposition.tree) if scope else range(len(proposition.tree))
    for i in inside if kin != "antonym" else [root(proposition.tree)]:
        kind, old = proposition.tree[i].kind, proposition.meanings[i]
        new = (
            int(sampler.meanings.lexical_relations[kind][kin][old])
            if kind in sampler.meanings.lexical_relations
            else -1
        )
        if (
            new >= 0
            and sampler.splits.spelled_alone(kind, old)
            and sampler.splits.spelled_alone(kind, new)
        ):
            places.append((i, new))
    if not places:
        return None
    i, new = places[int(rng.random() * len(places))]
    return Proposition(
        proposition.tree, (*proposition.meanings[:i], new, *proposition.meanings[i + 1 :])
    )


def swap(sampler: Sampler, proposition: Proposition) -> Proposition | None:
    """Subject and object exchanged, where both are persons spelled like nothing else."""
    ends = [
        i for i, node in enumerate(proposition.tree)
        if node.relation in ("nsubj", "obj") and node.kind == "person" and sampler.splits.spelled_alone("person", proposition.meanings[i])
    ]  # fmt: skip
    if len(ends) != 2:
        return None
    meanings = list(proposition.meanings)
    meanings[ends[0]], meanings[ends[1]] = meanings[ends[1]], meanings[ends[0]]
    return (
        Proposition(proposition.tree, tuple(meanings))
        if meanings[ends[0]] != meanings[ends[1]]
        else None
    )


def without(proposition: Proposition, gone: set[int]) -> Proposition:
    """The sentence without some nodes, none of which leaves a child behind."""
    kept = [i for i in range(len(proposition.tree)) if i not in gone]
    number = {old: new for new, old in enumerate(kept)} | {-1: -1}
    tree = tuple(proposition.tree[i]._replace(head=number[proposition.tree[i].head]) for i in kept)
    return Proposition(tree, tuple(proposition.meanings[i] for i in kept))


def subtree(tree: Tree, top: int) -> set[int]:
    """A node and all below it."""
    inside = {top}
    while more := {i for i, node in enumerate(tree) if node.head in inside} - inside:
        inside |= more
    return inside


def root(tree: Tree) -> int:
    """The node that has no head."""
    return next(i for i, node in enumerate(tree) if node.head < 0)


def belongs(sampler: Sampler, proposition: Proposition, split: str) -> bool:
    """Whether a sentence is of this split and of allowed length."""
    kinds = np.array([[KINDS.index(node.kind) for node in proposition.tree]])
    return bool(
        sampler.splits.split_of(kinds, np.array([proposition.meanings]))[0] == split
    ) and fits(proposition.tree)
