"""One label per word: examples, encoding, batches and decoding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from xeval.protocol import Protocol
from xeval.task_templates.batches import pad_labels, pad_rows, place_words
from xeval.task_templates.task import number_of
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


def encode_tagged(
    pieces: Pieces, examples: Sequence[Tagged], labels: tuple[str, ...]
) -> tuple[list[Encoded], list[str]]:
    """Words to rows of sub-words, labels to numbers."""
    encoded = pieces.encode_words([example.words for example in examples])
    for example, made in zip(examples, encoded, strict=True):
        made.labels = [number_of(label, labels, example.where) for label in example.labels]
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
