"""Semantic textual similarity: are pairs of sentences as alike as people say? Spearman of cosine and gold, nothing tuned.

A sentence encoder is asked as its folder says: own pooling, prompts and normalisation. Of any other encoder a sentence is the
mean of the hidden states of its sub-words, special tokens left out, at the protocol's `layer`. Local files are
`sts/<language>.tsv` or `sts/<language>/<split>.tsv`: sentence1, sentence2 and score, separated by tabs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xeval.errors import XevalError
from xeval.progress import ProgressCallback
from xeval.protocol import Protocol
from xeval.sentences.vectors import VECTOR_SETTINGS, TextVectors, open_vectors, told_cut, unit
from xeval.statistics.items import Items, digest_of_examples
from xeval.task_templates.files import read_columns
from xeval.task_templates.hub import HubSet, LabelNames, Row
from xeval.task_templates.task import ZeroShotTask


@dataclass(frozen=True, slots=True)
class Judged:
    """Two sentences, and how alike they are, on whatever scale."""

    first: str
    second: str
    score: float


def _read(path: Path, _cache: Path | None) -> list[Judged]:
    rows = read_columns(path, ("sentence1", "sentence2", "score"))
    judged = [Judged(a, b, _number(score, f"{path}:{line}")) for line, (a, b, score) in rows]
    if len({example.score for example in judged}) < 2:
        raise XevalError(
            f"{path}: expected pairs of different scores, got {judged[0].score:g} for all {len(judged)}; without an order Spearman's "
            "correlation is not defined, so give more pairs or leave the file out"
        )
    return judged


def _number(score: str, where: str) -> float:
    try:
        number = float(score)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise XevalError(f"{where}: expected a number as score, got {score!r}")
    return number


def _measure(
    opened: TextVectors,
    examples: Sequence[Judged],
    _protocol: Protocol,
    watch: ProgressCallback,
) -> tuple[list[Items], list[str]]:
    first, cut_first = opened.encode([e.first for e in examples], "text", watch, "sts")
    second, cut_second = opened.encode([e.second for e in examples], "text", watch, "sts")
    cosines = (unit(first).astype(np.float64) * unit(second)).sum(axis=1)
    items = Items(
        metric="cosine_spearman",
        rows=np.stack([cosines, [e.score for e in examples]], axis=1),
        test_digest=digest_of_examples(examples),
    )
    return [items], told_cut(cut_first + cut_second, 2 * len(examples))


def _hub_example(score: str) -> Callable[[Row, LabelNames, str], Judged]:
    def example(row: Row, _names: LabelNames, _where: str) -> Judged:
        return Judged(row["sentence1"], row["sentence2"], float(row[score]))

    return example


TASK = ZeroShotTask(
    name="sts",
    title="semantic textual similarity",
    folder="sts",
    suffix="tsv",
    metrics=("cosine_spearman",),
    read=_read,
    open=open_vectors,
    measure=_measure,
    own_settings=(*VECTOR_SETTINGS, "text_prompt"),
    hub=(
        HubSet(
            name="sts22",
            repository="mteb/sts22-crosslingual-sts",
            configurations=r"([a-z]{2})(?:-[a-z]{2})?",
            splits={"test": "test"},
            example=_hub_example("score"),
            languages="ar de en es fr it pl ru tr zh, and pairs of them such as de-en; news articles",
            licence="not stated",
            citation="Chen et al. 2022: SemEval-2022 Task 8: Multilingual News Article Similarity",
        ),
        HubSet(
            name="stsb",
            repository="mteb/stsb_multi_mt",
            configurations=r"([a-z]{2})",
            splits={"dev": "dev", "test": "test"},
            example=_hub_example("similarity_score"),
            languages="de en es fr it nl pl pt ru zh, translated by machine from English",
            licence="not stated",
            citation="Cer et al. 2017: SemEval-2017 Task 1: Semantic Textual Similarity Multilingual and Crosslingual Focused Evaluation",
        ),
    ),
)
