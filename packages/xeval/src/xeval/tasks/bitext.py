"""Bitext: does a sentence find its translation among all of them? Accuracy@1 both ways, nothing tuned.

A sentence or sparse encoder is asked as its folder says: own pooling, prompts, normalisation and similarity. Of any other encoder a
sentence is the mean of the hidden states of its sub-words, special tokens left out, at the protocol's `layer`. A neighbour is
the one of the highest similarity or, with `csls` k, of the highest 2·cos(x, y) − r(x) − r(y), where r is the mean cosine to the
k nearest on the other side (Conneau et al. 2018). It counts when it is the translation in the same line, so that the figure
towards the pivot language is the accuracy of mteb's bitext mining; of a sentence that stands twice, one at most is found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xeval.progress import ProgressCallback
from xeval.protocol import Protocol
from xeval.sentences.sparse_rows import dense
from xeval.sentences.vectors import (
    VECTOR_SETTINGS,
    TextVectors,
    Vectors,
    open_vectors,
    told_cut,
    unit,
)
from xeval.statistics.items import Items, digest_of_examples
from xeval.task_templates.files import read_columns
from xeval.task_templates.hub import HubSet, LabelNames, Row
from xeval.task_templates.task import ZeroShotTask


@dataclass(frozen=True, slots=True)
class Pair:
    """A sentence and its translation into the pivot language."""

    text: str
    translation: str


def _read(path: Path, _cache: Path | None) -> list[Pair]:
    return [Pair(*fields) for _, fields in read_columns(path, ("sentence", "translation"))]


def _measure(
    opened: TextVectors,
    examples: Sequence[Pair],
    protocol: Protocol,
    watch: ProgressCallback,
) -> tuple[list[Items], list[str]]:
    texts, translations = [e.text for e in examples], [e.translation for e in examples]
    foreign, cut_foreign = opened.encode(texts, "text", watch, "bitext")
    pivot, cut_pivot = opened.encode(translations, "text", watch, "bitext")
    if protocol.csls:
        nearness = near(unit(foreign), unit(pivot), protocol.csls)
    else:
        nearness = opened.similarity(foreign, pivot)
    digest = digest_of_examples(examples)
    items = [
        Items(metric=metric, rows=_right(table), test_digest=digest)
        for metric, table in (("bitext_to_source", nearness), ("bitext_from_source", nearness.T))
    ]
    notes = told_cut(cut_foreign + cut_pivot, 2 * len(examples))
    if protocol.csls > len(examples):
        notes.append(
            f"csls {protocol.csls} is more neighbours than the {len(examples)} sentences there are; all of them were taken"
        )
    return items, notes


def _right(nearness: Vectors) -> NDArray[np.int64]:
    right = nearness.argmax(axis=1) == np.arange(len(nearness))
    return np.stack([right, np.ones_like(right)], axis=1).astype(np.int64)


def near(a: Vectors, b: Vectors, csls: int) -> Vectors:
    """CSLS `[n, m]` of rows of unit length, over `csls` neighbours."""
    cosine = dense(a @ b.T)
    k = min(csls, *cosine.shape)
    of_a = np.partition(cosine, -k, axis=1)[:, -k:].mean(axis=1, keepdims=True)
    of_b = np.partition(cosine, -k, axis=0)[-k:].mean(axis=0, keepdims=True)
    return np.asarray(2 * cosine - of_a - of_b)


def _hub_example(row: Row, _names: LabelNames, _where: str) -> Pair:
    return Pair(row["sentence1"], row["sentence2"])


TASK = ZeroShotTask(
    name="bitext",
    title="translation of a sentence found among all",
    folder="tatoeba",
    suffix="tsv",
    metrics=("bitext_to_source", "bitext_from_source"),
    read=_read,
    open=open_vectors,
    measure=_measure,
    own_settings=(*VECTOR_SETTINGS, "csls", "text_prompt"),
    hub=(
        HubSet(
            name="tatoeba",
            repository="mteb/tatoeba-bitext-mining",
            configurations=r"([a-z]{3})-eng",
            splits={"test": "test"},
            example=_hub_example,
            languages="112, each with its translation into English",
            licence="CC BY 2.0",
            citation="Artetxe, Schwenk 2019: Massively Multilingual Sentence Embeddings for Zero-Shot Cross-Lingual Transfer and Beyond",
        ),
    ),
)
