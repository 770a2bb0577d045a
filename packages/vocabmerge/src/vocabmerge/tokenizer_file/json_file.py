"""Reads JSON files, or says what is wrong with them."""

import json
from pathlib import Path
from typing import Any

from vocabmerge.errors import VocabularyError


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, or what is wrong with it."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise VocabularyError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise VocabularyError(
            f"{path}: expected JSON, cannot read it ({error}); fetch or save the file again"
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """Parse a JSON file, or say what is wrong with it."""
    try:
        parsed = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise VocabularyError(
            f"{path}: expected JSON, cannot read it ({error}); fetch or save the file again"
        ) from error
    if not isinstance(parsed, dict):
        raise VocabularyError(f"{path}: expected a JSON object, got {type(parsed).__name__}")
    return parsed
