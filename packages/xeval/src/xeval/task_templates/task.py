"""What a task is: data, head and metric, as functions, and where the Hub holds data for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from xeval.errors import XevalError
from xeval.progress import ProgressCallback
from xeval.protocol import Protocol
from xeval.statistics.items import Items
from xeval.task_templates.hub import HubSet
from xeval.task_templates.word_tokenization import Encoded, Pieces

if TYPE_CHECKING:
    from torch import Tensor, nn


def as_they_are(examples: list[Any], _protocol: Protocol) -> tuple[list[Any], list[str]]:
    """Examples that look the same under every protocol."""
    return examples, []


@dataclass(frozen=True, kw_only=True)
class Task:
    """What all kinds of task have.

    Args:
        name: such as "pos".
        title: for people.
        folder: its folder in a local data folder.
        suffix: its files' ending, compression aside.
        inside: the folder of a data set in which its files lie, where they do not lie in it itself.
        also: (folder, suffix) of files for other tasks that are read for this one too.
        metrics: keys of `xeval.statistics.metrics.METRICS`; the first chooses the checkpoint.
        read: (file, cache folder) to examples.
        view: (examples, protocol) to (examples as this protocol sees them, notes).
        hub: the standard sets of the Hub.
        own_settings: the settings of a `Protocol` that do not bear on every task, but on this one.
    """

    finetuned: ClassVar[bool]

    name: str
    title: str
    folder: str
    suffix: str
    metrics: tuple[str, ...]
    read: Callable[[Path, Path | None], list[Any]]
    inside: str = ""
    also: tuple[tuple[str, str], ...] = ()
    view: Callable[[list[Any], Protocol], tuple[list[Any], list[str]]] = as_they_are
    hub: tuple[HubSet, ...] = ()
    own_settings: tuple[str, ...] = ()

    def settings(self, protocol: Protocol) -> dict[str, Any]:
        """The settings that bear on the task, as they stand in a result."""
        return protocol.settings(self.own_settings, finetuned=self.finetuned)


@dataclass(frozen=True, kw_only=True)
class FineTunedTask(Task):
    """A task with a head that is fine-tuned on the source language.

    Args:
        labels: examples of the source to the label names of the head.
        encode: (pieces, examples, labels) to encoded examples with gold labels, and notes.
        collate: (encoded, pad id) to the tensors of a batch, with `labels` `[...]`, -100 where there is none.
        head: (encoder width, number of labels, protocol) to a module with `forward(hidden, batch)` and `loss`.
        decode: (head, outputs, batch, encoded, labels) to one prediction per example.
        items: (examples, predictions, labels, language) to per-item statistics, in the order of the examples.
    """

    finetuned = True

    labels: Callable[[Sequence[Any]], tuple[str, ...]]
    encode: Callable[[Pieces, Sequence[Any], tuple[str, ...]], tuple[list[Encoded], list[str]]]
    collate: Callable[[Sequence[Encoded], int], dict[str, Tensor]]
    head: Callable[[int, int, Protocol], nn.Module]
    decode: Callable[
        [Any, dict[str, Tensor], dict[str, Tensor], Sequence[Encoded], tuple[str, ...]], list[Any]
    ]
    items: Callable[[Sequence[Any], Sequence[Any], tuple[str, ...], str], list[Items]]


@dataclass(frozen=True, kw_only=True)
class ZeroShotTask(Task):
    """A task that asks the model as it is.

    Args:
        open: (model, protocol) to what `measure` asks; if it has a `method`, a text, that says in the results how.
        measure: (opened, examples, protocol, watch) to per-item statistics, and notes.
    """

    finetuned = False

    open: Callable[[str, Protocol], Any]
    measure: Callable[
        [Any, Sequence[Any], Protocol, ProgressCallback], tuple[list[Items], list[str]]
    ]


@dataclass(frozen=True, kw_only=True)
class ProbeTask(Task):
    """A task that trains a classifier on the source language, on vectors of a model that stays as it is.

    Args:
        fit: (model, protocol, training examples, development examples, watch) to what `measure` asks, and notes; a
            `method` of it, a text, says in the results how.
        measure: (fitted, examples, protocol, watch) to per-item statistics, and notes.
    """

    finetuned = False

    fit: Callable[
        [str, Protocol, Sequence[Any], Sequence[Any], ProgressCallback], tuple[Any, list[str]]
    ]
    measure: Callable[
        [Any, Sequence[Any], Protocol, ProgressCallback], tuple[list[Items], list[str]]
    ]


def number_of(label: str, labels: Sequence[str], where: str) -> int:
    """The place of a gold label among those of the head.

    Raises:
        XevalError: for a label the model was not fine-tuned on.
    """
    try:
        return labels.index(label)
    except ValueError:
        raise XevalError(
            f"{where}: the label {label!r} is not among those of the source language ({', '.join(labels)}); "
            "map it, or leave the data set out"
        ) from None
