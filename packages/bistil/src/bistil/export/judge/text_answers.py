"""What a graph answers to lines of text, by what it gives out, and how near two graphs' answers are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bistil.encoders.closeness import (
    Items,
    compare_labels,
    compare_rankings,
    compare_scores,
    compare_vectors,
    compare_word_labels,
    nearest_kept,
)
from bistil.errors import ExportError
from bistil.export.graph.graph import Graph
from bistil.export.judge.graph_reader import Arrays, GraphReader, ReadRow, Row
from teacherzoo.progress import ProgressCallback

_CANDIDATES = 10
_MASKED = 0.15  # Devlin et al. 2019
_LONGEST_SPAN = 30
VECTORS = "sentence_embedding"

Answers = Any


@dataclass(frozen=True, kw_only=True)
class TextAnswers:
    """How a kind of graph is asked and compared on lines.

    Attributes:
        rows: (lines, language) to what is read.
        answer: of a row: what of its outputs counts.
        compare: all answers of the float32 graph and of another one, to items in [0, 1] by measure.
        gated: the measures that must stay within the bound.
        masked: share of tokens that is masked before they are read.
        ranked: whether the answers to rows with the same first text stand together.
    """

    rows: Callable[[Sequence[str], str], list[Row]]
    answer: Callable[[Arrays, ReadRow], Any]
    compare: Callable[[Sequence[Any], Sequence[Any]], dict[str, Items]]
    gated: tuple[str, ...]
    masked: float = 0.0
    ranked: bool = False

    def ask(
        self, reader: GraphReader, rows: Sequence[Row], language: str, watch: ProgressCallback
    ) -> list[Any]:
        """The answers to all rows of a text; where `ranked`, to those of each query."""
        answers = reader.ask(rows, self.answer, masked=self.masked, watch=watch, what=f"reading {language}")  # fmt: skip
        if not self.ranked:
            return answers
        queries = groupby(zip(rows, answers, strict=True), key=lambda pair: pair[0][0])
        return [np.array([score for _, score in listed]) for _, listed in queries]


def text_answers(graph: Graph, prompt: str = "") -> TextAnswers:
    """How a graph is compared on lines of text.

    Args:
        graph: any.
        prompt: put in front of each line, of two texts in front of the first, as some models of sentence-transformers expect.

    Raises:
        ExportError: for a graph that lines alone cannot ask.
    """
    outputs = graph.outputs

    def singles(lines: Sequence[str], _language: str) -> list[Row]:
        return [(prompt + line,) for line in lines]

    if VECTORS in outputs:
        return _vectors(singles, lambda answers, _row: answers[VECTORS])
    if spans := next((names for names in _SPANS if names[0] in outputs), None):
        return TextAnswers(
            rows=partial(_pairs, form="question TAB passage"),
            answer=partial(_span, names=spans),
            compare=_compare_spans,
            gated=("same span",),
        )
    name, axes = next(iter(outputs.items()))
    last = axes[-1]
    if last == "vocabulary" and len(axes) == 3:
        if graph.tokenizer.mask_token_id is None:
            raise ExportError(
                f"{graph.folder}: its tokenizer has no mask token, so that no masked place can be judged; name it in tokenizer_config.json."
            )
        return TextAnswers(
            rows=singles,
            answer=lambda answers, row: answers[name][row.masked].argmax(axis=-1),
            compare=lambda expected, given: _renamed(compare_word_labels(expected, given), "same piece at a masked place"),
            gated=("same piece at a masked place",),
            masked=_MASKED,
        )  # fmt: skip
    if last == "width" and len(axes) == 3:
        return _vectors(singles, lambda answers, row: answers[name][_text_tokens(row)].mean(axis=0))
    if len(axes) == 3 and last == "labels":
        return TextAnswers(
            rows=singles,
            answer=lambda answers, row: answers[name][_first_of_words(row)].argmax(axis=-1),
            compare=compare_word_labels,
            gated=("same label of a word",),
        )
    if gives_one_score(graph):
        return TextAnswers(
            rows=lambda lines, language: [
                (prompt + query, passage) for query, passage in _candidates(lines, language)
            ],
            answer=lambda answers, _row: answers[name].reshape(-1)[0],
            compare=lambda expected, given: compare_rankings(np.stack(expected), np.stack(given)),
            gated=("pairs in the same order",),
            ranked=True,
        )
    if last == "labels" and graph.regression:
        return TextAnswers(
            rows=lambda lines, _language: _texts_or_pairs(lines, prompt),
            answer=lambda answers, _row: answers[name],
            compare=lambda expected, given: compare_scores(np.stack(expected), np.stack(given)),
            gated=("pairs in the same order",),
        )
    if last == "labels":
        return TextAnswers(
            rows=lambda lines, _language: _texts_or_pairs(lines, prompt),
            answer=lambda answers, _row: answers[name],
            compare=lambda expected, given: compare_labels(
                np.stack(expected), np.stack(given), several=graph.several_labels
            ),
            gated=("same label",),
        )
    raise ExportError(
        f"A model tuned for {graph.about.get('task')!r} reads more than lines of text, so that --text cannot judge it; give "
        "its test sets with --data."
    )


def gives_vectors(graph: Graph) -> bool:
    """Whether it makes a vector of a text: a sentence encoder, or an encoder whose states are averaged."""
    return VECTORS in graph.outputs or next(iter(graph.outputs.values()))[-1] == "width"


def gives_one_score(graph: Graph) -> bool:
    """Whether it is a reranker."""
    return graph.pairs


def _vectors(
    rows: Callable[[Sequence[str], str], list[Row]], answer: Callable[[Arrays, ReadRow], Any]
) -> TextAnswers:
    def compare(expected: Sequence[Any], given: Sequence[Any]) -> dict[str, Items]:
        whole, smaller = np.stack(expected), np.stack(given)
        kept = {"nearest kept among 10": nearest_kept(whole, smaller)}
        return {**compare_vectors(whole, smaller), **kept}

    gated = ("cosine", "nearest kept among 10")
    return TextAnswers(rows=rows, answer=answer, compare=compare, gated=gated)


def _text_tokens(row: ReadRow) -> NDArray[np.bool_]:
    """What is not put around a text; all of a text that is nothing else."""
    return row.special if row.special.all() else ~row.special


def _first_of_words(row: ReadRow) -> list[int]:
    firsts: dict[int, int] = {}
    for place, word in enumerate(row.words.tolist()):
        if word >= 0:
            firsts.setdefault(word, place)
    return list(firsts.values())


_SPANS = (("start_logits", "end_logits"), ("start", "end"))


def _span(answers: Arrays, row: ReadRow, *, names: tuple[str, str]) -> tuple[int, int]:
    """The places of the best span of the passage."""
    inside = np.flatnonzero(row.parts == 1)
    start, end = (answers[name][inside].astype(np.float64) for name in names)
    if not len(inside):  # a passage of which the tokenizer makes nothing
        return -1, -1
    places = np.arange(len(inside))
    length = places[None, :] - places[:, None]
    scores = np.where((length >= 0) & (length < _LONGEST_SPAN), start[:, None] + end[None, :], -np.inf)  # fmt: skip
    best = int(scores.argmax())
    return best // len(inside), best % len(inside)


def _compare_spans(expected: Sequence[Any], given: Sequence[Any]) -> dict[str, Items]:
    return {"same span": np.array([a == b for a, b in zip(expected, given, strict=True)], dtype=float)}  # fmt: skip


def _pairs(lines: Sequence[str], language: str, *, form: str) -> list[Row]:
    rows = [tuple(line.split("\t", 1)) for line in lines]
    if alone := next((row for row in rows if len(row) < 2), None):
        raise ExportError(
            f"{language}: this model reads lines `{form}`, got {alone[0]!r:.60}; put a tab between the two texts."
        )
    return rows


def _texts_or_pairs(lines: Sequence[str], prompt: str) -> list[Row]:
    """Pairs where every line has a tab."""
    pairs = all("\t" in line for line in lines)
    prompted = [prompt + line for line in lines]
    return [tuple(line.split("\t", 1)) if pairs else (line,) for line in prompted]


def _candidates(lines: Sequence[str], language: str) -> list[Row]:
    """Each query with as many passages: its own, then those of the lines behind it. A line without a tab is both."""
    queries: dict[str, list[str]] = {}
    for line in lines:
        query, _, passage = line.partition("\t")
        queries.setdefault(query, []).append(passage or line)
    passages = list(dict.fromkeys(passage for listed in queries.values() for passage in listed))
    if len(passages) < 3:
        raise ExportError(
            f"{language}: its lines have {len(passages)} different passages, and 3 are the least to put in an order; give lines with more."
        )
    count = min(_CANDIDATES, len(passages) - 1)
    rows: list[Row] = []
    for query, listed in queries.items():
        behind = passages.index(listed[-1]) + 1
        others = (*passages[behind:], *passages[:behind])
        chosen = dict.fromkeys(p for p in (*listed, *others) if p != query)
        rows += [(query, passage) for passage in list(chosen)[:count]]
    return rows


def _renamed(items: Mapping[str, Items], name: str) -> dict[str, Items]:
    return {name: next(iter(items.values()))}
