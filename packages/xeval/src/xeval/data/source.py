"""Where data sets come from, and which of them are meant."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from xeval.data.folder import DataSet, find_data_sets
from xeval.errors import XevalError
from xeval.task_templates.files import read_text
from xeval.task_templates.task import Task


class Source(Protocol):
    """A local folder, or a set on the Hub."""

    def data_sets(self, task: Task) -> list[DataSet]:
        """The data sets of a task."""

    def read(self, task: Task, data_set: DataSet, split: str) -> list[Any]:
        """The examples of a split."""

    def digest(self, task: Task, data_set: DataSet, split: str) -> str:
        """A digest of the contents of a split, as cheap as there is: another one where they changed."""


@dataclass(frozen=True)
class LocalFolder:
    """A folder laid out as `ud/<treebank>/<split>.conllu.xz`, `ner/<language>/<split>.txt.xz` and so on.

    Args:
        root: the folder.
        cache: where parsed treebanks are kept; the user's cache folder when None.
    """

    root: Path
    cache: Path | None = None

    def data_sets(self, task: Task) -> list[DataSet]:
        """The data sets of a task."""
        layouts = [(task.folder, task.suffix, task.inside), *((*place, "") for place in task.also)]
        there = [layout for layout in layouts if (self.root / layout[0]).is_dir()] or layouts[:1]
        return [s for layout in there for s in find_data_sets(self.root, *layout)]

    def read(self, task: Task, data_set: DataSet, split: str) -> list[Any]:
        """The examples of a split."""
        return task.read(_file(data_set, split), self.cache)

    def digest(self, task: Task, data_set: DataSet, split: str) -> str:
        """The digest of the text, however it is packed."""
        text, _ = read_text(_file(data_set, split))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def open_source(where: Path | str, *, cache: Path | None = None) -> Source:
    """A local folder, or `hub:<name>` for a standard set of the Hub."""
    if str(where).startswith("hub:"):
        from xeval.data.hub import HubSource

        return HubSource(str(where).removeprefix("hub:"))
    return LocalFolder(Path(where), cache)


def _file(data_set: DataSet, split: str) -> Path:
    if split not in data_set.files:
        raise XevalError(
            f"{data_set.name}: has no {split} split, only {', '.join(data_set.splits) or 'an empty folder'}"
        )
    return data_set.files[split]


def digest_of_training(source: Source, task: Task, data_set: DataSet) -> str:
    """A digest of the training and development data of a data set."""
    parts = [source.digest(task, data_set, split) for split in ("train", "dev")]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def choose_source(sets: Sequence[DataSet], wanted: str) -> DataSet:
    """The one data set with train and dev splits that `wanted` means: a language, or a data set's own name.

    Raises:
        XevalError: when there is none, or a language has several.
    """
    meant = [data_set for data_set in sets if wanted in (data_set.short, data_set.name)] or [
        data_set for data_set in sets if data_set.language == wanted
    ]
    if not meant:
        raise XevalError(
            f"source {wanted!r}: there is no such data set; there are {', '.join(data_set.short for data_set in sets)}"
        )
    fit = [data_set for data_set in meant if {"train", "dev"} <= set(data_set.splits)]
    if not fit:
        splits = "; ".join(
            f"{data_set.name} has {', '.join(data_set.splits) or 'none'}" for data_set in meant
        )
        raise XevalError(
            f"source {wanted!r}: expected a data set with the splits train and dev, but {splits}"
        )
    if len(fit) > 1:
        raise XevalError(
            f"source {wanted!r}: {' and '.join(data_set.short for data_set in fit)} have train and dev splits; name one of them"
        )
    return fit[0]


def choose_targets(
    sets: Sequence[DataSet], wanted: Sequence[str]
) -> tuple[list[DataSet], list[DataSet]]:
    """The data sets that `wanted` names: languages, data sets' own names, or "all".

    Returns:
        Those with a test split; and, for "all", those without one.

    Raises:
        XevalError: when a name fits none, or what it fits has no test split.
    """
    if list(wanted) == ["all"]:
        return [s for s in sets if "test" in s.splits], [s for s in sets if "test" not in s.splits]
    chosen: dict[str, DataSet] = {}
    for name in wanted:
        meant = [data_set for data_set in sets if name in (data_set.short, data_set.name)] or [
            data_set for data_set in sets if data_set.language == name
        ]
        if not meant:
            raise XevalError(
                f"language {name!r}: there is no such data set; there are {', '.join(data_set.short for data_set in sets)}"
            )
        fit = [data_set for data_set in meant if "test" in data_set.splits]
        if not fit:
            raise XevalError(
                f"language {name!r}: {meant[0].name} has no test split, only {', '.join(meant[0].splits) or 'an empty folder'}"
            )
        chosen.update((data_set.name, data_set) for data_set in fit)
    return list(chosen.values()), []
