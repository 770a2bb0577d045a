"""Paraphrase: do two sentences say the same? Accuracy and macro F1."""

from pathlib import Path

from xeval.task_templates.task import FineTunedTask
from xeval.task_templates.text_labels import (
    Labelled,
    collate_labelled,
    decode_labelled,
    encode_labelled,
    label_items,
    labels_of,
    read_columns,
    text_head,
)


def _read(path: Path, _cache: Path | None) -> list[Labelled]:
    columns = ("sentence1", "sentence2", "label")
    return [
        Labelled(text=first, second=second, label=label, where=f"{path}:{line}")
        for line, (first, second, label) in read_columns(path, columns)
    ]


TASK = FineTunedTask(
    name="paraphrase",
    title="paraphrase",
    folder="paraphrase",
    suffix="tsv",
    metrics=("accuracy", "macro_f1"),
    read=_read,
    labels=labels_of,
    encode=encode_labelled,
    collate=collate_labelled,
    head=text_head,
    decode=decode_labelled,
    items=label_items,
)
