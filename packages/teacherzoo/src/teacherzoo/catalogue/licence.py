"""The licence that binds whoever uses a teacher."""

from __future__ import annotations

from pathlib import Path

from teacherzoo.catalogue.catalogue import read_catalogue
from vocabmerge.hub.card_metadata import card_metadata

UNKNOWN = "not known: look it up"


def licence_of(source: str) -> str | None:
    """Of a teacher: as the catalogue has it, or its own folder's card; None where neither says.

    Args:
        source: a Hub name, or a folder.

    Example:
        >>> licence_of("FacebookAI/xlm-roberta-base")
        'MIT'
    """
    stated = {entry.hub: entry.licence for entry in read_catalogue()}.get(source)
    if stated is None:
        stated = card_metadata(Path(source)).get("license")
    return None if stated is None else str(stated)
