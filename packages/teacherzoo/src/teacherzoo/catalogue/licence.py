"""The licence that binds whoever uses a teacher."""

from __future__ import annotations

from pathlib import Path

from teacherzoo.catalogue.catalogue import read_catalogue

UNKNOWN = "not known: look it up"


def licence_of(source: str) -> str | None:
    """Of a teacher: as the catalogue has it, or its own folder's card; None where neither says.

    Args:
        source: a Hub name, or a folder.

    Example:
        >>> licence_of("FacebookAI/xlm-roberta-base")
        'MIT'
    """
    from huggingface_hub import metadata_load

    stated = {entry.hub: entry.licence for entry in read_catalogue()}.get(source)
    readme = Path(source) / "README.md"
    if stated is None and readme.is_file():
        stated = (metadata_load(readme) or {}).get("license")
    return None if stated is None else str(stated)
