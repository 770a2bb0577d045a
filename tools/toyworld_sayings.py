"""What may be done to a sentence before it is said, and what it then means."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from toyworld_grammar import Node, Tree, fits, polar
from toyworld_lexicon import KINDS

if TYPE_CHECKING:
    from toyworld import World

_MODIFIERS = ("amod", "advmod", "obl", "nmod")


class Saying(NamedTuple):
    """One sentence before it is said."""

    tree: Tree
    meanings: tuple[int, ...]


def denied(saying: Saying) -> bool:
    """Whether it is denied."""
    return any(node.kind == "neg" for node in saying.tree)


def deny(saying: Saying, negative: bool) -> Saying:
    """The same statement, denied or not."""
    if denied(saying) == negative:
        return saying
    top = root(saying.tree)
    verb = next((i for i, node in enumerate(saying.tree) if node.kind == "cop"), top)
    nodes = list(saying.tree)
    nodes[verb] = nodes[verb]._replace(features=polar(nodes[verb].features, negative))
    if negative:
        return Saying(
            (*nodes[:-1], Node("neg", "advmod", top), nodes[-1]),
            (*saying.meanings[:-1], 0, saying.meanings[-1]),
        )
    return without(
        Saying(tuple(nodes), saying.meanings),
        {i for i, node in enumerate(nodes) if node.kind == "neg"},
    )


def drop(saying: Saying, rng: np.random.Generator) -> Saying | None:
    """The statement without one modifier of its root or object."""
    tree = saying.tree
    scope = _scope(tree)
    goes = [
        i for i, n in enumerate(tree)
        if n.relation in _MODIFIERS and n.kind != "neg" and n.head in scope and not (n.relation == "obl" and tree[n.head].kind == "go")
    ]  # fmt: skip
    if not goes:
        return None
    return without(saying, subtree(tree, goes[int(rng.random() * len(goes))]))


def _scope(tree: Tree) -> set[int]:
    """The root and its object: what a denial denies."""
    top = root(tree)
    return {top} | {i for i, node in enumerate(tree) if node.relation == "obj" and node.head == top}


def replace(
    world: World, saying: Saying, kin: str, rng: np.random.Generator, *, scope: bool = False
) -> Saying | None:
    """The statement with one word exchanged for its synonym, antonym, hypernym or hyponym.

    Only words that share their spelling with none, in any language, take part: what was done shows. Antonyms replace
    the predicate only, since two things are no contradiction.
    """
    places = []
    inside = _scope(saying.tree) if scope else range(len(saying.tree))
    for i in inside if kin != "antonym" else [root(saying.tree)]:
        kind, old = saying.tree[i].kind, saying.meanings[i]
        new = int(world.meanings.kin[kind][kin][old]) if kind in world.meanings.kin else -1
        if (
            new >= 0
            and world.division.spelled_alone(kind, old)
            and world.division.spelled_alone(kind, new)
        ):
            places.append((i, new))
    if not places:
        return None
    i, new = places[int(rng.random() * len(places))]
    return Saying(saying.tree, (*saying.meanings[:i], new, *saying.meanings[i + 1 :]))


def swap(world: World, saying: Saying) -> Saying | None:
    """Subject and object exchanged, where both are persons spelled like nothing else."""
    ends = [
        i for i, node in enumerate(saying.tree)
        if node.relation in ("nsubj", "obj") and node.kind == "person" and world.division.spelled_alone("person", saying.meanings[i])
    ]  # fmt: skip
    if len(ends) != 2:
        return None
    meanings = list(saying.meanings)
    meanings[ends[0]], meanings[ends[1]] = meanings[ends[1]], meanings[ends[0]]
    return Saying(saying.tree, tuple(meanings)) if meanings[ends[0]] != meanings[ends[1]] else None


def without(saying: Saying, gone: set[int]) -> Saying:
    """The sentence without some nodes, none of which leaves a child behind."""
    kept = [i for i in range(len(saying.tree)) if i not in gone]
    number = {old: new for new, old in enumerate(kept)} | {-1: -1}
    tree = tuple(saying.tree[i]._replace(head=number[saying.tree[i].head]) for i in kept)
    return Saying(tree, tuple(saying.meanings[i] for i in kept))


def subtree(tree: Tree, top: int) -> set[int]:
    """A node and all below it."""
    inside = {top}
    while more := {i for i, node in enumerate(tree) if node.head in inside} - inside:
        inside |= more
    return inside


def root(tree: Tree) -> int:
    """The node that has no head."""
    return next(i for i, node in enumerate(tree) if node.head < 0)


def belongs(world: World, saying: Saying, split: str) -> bool:
    """Whether a sentence is of this split and of allowed length."""
    kinds = np.array([[KINDS.index(node.kind) for node in saying.tree]])
    return bool(world.division.split_of(kinds, np.array([saying.meanings]))[0] == split) and fits(
        saying.tree
    )
