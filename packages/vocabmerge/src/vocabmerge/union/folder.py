"""Writes a union as folders that transformers opens, in one stroke."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from vocabmerge.errors import VocabularyError
from vocabmerge.union.merge import Merged
from vocabmerge.union.report import report_page
from vocabmerge.union.specials import tokenizer_config


def save_merged(merged: Merged, folder: str | Path) -> None:
    """Write the union tokenizer, `languages/`, `maps/`, `report.json` and `report.html`.

    Everything is written beside the goal first and renamed into place, so that a half-written folder is never found.

    Args:
        merged: what to write.
        folder: new, or empty.

    Raises:
        VocabularyError: something is there already, or a name cannot be a file's.

    Example:
        >>> def tiny(name, *words):
        ...     model = {"type": "WordLevel", "vocab": dict(zip(["?", *words], range(9))), "unk_token": "?"}
        ...     return parse_vocabulary({"model": model}, name=name)
        >>> union = merge_vocabularies([tiny("A", "a", "b"), tiny("B", "b", "c")], languages={"de": "A", "fi": "B"})
        >>> save_merged(union, "united")
        >>> from pathlib import Path
        >>> sorted(path.name for path in Path("united").iterdir())
        ['languages', 'maps', 'report.html', 'report.json', 'tokenizer.json', 'tokenizer_config.json']
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise VocabularyError(f"{folder}: exists and is not empty; choose a new folder")
    for name in [*merged.languages, *merged.maps]:
        if not name or name in (".", "..") or set(name) & set("/\\\0"):
            raise VocabularyError(f"expected a name that can be a file's, got {name!r}; rename it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        _write_tokenizer(temporary, merged.tokenizer, merged)
        for code, name in merged.languages.items():
            _write_tokenizer(temporary / "languages" / code, merged.teachers[name], merged)
        for name, vocabulary_map in merged.maps.items():
            vocabulary_map.save(temporary / "maps" / f"{name}.safetensors")
        _write_json(temporary / "report.json", merged.facts, indent=1)
        (temporary / "report.html").write_text(report_page(merged.facts), encoding="utf-8")
        temporary.chmod(0o755)
        if folder.exists():
            folder.rmdir()
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _write_tokenizer(folder: Path, tokenizer: dict[str, Any], merged: Merged) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "tokenizer.json", tokenizer)
    _write_json(
        folder / "tokenizer_config.json",
        tokenizer_config(merged.convention, merged.max_length),
        indent=2,
    )


def _write_json(path: Path, value: Any, indent: int | None = None) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=indent) + "\n", encoding="utf-8")
