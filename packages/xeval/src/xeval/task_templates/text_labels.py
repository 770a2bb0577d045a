"""One label per text or pair of texts: examples, encoding, batches, decoding, both metrics, and tasks made of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from xeval.errors import XevalError
from xeval.protocol import Protocol
from xeval.statistics.items import Items, digest_of_examples
from xeval.task_templates.batches import pad_rows
from xeval.task_templates.files import read_columns
from xeval.task_templates.hub import HubSet, LabelNames, Row, label_name
from xeval.task_templates.task import FineTunedTask, number_of
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


def text_classification(
    *,
    name: str,
    title: str,
    folder: str,
    columns: tuple[str, ...],
    label: str = "label",
    hub: tuple[HubSet, ...] = (),
) -> FineTunedTask:
    """A task of one label per text, or per pair of texts, judged by accuracy and macro F1.

    Args:
        name: such as "nli".
        title: for people.
        folder: in a local data folder, with files separated by tabs.
        columns: of the files, in the order of a file without a header: the text or both texts, and the label.
        label: the column that is the label.
        hub: the standard sets of the Hub.
    """

    def read(path: Path, _cache: Path | None) -> list[Labelled]:
        rows = [
            (line, dict(zip(columns, row, strict=True)))
            for line, row in read_columns(path, columns)
        ]
        return [_labelled(row, row.pop(label), f"{path}:{line}") for line, row in rows]

    return FineTunedTask(
        name=name,
        title=title,
        folder=folder,
        suffix="tsv",
        metrics=("accuracy", "macro_f1"),
        hub=hub,
        read=read,
        labels=labels_of,
        encode=encode_labelled,
        collate=collate_labelled,
        head=text_head,
        decode=decode_labelled,
        items=label_items,
    )


def hub_texts(*columns: str, label: str = "label") -> Callable[[Row, LabelNames, str], Labelled]:
    """Examples from the rows of the Hub: the columns of the text or both texts, and that of the label."""

    def example(row: Row, names: LabelNames, where: str) -> Labelled:
        texts = {column: row[column] for column in columns}
        return _labelled(texts, label_name(row[label], names, label), where)

    return example


def _labelled(texts: dict[str, str], label: str, where: str) -> Labelled:
    first, *second = texts.values()
    return Labelled(text=first, second=second[0] if second else None, label=label, where=where)


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
    for example, rows in zip(examples, encoded, strict=True):
        rows.labels = [number_of(example.label, labels, example.where)]
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
