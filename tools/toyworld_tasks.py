"""Pairs and questions whose answers follow from what the world means.

Row i means the same in every language. Both sentences of a pair, and a question as well as what it asks about,
belong to the split, so that no split repeats a sentence of another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from toyworld_grammar import Node, Tree, place
from toyworld_lexicon import SPLITS, UPOS, generator
from toyworld_sayings import (
    Saying,
    belongs,
    denied,
    deny,
    drop,
    replace,
    root,
    subtree,
    swap,
    without,
)
from toyworld_tongue import text

if TYPE_CHECKING:
    from toyworld import World
    from toyworld_tongue import Tongue

NLI_NOISE = 0.06  # share of pairs whose label an annotator got wrong: nothing can learn which
PARAPHRASE_NOISE = 0.04
TWO_ANSWERS = 0.1  # share of questions that two sentences answer, one of them the gold one
LABELS = ("entailment", "neutral", "contradiction")

# What may be done to a premise that affirms and to one that denies, so that the hypothesis has the label.
_STEPS = {
    ("entailment", False): ("synonym", "hypernym", "drop", "deny antonym"),
    ("entailment", True): ("synonym", "hyponym", "add"),
    ("neutral", False): ("hyponym", "add", "deny hyponym"),
    ("neutral", True): ("hypernym", "drop", "antonym", "deny antonym", "deny hypernym"),
    ("contradiction", False): ("antonym", "deny", "deny synonym", "deny hypernym"),
    ("contradiction", True): ("deny", "deny synonym", "deny hyponym"),
}
_SUBORDINATE = ("advcl", "conj", "ccomp", "acl:relcl")


class Question(NamedTuple):
    """A question about a paragraph; the answer is context[start : start + len(answer)]."""

    id: str
    context: str
    question: str
    answer: str
    start: int


def nli(
    world: World, language: str, count: int, split: str, start: int
) -> list[tuple[str, str, str]]:
    """Premise, hypothesis and label."""
    say = _speaker(world, language)
    rows = _rows(world, _entailments, split, start, count)
    return [(say(premise), say(hypothesis), label) for premise, hypothesis, label in rows]


def paraphrases(
    world: World, language: str, count: int, split: str, start: int
) -> list[tuple[str, str, int]]:
    """Sentence, sentence and whether they mean the same."""
    say = _speaker(world, language)
    rows = _rows(world, _rewordings, split, start, count)
    return [
        (say(first), say(second, fronted=fronted), label) for first, second, fronted, label in rows
    ]


def questions(world: World, language: str, count: int, split: str, start: int) -> list[Question]:
    """Questions with their paragraphs."""
    tongue, say = world.tongue(language), _speaker(world, language)
    rows = []
    for i, (sayings, answering, phrase, question) in enumerate(
        _rows(world, _askings, split, start, count), start
    ):
        said = [say(saying) for saying in sayings]
        first, last = _span(tongue, sayings[answering], phrase)
        before = sum(len(sentence) + 1 for sentence in said[:answering])
        answer = said[answering][first:last]
        rows.append(Question(f"{split}-{i}", " ".join(said), say(question), answer, before + first))
    return rows


def _rows(
    world: World, source: Callable[..., Iterator], split: str, start: int, count: int
) -> list:
    """Rows of an endless task; what was thought of for one language is kept for the next."""
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    known, more = world.thoughts.setdefault((source.__name__, split), ([], source(world, split)))
    known.extend(islice(more, max(0, start + count - len(known))))
    return known[start : start + count]


def _speaker(world: World, language: str) -> Callable[..., str]:
    tongue = world.tongue(language)

    def say(saying: Saying, *, fronted: bool = False) -> str:
        nodes = place(saying.tree, tongue.language, fronted=fronted).nodes
        return text(tongue.form(saying.tree[n], saying.meanings[n]) for n in nodes)

    return say


def _simple(world: World, split: str, purpose: str) -> Iterator[tuple[Saying, int]]:
    """Plain statements of one clause, with their topic, without end."""
    among = np.array([_is_simple(tree) for tree in world.trees])
    rng = generator(world.seed, purpose, split, "statements")
    while True:
        drawn = world.draw(rng, 1024, among)
        for c, topic, meanings in zip(
            *(part[world.splits(drawn) == split] for part in drawn), strict=True
        ):
            tree = world.trees[c]
            yield Saying(tree, tuple(meanings[: len(tree)].tolist())), int(topic)


def _is_simple(tree: Tree) -> bool:
    relations = {node.relation for node in tree}
    return tree[-1].kind == "stop" and not relations.intersection(_SUBORDINATE)


def _entailments(world: World, split: str) -> Iterator[tuple[Saying, Saying, str]]:
    rng = generator(world.seed, "nli", split)
    statements = _simple(world, split, "nli")
    while True:
        label = LABELS[int(rng.random() * 3)]
        against = bool(rng.random() < 0.5)
        steps = _STEPS[label, against]
        step = steps[int(rng.random() * len(steps))]
        shown = (
            label
            if rng.random() >= NLI_NOISE
            else LABELS[(LABELS.index(label) + 1 + int(rng.random() * 2)) % 3]
        )
        for statement, _ in statements:
            premise = deny(statement, against)
            if step == "add":
                hypothesis, premise = premise, drop(premise, rng)
            else:
                hypothesis = _step(world, premise, step, rng)
            if (
                premise
                and hypothesis
                and belongs(world, premise, split)
                and belongs(world, hypothesis, split)
            ):
                yield premise, hypothesis, shown
                break


def _step(world: World, premise: Saying, step: str, rng: np.random.Generator) -> Saying | None:
    *also, kin = step.split(" ")
    if step == "drop":
        return drop(premise, rng)
    if also or kin == "deny":
        premise = deny(premise, not denied(premise))
    return premise if kin == "deny" else replace(world, premise, kin, rng, scope=True)


def _rewordings(world: World, split: str) -> Iterator[tuple[Saying, Saying, bool, int]]:
    rng = generator(world.seed, "paraphrase", split)
    statements = _simple(world, split, "paraphrase")
    while True:
        label = int(rng.random() < 0.5)
        steps = ("synonym",) if label else ("antonym", "hypernym", "hyponym", "deny", "swap")
        step = steps[int(rng.random() * len(steps))]
        fronted = bool(rng.random() < 0.5)
        twice = bool(rng.random() < 0.5)  # a synonym besides
        shown = label if rng.random() >= PARAPHRASE_NOISE else 1 - label
        for first, _ in statements:
            second: Saying | None
            if step == "swap":
                second = swap(world, first)
            else:
                second = (
                    _step(world, first, step, rng)
                    if step == "deny"
                    else replace(world, first, step, rng)
                )
            if second and twice:
                second = replace(world, second, "synonym", rng)
            if (
                second
                and second != first
                and belongs(world, second, split)
                and belongs(world, first, split)
            ):
                yield first, second, fronted, shown
                break


_ASKED = {
    "nsubj": ("who", "nsubj", ("person", "given", "family", "firm")),
    "obj": ("what", "obj", ("thing",)),
    "obl": ("where", "advmod", ("place", "city")),
}


def _askings(world: World, split: str) -> Iterator[tuple[list[Saying], int, int, Saying]]:
    """(sentences, which of them answers, the node that answers, the question)."""
    rng = generator(world.seed, "questions", split)
    statements = _simple(world, split, "questions")
    while True:
        relation = tuple(_ASKED)[int(rng.random() * 3)]
        twice = bool(rng.random() < TWO_ANSWERS)
        at = int(rng.random() * 4)
        for answering, topic in statements:
            asked = _ask(answering, relation)
            if asked is None or not belongs(world, asked[1], split):
                continue
            rival = _rival(world, answering, asked[0], split, rng) if twice else None
            if twice and rival is None:
                continue
            if rival and rng.random() < 0.5:
                answering, rival = (
                    rival,
                    answering,
                )  # nothing but chance tells which of two answers is gold
            others = ([rival] if rival else []) + _others(
                world, statements, answering, topic, 2 if rival else 3
            )
            order = np.argsort(rng.random(3))
            sentences = [others[i] for i in order]
            sentences.insert(at, answering)
            yield sentences, at, asked[0], asked[1]
            break


def _ask(saying: Saying, relation: str) -> tuple[int, Saying] | None:
    """The phrase asked for, and the question: the statement with a question word instead, its adverbs left out."""
    tree, top = saying.tree, root(saying.tree)
    word, role, kinds = _ASKED[relation]
    found = [
        i
        for i, n in enumerate(tree)
        if n.relation == relation and n.head == top and n.kind in kinds
    ]
    if UPOS[tree[top].kind] != "VERB" or len(found) != 1 or denied(saying):
        return None
    if relation == "obl" and "noun.loc" not in {
        f for i in subtree(tree, found[0]) for f in tree[i].features
    }:
        return None
    nodes = list(tree)
    nodes[-1] = Node("query", "punct", top)
    if relation == "nsubj":
        features = [f for f in nodes[top].features if f in ("verb.Past", "verb.Pres", "verb.Fut")]
        nodes[top] = nodes[top]._replace(features=(*features, "verb.Sing", "verb.person.Sing"))
    gone = subtree(tree, found[0]) | {i for i, n in enumerate(tree) if n.kind == "adv"}
    asked = without(Saying(tuple(nodes), (*saying.meanings[:-1], 0)), gone)
    return found[0], Saying((*asked.tree, Node(word, role, root(asked.tree))), (*asked.meanings, 0))


def _rival(
    world: World, saying: Saying, phrase: int, split: str, rng: np.random.Generator
) -> Saying | None:
    """The same statement with another answer."""
    kind, old = saying.tree[phrase].kind, saying.meanings[phrase]
    for _ in range(20):
        new = int(rng.random() * world.meanings.count(kind))
        rival = Saying(
            saying.tree, (*saying.meanings[:phrase], new, *saying.meanings[phrase + 1 :])
        )
        if new != old and world.division.spelled_alone(kind, new) and belongs(world, rival, split):
            return rival
    return None


def _others(
    world: World, statements: Iterator[tuple[Saying, int]], saying: Saying, topic: int, count: int
) -> list[Saying]:
    """Statements of the same topic with other predicates."""
    taken = {_predicate(world, saying)}
    others: list[Saying] = []
    for other, its in statements:
        if its == topic and _predicate(world, other) not in taken:
            taken.add(_predicate(world, other))
            others.append(other)
        if len(others) == count:
            break
    return others


def _predicate(world: World, saying: Saying) -> int:
    top = root(saying.tree)
    return int(
        world.division.spelled_alike[
            world.meanings.offset[saying.tree[top].kind] + saying.meanings[top]
        ]
    )


def _span(tongue: Tongue, saying: Saying, phrase: int) -> tuple[int, int]:
    """Where a phrase stands in the sentence, adposition apart."""
    inside = subtree(saying.tree, phrase) - {
        i for i, n in enumerate(saying.tree) if n.relation == "case" and n.head == phrase
    }
    nodes = place(saying.tree, tongue.language).nodes
    forms = [tongue.form(saying.tree[n], saying.meanings[n]) for n in nodes]
    at = [p for p, n in enumerate(nodes) if n in inside]
    assert at == list(range(at[0], at[-1] + 1)), "a phrase is contiguous"
    first = sum(len(form) + 1 for form in forms[: at[0]])
    return first, first + len(" ".join(forms[at[0] : at[-1] + 1]))
