"""One label per word: examples, encoding, batches, decoding, and the task that is made of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xeval.protocol import Protocol
from xeval.statistics.items import Items, digest_of_examples
from xeval.task_templates.batches import pad_labels, pad_rows, place_words
from xeval.task_templates.hub import HubSet
from xeval.task_templates.task import FineTunedTask, as_they_are, number_of
from xeval.task_templates.word_tokenization import Encoded, Pieces

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Tagged:
    """Words and one label for each.

    Args:
        words: `[W]`.
        labels: `[W]`.
        where: file and line, for messages.
    """

    words: tuple[str, ...]
    labels: tuple[str, ...]
    where: str = field(default="", repr=False, compare=False)


def word_labelling(
    *,
    name: str,
    title: str,
    folder: str,
    suffix: str,
    metric: str,
    count: Callable[[Sequence[str], Sequence[str]], tuple[int, ...]],
    read: Callable[[Path, Path | None], list[Tagged]],
    labels: Callable[[Sequence[Tagged]], tuple[str, ...]],
    view: Callable[[list[Any], Protocol], tuple[list[Any], list[str]]] = as_they_are,
    hub: tuple[HubSet, ...] = (),
    own_settings: tuple[str, ...] = (),
) -> FineTunedTask:
    """A task of one label per word, with a linear layer on words.

    Args:
        name: see `xeval.task_templates.task.FineTunedTask`, as for what is not said here.
        title: likewise.
        folder: likewise.
        suffix: likewise.
        metric: the one metric.
        count: (gold labels, predicted labels) of a sentence to the columns of the metric.
        read: likewise.
        labels: likewise.
        view: likewise.
        hub: likewise.
        own_settings: likewise.
    """

    def items(
        examples: Sequence[Tagged],
        predictions: Sequence[Sequence[str]],
        _labels: tuple[str, ...],
        _language: str,
    ) -> list[Items]:
        pairs = zip(examples, predictions, strict=True)
        rows = np.array([count(gold.labels, guess) for gold, guess in pairs])
        return [Items(metric=metric, rows=rows, test_digest=digest_of_examples(examples))]

    return FineTunedTask(
        name=name,
        title=title,
        folder=folder,
        suffix=suffix,
        metrics=(metric,),
        read=read,
        labels=labels,
        view=view,
        hub=hub,
        own_settings=own_settings,
        encode=encode_tagged,
        collate=collate_tagged,
        head=word_head,
        decode=decode_tagged,
        items=items,
    )


def encode_tagged(
    pieces: Pieces, examples: Sequence[Tagged], labels: tuple[str, ...]
) -> tuple[list[Encoded], list[str]]:
    """Words to rows of sub-words, labels to numbers."""
    encoded = pieces.encode_words([example.words for example in examples])
    for example, rows in zip(examples, encoded, strict=True):
        rows.labels = [number_of(label, labels, example.where) for label in example.labels]
    return encoded, split_note(encoded)


def split_note(encoded: Sequence[Encoded]) -> list[str]:
    """Says how many sentences needed more than one row."""
    split = sum(len(example.rows) > 1 for example in encoded)
    return [
        f"{split} of {len(encoded)} sentences were longer than a row and were read in several"
    ] * (split > 0)


def collate_tagged(encoded: Sequence[Encoded], pad_id: int) -> dict[str, Tensor]:
    """Rows, places of words, and labels `[B, W]`."""
    return {
        **pad_rows(encoded, pad_id),
        **place_words(encoded),
        "labels": pad_labels([example.labels for example in encoded]),
    }


def word_head(width: int, classes: int, protocol: Protocol) -> nn.Module:
    """A linear layer on words."""
    from xeval.task_templates.heads import WordHead

    return WordHead(width, classes, pooling=protocol.pooling)


def decode_tagged(
    _head: object,
    outputs: dict[str, Tensor],
    _batch: dict[str, Tensor],
    encoded: Sequence[Encoded],
    labels: tuple[str, ...],
) -> list[tuple[str, ...]]:
    """The best label of every word."""
    best = outputs["labels"].argmax(dim=-1).tolist()
    return [
        tuple(labels[number] for number in row[: len(example.word_pieces)])
        for row, example in zip(best, encoded, strict=True)
    ]
