"""What a model's card says to the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def card_metadata(folder: Path) -> dict[str, Any]:
    r"""The header of a folder's README.md; empty where there is none, or none that the Hub would understand.

    Example:
        >>> _ = Path("README.md").write_text("---\nlicense: mit\n---\n\n# A model\n")
        >>> card_metadata(Path())
        {'license': 'mit'}
    """
    from huggingface_hub import metadata_load
    from yaml import YAMLError

    readme = folder / "README.md"
    if not readme.is_file():
        return {}
    try:
        return metadata_load(readme) or {}
    except (ValueError, YAMLError):
        return {}
