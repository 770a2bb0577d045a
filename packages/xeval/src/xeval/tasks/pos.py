"""Part-of-speech tagging: universal tags of Universal Dependencies, accuracy per word."""

from collections.abc import Sequence
from pathlib import Path

from xeval.errors import XevalError
from xeval.task_templates.hub import LabelNames, Row, label_name
from xeval.task_templates.treebank import UPOS, read_treebank, universal_dependencies, word_rows
from xeval.task_templates.word_labels import Tagged, word_labelling


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


def _count(gold: Sequence[str], guess: Sequence[str]) -> tuple[int, int]:
    return sum(a == b for a, b in zip(gold, guess, strict=True)), len(gold)


def _hub_example(row: Row, names: LabelNames, where: str) -> Tagged:
    words = word_rows(row)
    tags = tuple(label_name(row["upos"][i], names, "upos") for i in words)
    return Tagged(tuple(row["tokens"][i] for i in words), tags, where)


TASK = word_labelling(
    name="pos",
    title="part-of-speech tagging",
    folder="ud",
    suffix="conllu",
    metric="accuracy",
    count=_count,
    read=_read,
    labels=_labels,
    hub=(universal_dependencies(_hub_example),),
)
