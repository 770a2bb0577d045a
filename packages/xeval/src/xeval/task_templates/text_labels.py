"""One label per text or pair of texts: examples, files, encoding, batches, decoding and both metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from xeval.data.folder import read_text
from xeval.errors import XevalError
from xeval.protocol import Protocol
from xeval.statistics.items import Items, digest_of_examples
from xeval.task_templates.batches import pad_rows
from xeval.task_templates.task import number_of
from xeval.task_templates.word_tokenization import Encoded, Pieces

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Labelled:
    """A text, perhaps a second one, and a label.

    Args:
        text: the text, or the premise.
        label: its class.
        second: the hypothesis or second sentence, or None.
        where: file and line, for messages.
    """

    text: str
    label: str
    second: str | None = None
    where: str = field(default="", repr=False, compare=False)


def read_columns(path: Path, columns: Sequence[str]) -> list[tuple[int, list[str]]]:
    """Rows of a tab-separated file, with their line numbers.

    A first line of exactly these names, among others, is a header and gives the places of the columns; without one
    the columns stand in this order, and nothing else.

    Raises:
        XevalError: naming file and line, for a row with another number of fields or an empty one.
    """
    text, _ = read_text(path)
    lines = text.split("\n")
    header = lines[0].rstrip("\r").split("\t")
    headed = set(columns) <= set(header)
    places = [header.index(name) for name in columns] if headed else list(range(len(columns)))
    width = len(header) if headed else len(columns)
    rows = []
    for number, line in enumerate(lines[headed:], start=1 + headed):
        fields = line.rstrip("\r").split("\t")
        if fields == [""]:
            continue
        if len(fields) != width:
            raise XevalError(
                f"{path}:{number}: expected {width} fields separated by tabs ({', '.join(header if headed else columns)}), got {len(fields)}"
            )
        chosen = [fields[place].strip() for place in places]
        if "" in chosen:
            raise XevalError(f"{path}:{number}: the field {columns[chosen.index('')]!r} is empty")
        rows.append((number, chosen))
    if not rows:
        raise XevalError(f"{path}: holds no row; expected {', '.join(columns)}")
    return rows


def labels_of(examples: Sequence[Labelled]) -> tuple[str, ...]:
    """The labels that occur, sorted."""
    labels = tuple(sorted({example.label for example in examples}))
    if len(labels) < 2:
        raise XevalError(
            f"{examples[0].where}: the training data has the one label {labels[0]!r}; expected at least two"
        )
    return labels


def encode_labelled(
    pieces: Pieces, examples: Sequence[Labelled], labels: tuple[str, ...]
) -> tuple[list[Encoded], list[str]]:
    """Texts to rows, cut to the limit and counted; labels to numbers."""
    seconds = [example.second for example in examples]
    encoded, cut = pieces.encode_texts(
        [example.text for example in examples],
        None if seconds[0] is None else [second or "" for second in seconds],
    )
    for example, made in zip(examples, encoded, strict=True):
        made.labels = [number_of(example.label, labels, example.where)]
    return encoded, [f"{cut} of {len(encoded)} texts were longer than a row and were cut"] * (
        cut > 0
    )


def collate_labelled(encoded: Sequence[Encoded], pad_id: int) -> dict[str, Tensor]:
    """Rows and labels `[B]`."""
    import torch

    return {
        **pad_rows(encoded, pad_id),
        "labels": torch.tensor([example.labels[0] for example in encoded]),
    }


def text_head(width: int, classes: int, protocol: Protocol) -> nn.Module:
    """A classifier on the first or mean state."""
    from xeval.task_templates.heads import TextHead

    return TextHead(width, classes, pooling=protocol.pooling)


def decode_labelled(
    _head: object,
    outputs: dict[str, Tensor],
    _batch: dict[str, Tensor],
    _encoded: Sequence[Encoded],
    labels: tuple[str, ...],
) -> list[str]:
    """The best label of every text."""
    return [labels[number] for number in outputs["labels"].argmax(dim=-1).tolist()]


def label_items(
    examples: Sequence[Labelled],
    predictions: Sequence[str],
    labels: tuple[str, ...],
    _language: str,
) -> list[Items]:
    """Accuracy and macro F1."""
    digest = digest_of_examples(examples)
    counts = np.zeros((len(examples), len(labels), 3), dtype=np.int64)
    right = np.ones((len(examples), 2), dtype=np.int64)
    for i, (gold, guess) in enumerate(zip(examples, predictions, strict=True)):
        g, p = labels.index(gold.label), labels.index(guess)
        right[i, 0] = g == p
        counts[i, g, 0 if g == p else 2] += 1
        counts[i, p, 1] += g != p
    return [
        Items(metric="accuracy", rows=right, test_digest=digest),
        Items(
            metric="macro_f1",
            rows=counts.reshape(len(examples), -1),
            test_digest=digest,
            groups=labels,
        ),
    ]
