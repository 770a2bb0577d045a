"""Multiple-choice reading: which of the options answers the question about a passage? Accuracy.

Each option is read with the passage as a pair of texts and given one number; the largest wins. Local files are
`choice/<language>/<split>.jsonl`, one object a line: passage, question, options (a list), answer (a place in it, from 0).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xeval.errors import XevalError
from xeval.protocol import Protocol
from xeval.statistics.items import Items, digest_of_examples
from xeval.task_templates.batches import IGNORED, pad_rows
from xeval.task_templates.files import read_json_lines
from xeval.task_templates.hub import HubSet, LabelNames, Row
from xeval.task_templates.task import FineTunedTask
from xeval.task_templates.word_tokenization import Encoded, Pieces

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Choice:
    """A passage, a question, its options and the right one.

    Args:
        passage: text.
        question: text.
        options: two or more.
        answer: place of the right one.
        where: file and line, for messages.
    """

    passage: str
    question: str
    options: tuple[str, ...]
    answer: int
    where: str = field(default="", repr=False, compare=False)


def _read(path: Path, _cache: Path | None) -> list[Choice]:
    return [_choice(row, where) for where, row in read_json_lines(path)]


def _choice(row: dict[str, Any], where: str) -> Choice:
    passage, question, options = (row.get(name) for name in ("passage", "question", "options"))
    texts = [passage, question, *(options if isinstance(options, list) else [None])]
    if not all(isinstance(text, str) for text in texts) or not isinstance(row.get("answer"), int):
        raise XevalError(
            f"{where}: expected an object with passage and question, texts, options, a list of texts, and answer, a place in it from 0, "
            f"got {row!r:.80}"
        )
    first, second, *listed = map(str, texts)
    example = Choice(first, second, tuple(listed), row["answer"], where)
    if len(example.options) < 2 or not 0 <= example.answer < len(example.options):
        raise XevalError(
            f"{where}: expected two or more options and an answer among them, got answer {example.answer} of {len(example.options)}"
        )
    return example


def _labels(_examples: Sequence[Choice]) -> tuple[str, ...]:
    return ("right",)


def _encode(
    pieces: Pieces, examples: Sequence[Choice], _labels: tuple[str, ...]
) -> tuple[list[Encoded], list[str]]:
    pairs = [
        (example.passage, f"{example.question} {option}")
        for example in examples
        for option in example.options
    ]
    rows, cut = pieces.encode_texts([a for a, _ in pairs], [b for _, b in pairs])
    encoded, at = [], 0
    for example in examples:
        option_rows = rows[at : at + len(example.options)]
        at += len(option_rows)
        types = [row for option in option_rows for row in option.types or []]
        encoded.append(
            Encoded(
                rows=[option.rows[0] for option in option_rows],
                types=types or None,
                labels=[example.answer],
            )
        )
    note = f"{cut} of {len(pairs)} passages with an option were longer than a row and were cut"
    return encoded, [note] * (cut > 0)


def _collate(encoded: Sequence[Encoded], pad_id: int) -> dict[str, Tensor]:
    import torch

    most = max(len(example.rows) for example in encoded)
    rows = torch.full((len(encoded), most), IGNORED, dtype=torch.long)
    above = 0
    for i, example in enumerate(encoded):
        rows[i, : len(example.rows)] = torch.arange(above, above + len(example.rows))
        above += len(example.rows)
    return {
        **pad_rows(encoded, pad_id),
        "option_rows": rows,
        "labels": torch.tensor([example.labels[0] for example in encoded]),
    }


def _head(width: int, _classes: int, protocol: Protocol) -> nn.Module:
    from xeval.task_templates.heads import ChoiceHead

    return ChoiceHead(width, pooling=protocol.pooling)


def _decode(
    _head: object,
    outputs: dict[str, Tensor],
    _batch: dict[str, Tensor],
    _encoded: Sequence[Encoded],
    _labels: tuple[str, ...],
) -> list[int]:
    return [int(place) for place in outputs["options"].argmax(dim=-1)]


def _items(
    examples: Sequence[Choice], predictions: Sequence[int], _labels: tuple[str, ...], _language: str
) -> list[Items]:
    rows = [(gold.answer == guess, 1) for gold, guess in zip(examples, predictions, strict=True)]
    digest = digest_of_examples(examples)
    return [Items(metric="accuracy", rows=np.array(rows, dtype=int), test_digest=digest)]


def _hub_example(row: Row, _names: LabelNames, where: str) -> Choice:
    options = tuple(row[f"mc_answer{number}"] for number in range(1, 5))
    answer = int(row["correct_answer_num"]) - 1
    return Choice(row["flores_passage"], row["question"], options, answer, where)


TASK = FineTunedTask(
    name="choice",
    title="multiple-choice reading",
    folder="choice",
    suffix="jsonl",
    metrics=("accuracy",),
    read=_read,
    labels=_labels,
    encode=_encode,
    collate=_collate,
    head=_head,
    decode=_decode,
    items=_items,
    hub=(
        HubSet(
            name="belebele",
            repository="facebook/belebele",
            configurations=r"([a-z]{3})_[A-Z][a-z]{3}",
            splits={"test": "test"},
            example=_hub_example,
            languages="122, with their scripts, such as deu_Latn",
            licence="CC BY-SA 4.0",
            citation="Bandarkar et al. 2024: The Belebele Benchmark: a Parallel Reading Comprehension Dataset in 122 Language Variants",
        ),
    ),
)
