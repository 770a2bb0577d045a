"""What a task is: data, head and metric, as functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from typing import Protocol as Structural

from xeval.errors import XevalError
from xeval.protocol import Protocol
from xeval.statistics.items import Items
from xeval.task_templates.word_tokenization import Encoded, Pieces

if TYPE_CHECKING:
    from torch import Tensor, nn

Watch = Callable[[int, int, str], None]


def silent(done: int, total: int, what: str) -> None:
    """Watch nothing."""


def as_they_are(examples: list[Any], _protocol: Protocol) -> tuple[list[Any], list[str]]:
    """Examples that look the same under every protocol."""
    return examples, []


class Readable(Structural):
    """What both kinds of task have: where their data lies and how it is read."""

    @property
    def name(self) -> str:
        """Such as "pos"."""

    @property
    def folder(self) -> str:
        """Its folder in a local data folder."""

    @property
    def suffix(self) -> str:
        """Its files' ending, compression aside."""

    @property
    def read(self) -> Callable[[Path, Path | None], list[Any]]:
        """(file, cache folder) to examples."""


@dataclass(frozen=True, kw_only=True)
class FineTunedTask:
    """A task with a head that is tuned on the source language.

    Args:
        name: such as "pos".
        title: for people.
        folder: its folder in a local data folder.
        suffix: its files' ending, compression aside.
        metrics: keys of `xeval.statistics.metrics.SCORES`; the first chooses the checkpoint.
        read: (file, cache folder) to examples.
        view: (examples, protocol) to (examples as this protocol sees them, notes).
        labels: examples of the source to the label names of the head.
        encode: (pieces, examples, labels) to encoded examples with gold labels, and notes.
        collate: (encoded, pad id) to the tensors of a batch, with `labels` `[...]`, -100 where there is none.
        head: (encoder width, number of labels, protocol) to a module with `forward(hidden, batch)` and `loss`.
        decode: (head, outputs, batch, encoded, labels) to one prediction per example.
        items: (examples, predictions, labels, language) to per-item statistics, in the order of the examples.
    """

    name: str
    title: str
    folder: str
    suffix: str
    metrics: tuple[str, ...]
    read: Callable[[Path, Path | None], list[Any]]
    labels: Callable[[Sequence[Any]], tuple[str, ...]]
    encode: Callable[[Pieces, Sequence[Any], tuple[str, ...]], tuple[list[Encoded], list[str]]]
    collate: Callable[[Sequence[Encoded], int], dict[str, Tensor]]
    head: Callable[[int, int, Protocol], nn.Module]
    decode: Callable[
        [Any, dict[str, Tensor], dict[str, Tensor], Sequence[Encoded], tuple[str, ...]], list[Any]
    ]
    items: Callable[[Sequence[Any], Sequence[Any], tuple[str, ...], str], list[Items]]
    view: Callable[[list[Any], Protocol], tuple[list[Any], list[str]]] = as_they_are


@dataclass(frozen=True, kw_only=True)
class ZeroShotTask:
    """A task that asks the model as it is.

    Args:
        name: such as "retrieval".
        title: for people.
        folder: its folder in a local data folder.
        suffix: its files' ending, compression aside.
        metrics: keys of `xeval.statistics.metrics.SCORES`.
        read: (file, cache folder) to examples.
        open: (model, protocol) to what `measure` asks.
        measure: (opened, examples, protocol, watch) to per-item statistics, and notes.
        view: (examples, protocol) to (examples as this protocol sees them, notes).
    """

    name: str
    title: str
    folder: str
    suffix: str
    metrics: tuple[str, ...]
    read: Callable[[Path, Path | None], list[Any]]
    open: Callable[[str, Protocol], Any]
    measure: Callable[[Any, Sequence[Any], Protocol, Watch], tuple[list[Items], list[str]]]
    view: Callable[[list[Any], Protocol], tuple[list[Any], list[str]]] = as_they_are


def number_of(label: str, labels: Sequence[str], where: str) -> int:
    """The place of a gold label among those of the head.

    Raises:
        XevalError: for a label the model was not tuned on.
    """
    try:
        return labels.index(label)
    except ValueError:
        raise XevalError(
            f"{where}: the label {label!r} is not among those of the source language ({', '.join(labels)}); "
            "map it, or leave the data set out"
        ) from None
