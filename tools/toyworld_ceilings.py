"""How well each labelled task can be done at best, and by who looks at nothing or at single words."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from toyworld_lexicon import NAMES, TOPIC_PRIOR
from toyworld_oracle import Oracle
from toyworld_realizer import words
from toyworld_tasks import NLI_NOISE, PARAPHRASE_NOISE, TWO_ANSWERS

TASKS = ("pos", "uas", "las", "ner", "ner_f1", "topic", "nli", "paraphrase", "qa", "retrieval")


class Ceiling(NamedTuple):
    """The expected score, from 0 to 1, that no reader of the sentences can beat.

    Expected over the generator: for the tasks on single sentences the mean, over sampled sentences, of what the exact posterior leaves
    sure; `error` is its standard error (0 where the figure is exact).
    """

    score: float
    error: float
    floor: float  # the best constant answer
    lexical: (
        float | None
    )  # the best answer from the word alone, without the sentence; None where it has no meaning


def ceiling(task: str, oracle: Oracle, sentences: Iterable[str]) -> Ceiling:
    """The ceiling of a task in the language of an oracle, over a sample of its sentences.

    - `pos`, `ner` (token accuracy), `topic`: E max P(label | sentence), attained by the best reader.
    - `uas`, `las`: E max P(head | sentence) word by word; an upper bound, as the best heads need not form a tree.
    - `ner_f1`: the largest F1 on names over all ways to choose spans by their posterior.
    - `nli`, `paraphrase`, `qa` (exact match): 1 less what chance decides by design; exact.
    - `retrieval`: 1, since no sentence occurs twice on either side.

    Raises:
        ValueError: an unknown task.
    """
    if task in ("nli", "paraphrase", "qa", "retrieval"):
        known = {
            "nli": Ceiling(1 - NLI_NOISE, 0.0, 1 / 3, None),
            "paraphrase": Ceiling(1 - PARAPHRASE_NOISE, 0.0, 1 / 2, None),
            "qa": Ceiling(1 - TWO_ANSWERS / 2, 0.0, 0.0, None),
            "retrieval": Ceiling(1.0, 0.0, 0.0, None),
        }
        return known[task]
    if task not in TASKS:
        raise ValueError(f"task must be one of {', '.join(TASKS)}, got {task!r}")
    sample = [words(sentence) for sentence in sentences]
    if task == "ner_f1":
        return Ceiling(*_best_f1(oracle, sample), 0.0, None)
    if task == "topic":
        return Ceiling(
            *_mean([[oracle.topics(row).max()] for row in sample]), float(TOPIC_PRIOR.max()), None
        )
    score = _mean([[_surest(p, task) for p in _posterior(oracle, task)(row)] for row in sample])
    return Ceiling(*score, *_without_context(oracle, task))


def _posterior(oracle: Oracle, task: str) -> Callable[[list[str]], list[dict]]:
    return {"pos": oracle.tags, "ner": oracle.names, "uas": oracle.arcs, "las": oracle.arcs}[task]


def _surest(posterior: dict, task: str) -> float:
    if task == "uas":
        heads: dict[int, float] = {}
        for (head, _), p in posterior.items():
            heads[head] = heads.get(head, 0.0) + p
        posterior = heads
    return max(posterior.values())


def _mean(rows: list[list[float]]) -> tuple[float, float]:
    """The mean over all words, and its standard error over sentences."""
    totals, sizes = np.array([sum(row) for row in rows]), np.array([len(row) for row in rows])
    mean = totals.sum() / sizes.sum()
    return float(mean), float(np.sqrt(((totals - mean * sizes) ** 2).sum()) / sizes.sum())


def _best_f1(oracle: Oracle, sample: list[list[str]]) -> tuple[float, float]:
    """The largest 2 Σ p / (chosen + all) over sets of spans: those likeliest to be names, down to some p.

    The error is half the distance between the two halves of the sample.
    """
    rows = [list(oracle.spans(row).values()) for row in sample]

    def best(part: list[list[float]]) -> float:
        p = np.sort(np.concatenate([*map(np.array, part), np.zeros(1)]))[::-1]
        return float((2 * p.cumsum() / (np.arange(len(p)) + 1 + p.sum())).max())

    return best(rows), abs(best(rows[::2]) - best(rows[1::2])) / 2


def _without_context(oracle: Oracle, task: str) -> tuple[float, float | None]:
    """The best constant answer, and the best answer per word; the tag of a name by its kind alone."""
    if task in ("uas", "las"):
        return _constant_arc(oracle, task), None
    if task == "pos":
        table = oracle.word_tags()
        totals: dict[str, float] = {}
        for tags in table.values():
            for tag, p in tags.items():
                totals[tag] = totals.get(tag, 0.0) + p
        return max(totals.values()), sum(max(tags.values()) for tags in table.values())
    grammar = oracle.realizer.grammar
    outside = sum(
        prior * sum(grammar.trees[c][n].kind not in NAMES for n in placed.nodes)
        for c, (prior, placed) in enumerate(zip(grammar.prior, oracle.realizer.placed, strict=True))
    )
    return float(outside / (grammar.prior * oracle.realizer.lengths).sum()), None


def _constant_arc(oracle: Oracle, task: str) -> float:
    """The best rule of the kind "the head stands d words away, by relation r"."""
    grammar, seen = oracle.realizer.grammar, {}
    for c, (prior, placed) in enumerate(zip(grammar.prior, oracle.realizer.placed, strict=True)):
        for p, (n, head) in enumerate(zip(placed.nodes, placed.heads, strict=True)):
            relation = grammar.trees[c][n].relation
            key = (head - p if head >= 0 else None, relation if task == "las" else "")
            seen[key] = seen.get(key, 0.0) + prior
    return float(max(seen.values()) / (grammar.prior * oracle.realizer.lengths).sum())
