"""The texts of a data set on the Hugging Face Hub, streamed: no more is fetched than is read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vocabmerge.errors import VocabularyError

PREFIX = "hub:"
_FORM = "hub:NAME[:CONFIG[:SPLIT]]"


def hub_lines(source: str) -> Iterator[str]:
    """The lines of a data set's texts in its order, blank ones left out.

    Args:
        source: `hub:NAME[:CONFIG[:SPLIT]]`; the split is `train` unless named. The text is the column `text`, or the
            only column of strings.

    Raises:
        VocabularyError: no such data set, configuration or split, no connection, or no column that must be the text.
    """
    name, config, split = parse_hub_source(source)
    try:
        import datasets
    except ImportError as error:
        raise VocabularyError(
            f"{source}: data sets of the Hub need datasets: pip install 'vocabmerge[hub]'"
        ) from error
    any_text = False
    try:
        rows: Any = datasets.load_dataset(name, config, split=split, streaming=True)
        column = ""
        for row in rows:
            column = column or _text_column(source, row)
            for line in row[column].splitlines():
                if line and not line.isspace():
                    any_text = True
                    yield line
    except VocabularyError:
        raise
    except (
        ValueError,
        OSError,
        RuntimeError,
        KeyError,
    ) as error:  # the Hub's many faults are these
        reason = " ".join(str(error).split()) or type(error).__name__
        raise VocabularyError(
            f"{source}: cannot read this data set of the Hub ({reason}); see to its name, configuration, split and the "
            "connection, or pass a file"
        ) from error
    if not any_text:
        raise VocabularyError(f"{source}: the data set holds no text; name another one")


def parse_hub_source(source: str) -> tuple[str, str | None, str]:
    """Name, configuration and split of a source.

    Raises:
        VocabularyError: another form.

    Example:
        >>> parse_hub_source("hub:wikimedia/wikipedia:20231101.sw")
        ('wikimedia/wikipedia', '20231101.sw', 'train')
    """
    parts = source.removeprefix(PREFIX).split(":")
    if len(parts) > 3 or not parts[0] or "" in parts[2:]:
        raise VocabularyError(f"expected {_FORM}, got {source!r}")
    name, config, split = (*parts, "", "")[:3]
    return name, config or None, split or "train"


def _text_column(source: str, row: dict[str, Any]) -> str:
    columns = [name for name, value in row.items() if isinstance(value, str)]
    if "text" in columns:
        return "text"
    if len(columns) != 1:
        raise VocabularyError(
            f"{source}: expected a column 'text' or a single column of strings, got {', '.join(map(repr, row))}; "
            "write the texts to a file, a line each, and pass that"
        )
    return columns[0]
