"""Dependency parsing: Universal Dependencies, gold words, scored as in CoNLL-18 (LAS, UAS, CLAS)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xeval.errors import XevalError
from xeval.protocol import Protocol
from xeval.statistics.items import Items, digest_of_examples
from xeval.task_templates.batches import pad_labels, pad_rows, place_words
from xeval.task_templates.hub import LabelNames, Row
from xeval.task_templates.task import FineTunedTask, number_of
from xeval.task_templates.treebank import read_treebank, universal_dependencies, word_rows
from xeval.task_templates.trees import RELATIONS, best_tree, check_tree, tree_counts
from xeval.task_templates.word_labels import split_note
from xeval.task_templates.word_tokenization import Encoded, Pieces

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Parsed:
    """Words and their tree.

    Args:
        words: `[W]`.
        heads: `[W]`, 0 for the root.
        relations: `[W]`, universal.
        where: file and line, for messages.
    """

    words: tuple[str, ...]
    heads: tuple[int, ...]
    relations: tuple[str, ...]
    where: str = field(default="", repr=False, compare=False)


def _read(path: Path, cache: Path | None) -> list[Parsed]:
    examples = []
    for sentence in read_treebank(path, cache=cache):
        where = f"{path}:{sentence.line}"
        if not sentence.heads:
            raise XevalError(f"{where}: the sentence has no tree; expected a head for every word")
        examples.append(_parsed(sentence.words, sentence.heads, sentence.relations, where))
    return examples


def _parsed(
    words: tuple[str, ...], heads: tuple[int, ...], relations: tuple[str, ...], where: str
) -> Parsed:
    """An example, if it is a tree of universal relations."""
    check_tree(heads, where)
    for relation in relations:
        number_of(relation, RELATIONS, where)
    return Parsed(words, heads, relations, where)


def _labels(_examples: Sequence[Parsed]) -> tuple[str, ...]:
    # Universal, as the parts of speech are.
    return RELATIONS


def _encode(
    pieces: Pieces, examples: Sequence[Parsed], labels: tuple[str, ...]
) -> tuple[list[Encoded], list[str]]:
    encoded = pieces.encode_words([example.words for example in examples])
    for example, rows in zip(examples, encoded, strict=True):
        rows.labels = list(example.heads)
        rows.extra["relations"] = [labels.index(relation) for relation in example.relations]
    return encoded, split_note(encoded)


def _collate(encoded: Sequence[Encoded], pad_id: int) -> dict[str, Tensor]:
    return {
        **pad_rows(encoded, pad_id),
        **place_words(encoded),
        "labels": pad_labels([example.labels for example in encoded]),
        "relations": pad_labels([example.extra["relations"] for example in encoded]),
    }


def _head(width: int, classes: int, protocol: Protocol) -> nn.Module:
    from xeval.task_templates.biaffine import BiaffineHead

    return BiaffineHead(width, classes, pooling=protocol.pooling)


def _decode(
    head: Any,
    outputs: dict[str, Tensor],
    batch: dict[str, Tensor],
    encoded: Sequence[Encoded],
    labels: tuple[str, ...],
) -> list[tuple[list[int], list[str]]]:
    import torch

    arcs = outputs["arcs"].log_softmax(dim=-1).double().cpu().numpy()
    heads = torch.zeros_like(batch["word_size"])
    trees = []
    for i, example in enumerate(encoded):
        words = len(example.word_pieces)
        tree = best_tree(arcs[i, :words, : words + 1])
        heads[i, :words] = torch.tensor(tree)
        trees.append(tree)
    relations = head.relations(outputs, heads)
    # The word under the root hangs on it by "root", and no other word does.
    root = torch.zeros(len(labels), dtype=torch.bool, device=relations.device)
    root[labels.index("root")] = True
    relations = relations.masked_fill((heads == 0)[..., None] != root, float("-inf"))
    best = relations.argmax(dim=-1).tolist()
    return [
        (tree, [labels[number] for number in row[: len(tree)]])
        for tree, row in zip(trees, best, strict=True)
    ]


def _items(
    examples: Sequence[Parsed],
    predictions: Sequence[tuple[Sequence[int], Sequence[str]]],
    _labels: tuple[str, ...],
    _language: str,
) -> list[Items]:
    counts = []
    for gold, guess in zip(examples, predictions, strict=True):
        check_tree(guess[0], f"the predicted tree for {gold.where}")
        counts.append(tree_counts((gold.heads, gold.relations), guess))
    digest = digest_of_examples(examples)
    return [
        Items(metric=metric, rows=np.array([c[metric] for c in counts]), test_digest=digest)
        for metric in TASK.metrics
    ]


def _hub_example(row: Row, _names: LabelNames, where: str) -> Parsed:
    words = word_rows(row)
    return _parsed(
        tuple(row["tokens"][i] for i in words),
        tuple(int(row["head"][i]) for i in words),
        tuple(row["deprel"][i].partition(":")[0] for i in words),
        where,
    )


TASK = FineTunedTask(
    name="dp",
    title="dependency parsing",
    folder="ud",
    suffix="conllu",
    metrics=("las", "uas", "clas"),
    hub=(universal_dependencies(_hub_example),),
    read=_read,
    labels=_labels,
    encode=_encode,
    collate=_collate,
    head=_head,
    decode=_decode,
    items=_items,
)
