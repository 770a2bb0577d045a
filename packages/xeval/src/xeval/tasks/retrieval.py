"""Retrieval: does a query find the documents that answer it, among all of them? nDCG@10, MRR@10, recall@100, nothing tuned.

A sentence or sparse encoder is asked as its folder says: own prompts of queries and of documents, pooling, normalisation and
similarity, which of sparse vectors is their product. Of any other encoder a text is the mean of the hidden states of its sub-words at the protocol's `layer`. Local
folders are those of BEIR (Thakur et al. 2021), `retrieval/<language>/` with `corpus.jsonl` (_id, title, text),
`queries.jsonl` (_id, text) and `qrels/<split>.tsv` (query-id, corpus-id, score); and `xquad/<language>.json`, where a
question looks for its paragraph among those of the file. A query without a line in the judgements is left out. As in BEIR, a
document with the id of a query is not found for that query, unless it is judged to answer it: in ArguAna and Quora it is the query
itself. A document that is judged and not in the corpus, as one of ArguAna's, is never found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from xeval.errors import XevalError
from xeval.progress import ProgressCallback
from xeval.protocol import Protocol
from xeval.sentences.rankings import ranked, ranking_items
from xeval.sentences.vectors import VECTOR_SETTINGS, TextVectors, Vectors, open_vectors, told_cut
from xeval.statistics.items import Items, digest_of_examples
from xeval.task_templates.files import UNPACKERS, read_columns, read_json_lines
from xeval.task_templates.hub import HubSet, LabelNames, Row
from xeval.task_templates.task import ZeroShotTask
from xeval.tasks import choice, qa

_SCORES = 1 << 24  # of a table at a time


@dataclass(frozen=True, slots=True)
class Document:
    """A text that may be found."""

    id: str
    text: str


@dataclass(frozen=True, slots=True)
class Query:
    """A text that looks for documents, (id, relevance) of those that were judged, and its own id, "" where it has none."""

    text: str
    judged: tuple[tuple[str, int], ...]
    id: str = ""


@dataclass(frozen=True, slots=True)
class AskedPassage:
    """A question and the passage that answers it, as sets for reading comprehension have them."""

    question: str
    passage: str


def _read(path: Path, _cache: Path | None) -> list[Any]:
    if path.parent.name != "qrels":
        return [AskedPassage(q.question, q.context) for q in qa.TASK.read(path, None)]
    folder = path.parent.parent
    documents = {
        key: Document(
            key, f"{title} {text}".strip() if (title := row.get("title")) else text.strip()
        )
        for key, text, row, _ in _texts(_packed(folder, "corpus.jsonl"))
    }
    queries = {key: text for key, text, _, _ in _texts(_packed(folder, "queries.jsonl"))}
    judged: dict[str, dict[str, int]] = {}
    for line, (query, document, score) in read_columns(path, ("query-id", "corpus-id", "score")):
        where = f"{path}:{line}"
        if query not in queries:
            raise XevalError(f"{where}: the query {query!r} is not in {folder / 'queries.jsonl'}")
        if not score.removeprefix("-").isdigit():
            raise XevalError(f"{where}: expected a whole number as score, got {score!r}")
        if judged.setdefault(query, {}).setdefault(document, int(score)) != int(score):
            raise XevalError(
                f"{where}: the document {document!r} was judged {judged[query][document]} for the query {query!r} before, and here "
                f"{score}; leave one line"
            )
    if not any(document in documents for scores in judged.values() for document in scores):
        raise XevalError(
            f"{path}: none of the judged documents is in {folder / 'corpus.jsonl'}; put the corpus there that was judged"
        )
    return [
        *documents.values(),
        *(Query(queries[key], tuple(scores.items()), key) for key, scores in judged.items()),
    ]


def _texts(path: Path) -> Iterator[tuple[str, str, dict[str, Any], str]]:
    """(id, text, row, where) of each line."""
    seen = set()
    for where, row in read_json_lines(path):
        key, text = row.get("_id"), row.get("text")
        if not isinstance(key, str) or not isinstance(text, str):
            raise XevalError(
                f"{where}: expected an object with _id and text, both texts, got {row!r:.80}"
            )
        if key in seen:
            raise XevalError(f"{where}: the _id {key!r} stands twice")
        seen.add(key)
        yield key, text, row, where


def _packed(folder: Path, name: str) -> Path:
    """A file, plain or packed."""
    paths = [folder / f"{name}{ending}" for ending in UNPACKERS]
    return next((path for path in paths if path.is_file()), paths[0])


def _view(examples: list[Any], _protocol: Protocol) -> tuple[list[Any], list[str]]:
    """Questions with their passages as queries and documents, each text once; what is judged and cannot be found is told."""
    if not isinstance(examples[0], AskedPassage):
        known = {e.id for e in examples if isinstance(e, Document)}
        judged_ids = {key for e in examples if isinstance(e, Query) for key, _ in e.judged}
        missing = sorted(judged_ids - known)
        note = f"{len(missing)} of {len(judged_ids)} judged documents are not in the corpus and cannot be found"
        return examples, [f"{note}, such as {missing[0]!r}"] if missing else []
    ids = {text: f"{i:06d}" for i, text in enumerate(dict.fromkeys(e.passage for e in examples))}
    judged: dict[str, dict[str, int]] = {}
    for example in examples:
        judged.setdefault(example.question, {})[ids[example.passage]] = 1
    return [
        *(Document(key, text) for text, key in ids.items()),
        *(Query(text, tuple(scores.items())) for text, scores in judged.items()),
    ], []


def _measure(
    opened: TextVectors,
    examples: Sequence[Document | Query],
    _protocol: Protocol,
    watch: ProgressCallback,
) -> tuple[list[Items], list[str]]:
    documents = [e for e in examples if isinstance(e, Document)]
    queries = [e for e in examples if isinstance(e, Query)]
    known, cut = opened.encode([d.text for d in documents], "document", watch, "documents")
    asked, cut_queries = opened.encode([q.text for q in queries], "query", watch, "queries")
    rankings = list(_rankings(opened, asked, known, queries, [d.id for d in documents]))
    items = ranking_items(TASK.metrics, rankings, digest_of_examples(examples))
    return items, told_cut(cut + cut_queries, len(examples))


def _rankings(
    opened: TextVectors,
    asked: Vectors,
    known: Vectors,
    queries: Sequence[Query],
    ids: Sequence[str],
) -> Iterator[tuple[list[float], list[float]]]:
    """Of each query the relevance of the documents as they are ranked, and of all that were judged."""
    rows, places = max(1, _SCORES // known.shape[0]), {key: i for i, key in enumerate(ids)}
    for start in range(0, asked.shape[0], rows):
        scores = opened.similarity(asked[start : start + rows], known)
        for query, of_query in zip(queries[start : start + rows], scores, strict=True):
            judged = dict(query.judged)
            if query.id in places and judged.get(query.id, 0) < 1:
                of_query[places[query.id]] = -np.inf  # the query itself
            gains = [float(judged.get(ids[place], 0)) for place in ranked(of_query, ids)]
            yield gains, [float(score) for score in judged.values()]


def _hub_passage(column: str) -> Callable[[Row, LabelNames, str], AskedPassage]:
    def example(row: Row, _names: LabelNames, _where: str) -> AskedPassage:
        return AskedPassage(row["question"], row[column])

    return example


def _hub() -> Iterator[HubSet]:
    """Sets for reading comprehension whose passages answer their questions and no other's."""
    for hub_set in (*qa.TASK.hub, *choice.TASK.hub):
        if hub_set.name in ("xquad", "mlqa", "belebele"):
            column = "flores_passage" if hub_set.name == "belebele" else "context"
            yield replace(hub_set, example=_hub_passage(column))


TASK = ZeroShotTask(
    name="retrieval",
    title="retrieval of documents",
    folder="retrieval",
    inside="qrels",
    suffix="tsv",
    also=(("xquad", "json"),),
    metrics=("ndcg_at_10", "mrr_at_10", "recall_at_100"),
    read=_read,
    view=_view,
    open=open_vectors,
    measure=_measure,
    own_settings=(*VECTOR_SETTINGS, "query_prompt", "document_prompt"),
    hub=tuple(_hub()),
)
