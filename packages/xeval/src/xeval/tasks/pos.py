"""Part-of-speech tagging: universal tags of Universal Dependencies, accuracy per word."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from xeval.data.treebank import UPOS, read_treebank
from xeval.errors import XevalError
from xeval.statistics.items import Items, digest_of_examples
from xeval.task_templates.task import FineTunedTask
from xeval.task_templates.word_labels import (
    Tagged,
    collate_tagged,
    decode_tagged,
    encode_tagged,
    word_head,
)


def _read(path: Path, cache: Path | None) -> list[Tagged]:
    examples = []
    for sentence in read_treebank(path, cache=cache):
        for tag in sentence.tags:
            if tag not in UPOS:
                raise XevalError(
                    f"{path}:{sentence.line}: expected a universal part of speech ({', '.join(UPOS)}), got {tag!r}"
                )
        examples.append(Tagged(sentence.words, sentence.tags, f"{path}:{sentence.line}"))
    return examples


def _labels(_examples: Sequence[Tagged]) -> tuple[str, ...]:
    # The tags are universal: those that the source lacks are known, merely never learnt.
    return UPOS


def _items(
    examples: Sequence[Tagged],
    predictions: Sequence[Sequence[str]],
    _labels: tuple[str, ...],
    _language: str,
) -> list[Items]:
    rows = [
        (sum(a == b for a, b in zip(gold.labels, guess, strict=True)), len(gold.words))
        for gold, guess in zip(examples, predictions, strict=True)
    ]
    digest = digest_of_examples(examples)
    return [Items(metric="accuracy", rows=np.array(rows), test_digest=digest)]


TASK = FineTunedTask(
    name="pos",
    title="part-of-speech tagging",
    folder="ud",
    suffix="conllu",
    metrics=("accuracy",),
    read=_read,
    labels=_labels,
    encode=encode_tagged,
    collate=collate_tagged,
    head=word_head,
    decode=decode_tagged,
    items=_items,
)
