"""What the Hub holds for a task: which repository, which configurations and columns, under which licence."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Row = Mapping[str, Any]
LabelNames = Mapping[str, list[str]]
"""For a column whose labels are numbers, their names; under "language" the language that is read."""

MOVING = "moving"
CONVERTED = "refs/convert/parquet"
TRAIN_DEV_TEST = {"train": "train", "dev": "validation", "test": "test"}


@dataclass(frozen=True, kw_only=True)
class HubSet:
    """A standard set of the Hugging Face Hub, read with `hub:NAME`.

    Args:
        name: such as "xnli".
        repository: of the Hub.
        configurations: a pattern of the configurations that are meant, its group being the language; or, of a set whose
            configurations are not languages, the configuration of each.
        splits: those of train, dev and test there are, with their names on the Hub.
        example: (row, label names, where) to an example, or None for a row of another language.
        labels: names of label numbers where the set does not give them, by column.
        revision: a commit; "moving" for the newest; or `CONVERTED`, under which the Hub keeps what loading scripts made,
            since they no longer run. Digests in results are of the commit that was read, whichever it was.
        languages: which, in words.
        licence: of the data, as its authors state it.
        citation: authors, year and title.
    """

    name: str
    repository: str
    configurations: str | Mapping[str, str] = r"([a-z]{2,3})"
    splits: Mapping[str, str] = field(default_factory=lambda: TRAIN_DEV_TEST)
    example: Callable[[Row, LabelNames, str], Any]
    labels: LabelNames = field(default_factory=dict)
    revision: str = MOVING
    languages: str
    licence: str
    citation: str


def label_name(value: object, names: LabelNames, column: str) -> str:
    """The name of a label that may be given by its number."""
    return names[column][value] if isinstance(value, int) and column in names else str(value)
