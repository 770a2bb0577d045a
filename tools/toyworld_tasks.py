"""Pairs and questions whose answers follow from what the world means.

Row i means the same in every language. Both sentences of a pair, and a question as well as what it asks about,
belong to the split, so that no split repeats a sentence of another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np
from toyworld_edits import (
    Proposition,
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
from toyworld_lexicon import SPLITS, UPOS, generator
from toyworld_realizer import Realizer, text
from toyworld_sampler import Sampler
from toyworld_word_order import Node, Tree, place

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
    sampler: Sampler, language: str, count: int, split: str, start: int
) -> list[tuple[str, str, str]]:
    """Premise, hypothesis and label."""
    say = _sentence_writer(sampler, language)
    rows = _rows(sampler, _nli_rows, split, start, count)
    return [(say(premise), say(hypothesis), label) for premise, hypothesis, label in rows]


def paraphrases(
    sampler: Sampler, language: str, count: int, split: str, start: int
) -> list[tuple[str, str, int]]:
    """Sentence, sentence and whether they mean the same."""
    say = _sentence_writer(sampler, language)
    rows = _rows(sampler, _paraphrase_rows, split, start, count)
    return [
        (say(first), say(second, fronted=fronted), label) for first, second, fronted, label in rows
    ]


def questions(
    sampler: Sampler, language: str, count: int, split: str, start: int
) -> list[Question]:
    """Questions with their paragraphs."""
    realizer, say = sampler.realizer(language), _sentence_writer(sampler, language)
    rows = []
    for i, (propositions, answering, phrase, question) in enumerate(
        _rows(sampler, _question_rows, split, start, count), start
    ):
        said = [say(proposition) for proposition in propositions]
        first, last = _span(realizer, propositions[answering], phrase)
        before = sum(len(sentence) + 1 for sentence in said[:answering])
        answer = said[answering][first:last]
        rows.append(Question(f"{split}-{i}", " ".join(said), say(question), answer, before + first))
    return rows


def _rows(
    sampler: Sampler, source: Callable[..., Iterator], split: str, start: int, count: int
) -> list:
    """Rows of an endless task; what was thought of for one language is kept for the next."""
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    known, more = sampler.task_rows.setdefault(
        (source.__name__, split), ([], source(sampler, split))
    )
    known.extend(islice(more, max(0, start + count - len(known))))
    return known[start : start + count]


def _sentence_writer(sampler: Sampler, language: str) -> Callable[..., str]:
    realizer = sampler.realizer(language)

    def say(proposition: Proposition, *, fronted: bool = False) -> str:
        nodes = place(proposition.tree, realizer.language, fronted=fronted).nodes
        return text(realizer.form(proposition.tree[n], proposition.meanings[n]) for n in nodes)

    return say


def _simple(sampler: Sampler, split: str, purpose: str) -> Iterator[tuple[Proposition, int]]:
    """Plain statements of one clause, with their topic, without end."""
    among = np.array([_is_simple(tree) for tree in sampler.grammar.trees])
    rng = generator(sampler.seed, purpose, split, "statements")
    while True:
        drawn = sampler.draw(rng, 1024, among)
        for c, topic, meanings in zip(
            *(part[sampler.split_of(drawn) == split] for part in drawn), strict=True
        ):
            tree = sampler.grammar.trees[c]
            yield Proposition(tree, tuple(meanings[: len(tree)].tolist())), int(topic)


def _is_simple(tree: Tree) -> bool:
    relations = {node.relation for node in tree}
    return tree[-1].kind == "stop" and not relations.intersection(_SUBORDINATE)


def _nli_rows(sampler: Sampler, split: str) -> Iterator[tuple[Proposition, Proposition, str]]:
    rng = generator(sampler.seed, "nli", split)
    statements = _simple(sampler, split, "nli")
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
                hypothesis = _step(sampler, premise, step, rng)
            if (
                premise
                and hypothesis
                and belongs(sampler, premise, split)
                and belongs(sampler, hypothesis, split)
            ):
                yield premise, hypothesis, shown
                break


def _step(
    sampler: Sampler, premise: Proposition, step: str, rng: np.random.Generator
) -> Proposition | None:
    *also, kin = step.split(" ")
    if step == "drop":
        return drop(premise, rng)
    if also or kin == "deny":
        premise = deny(premise, not denied(premise))
    return premise if kin == "deny" else replace(sampler, premise, kin, rng, scope=True)


def _paraphrase_rows(
    sampler: Sampler, split: str
) -> Iterator[tuple[Proposition, Proposition, bool, int]]:
    rng = generator(sampler.seed, "paraphrase", split)
    statements = _simple(sampler, split, "paraphrase")
    while True:
        label = int(rng.random() < 0.5)
        steps = ("synonym",) if label else ("antonym", "hypernym", "hyponym", "deny", "swap")
        step = steps[int(rng.random() * len(steps))]
        fronted = bool(rng.random() < 0.5)
        twice = bool(rng.random() < 0.5)  # a synonym besides
        shown = label if rng.random() >= PARAPHRASE_NOISE else 1 - label
        for first, _ in statements:
            second: Proposition | None
            if step == "swap":
                second = swap(sampler, first)
            else:
                second = (
                    _step(sampler, first, step, rng)
                    if step == "deny"
                    else replace(sampler, first, step, rng)
                )
            if second and twice:
                second = replace(sampler, second, "synonym", rng)
            if (
                second
                and second != first
                and belongs(sampler, second, split)
                and belongs(sampler, first, split)
            ):
                yield first, second, fronted, shown
                break


_ASKED = {
    "nsubj": ("who", "nsubj", ("person", "given", "family", "firm")),
    "obj": ("what", "obj", ("thing",)),
    "obl": ("where", "advmod", ("place", "city")),
}


def _question_rows(
    sampler: Sampler, split: str
) -> Iterator[tuple[list[Proposition], int, int, Proposition]]:
    """(sentences, which of them answers, the node that answers, the question)."""
    rng = generator(sampler.seed, "questions", split)
    statements = _simple(sampler, split, "questions")
    while True:
        relation = tuple(_ASKED)[int(rng.random() * 3)]
        twice = bool(rng.random() < TWO_ANSWERS)
        at = int(rng.random() * 4)
        for answering, topic in statements:
            asked = _ask(answering, relation)
            if asked is None or not belongs(sampler, asked[1], split):
                continue
            rival = _rival(sampler, answering, asked[0], split, rng) if twice else None
            if twice and rival is None:
                continue
            if rival and rng.random() < 0.5:
                answering, rival = (
                    rival,
                    answering,
                )  # nothing but chance tells which of two answers is gold
            distractors = ([rival] if rival else []) + _distractors(
                sampler, statements, answering, topic, 2 if rival else 3
            )
            order = np.argsort(rng.random(3))
            sentences = [distractors[i] for i in order]
            sentences.insert(at, answering)
            yield sentences, at, asked[0], asked[1]
            break


def _ask(proposition: Proposition, relation: str) -> tuple[int, Proposition] | None:
    """The phrase asked for, and the question: the statement with a question word instead, its adverbs left out."""
    tree, top = proposition.tree, root(proposition.tree)
    word, role, kinds = _ASKED[relation]
    phrases = [
        i
        for i, n in enumerate(tree)
        if n.relation == relation and n.head == top and n.kind in kinds
    ]
    if UPOS[tree[top].kind] != "VERB" or len(phrases) != 1 or denied(proposition):
        return None
    if relation == "obl" and "noun.loc" not in {
        f for i in subtree(tree, phrases[0]) for f in tree[i].features
    }:
        return None
    nodes = list(tree)
    nodes[-1] = Node("query", "punct", top)
    if relation == "nsubj":
        features = [f for f in nodes[top].features if f in ("verb.Past", "verb.Pres", "verb.Fut")]
        nodes[top] = nodes[top]._replace(features=(*features, "verb.Sing", "verb.person.Sing"))
    gone = subtree(tree, phrases[0]) | {i for i, n in enumerate(tree) if n.kind == "adv"}
    asked = without(Proposition(tuple(nodes), (*proposition.meanings[:-1], 0)), gone)
    return phrases[0], Proposition(
        (*asked.tree, Node(word, role, root(asked.tree))), (*asked.meanings, 0)
    )


def _rival(
    sampler: Sampler, proposition: Proposition, phrase: int, split: str, rng: np.random.Generator
) -> Proposition | None:
    """The same statement with another answer."""
    kind, old = proposition.tree[phrase].kind, proposition.meanings[phrase]
    for _ in range(20):
        new = int(rng.random() * sampler.meanings.count(kind))
        rival = Proposition(
            proposition.tree,
            (*proposition.meanings[:phrase], new, *proposition.meanings[phrase + 1 :]),
        )
        if (
            new != old
            and sampler.splits.spelled_alone(kind, new)
            and belongs(sampler, rival, split)
        ):
            return rival
    return None


def _distractors(
    sampler: Sampler,
    statements: Iterator[tuple[Proposition, int]],
    proposition: Proposition,
    topic: int,
    count: int,
) -> list[Proposition]:
    """Statements of the same topic with other predicates."""
    taken = {_predicate(sampler, proposition)}
    distractors: list[Proposition] = []
    for statement, topic_of_statement in statements:
        if topic_of_statement == topic and _predicate(sampler, statement) not in taken:
            taken.add(_predicate(sampler, statement))
            distractors.append(statement)
        if len(distractors) == count:
            break
    return distractors


def _predicate(sampler: Sampler, proposition: Proposition) -> int:
    top = root(proposition.tree)
    return int(
        sampler.splits.spelled_alike[
            sampler.meanings.offset[proposition.tree[top].kind] + proposition.meanings[top]
        ]
    )


def _span(realizer: Realizer, proposition: Proposition, phrase: int) -> tuple[int, int]:
    """Where a phrase stands in the sentence, adposition apart."""
    inside = subtree(proposition.tree, phrase) - {
        i for i, n in enumerate(proposition.tree) if n.relation == "case" and n.head == phrase
    }
    nodes = place(proposition.tree, realizer.language).nodes
    forms = [realizer.form(proposition.tree[n], proposition.meanings[n]) for n in nodes]
    at = [p for p, n in enumerate(nodes) if n in inside]
    assert at == list(range(at[0], at[-1] + 1)), "a phrase is contiguous"
    first = sum(len(form) + 1 for form in forms[: at[0]])
    return first, first + len(" ".join(forms[at[0] : at[-1] + 1]))
