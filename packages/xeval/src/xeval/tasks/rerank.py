"""Reranking: do the documents that answer a query come before those that do not? MAP, nDCG@10, MRR@10, nothing tuned.

A cross-encoder (a sequence classifier with one label) scores each pair of query and document; that its score is of pairs is stated
by settings of sentence-transformers or assumed, and told. Of a sentence or sparse encoder the
score is its own similarity of their vectors, of any other encoder the cosine of mean hidden states. Local files are
`rerank/<language>.jsonl` or `rerank/<language>/<split>.jsonl`: an object a line with `query`, `positive` and `negative`, the
latter two lists of texts. Where scores are equal, what does not answer comes first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xeval.errors import XevalError
from xeval.progress import ProgressCallback
from xeval.protocol import Protocol
from xeval.sentences.rankings import ranked, ranking_items
from xeval.sentences.reranker import PairScores, open_reranker
from xeval.sentences.vectors import VECTOR_SETTINGS, told_cut
from xeval.statistics.items import Items, digest_of_examples
from xeval.task_templates.files import read_json_lines
from xeval.task_templates.task import ZeroShotTask


@dataclass(frozen=True, slots=True)
class Candidates:
    """A query, the documents that answer it, and others."""

    query: str
    positive: tuple[str, ...]
    negative: tuple[str, ...]


def _read(path: Path, _cache: Path | None) -> list[Candidates]:
    return [_candidates(row, where) for where, row in read_json_lines(path)]


def _candidates(row: dict[str, Any], where: str) -> Candidates:
    query = row.get("query")
    listed = [row.get(name) for name in ("positive", "negative")]
    if not isinstance(query, str) or not all(
        isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts)
        for texts in listed
    ):
        raise XevalError(
            f"{where}: expected an object with query, a text, and positive and negative, lists of one text or more, got {row!r:.80}"
        )
    positive, negative = (tuple(texts) for texts in listed if texts)
    return Candidates(query, positive, negative)


def _measure(
    opened: PairScores,
    examples: Sequence[Candidates],
    _protocol: Protocol,
    watch: ProgressCallback,
) -> tuple[list[Items], list[str]]:
    documents = [[*e.positive, *e.negative] for e in examples]
    scores, cut = opened.score([e.query for e in examples], documents, watch, "rerank")
    rankings = []
    for example, of_query in zip(examples, scores, strict=True):
        gains = [1.0] * len(example.positive) + [0.0] * len(example.negative)
        # By these ids, which fall from negatives to positives, equal scores are to the model's disadvantage.
        ids = [f"{gain < 1:d}{i:09d}" for i, gain in enumerate(gains)]
        rankings.append(([gains[place] for place in ranked(of_query, ids)], gains))
    items = ranking_items(TASK.metrics, rankings, digest_of_examples(examples))
    return items, told_cut(cut, sum(map(len, documents)) + len(examples))


TASK = ZeroShotTask(
    name="rerank",
    title="reranking of candidates",
    folder="rerank",
    suffix="jsonl",
    metrics=("map", "ndcg_at_10", "mrr_at_10"),
    read=_read,
    open=open_reranker,
    measure=_measure,
    own_settings=(*VECTOR_SETTINGS, "query_prompt", "document_prompt"),
)
