"""A trim as a file of its own: everything but what the base model has already.

The file is JSON under xz: the kept ids as gaps, the tokenizer, the report and the card, digests of the base's files, and
digests of the files that come of it.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vocabmerge.errors import VocabularyError

FORMAT = "vocabmerge-patch/1"
_LARGEST = 2**28  # bytes of JSON; the largest vocabularies come to a tenth of it


@dataclass(frozen=True, kw_only=True)
class Patch:
    """What a trim adds to its base.

    Args:
        name: of the base's vocabulary.
        base: SHA-256 of each file of the base that matters, by its path there.
        made: SHA-256 of each file of the trimmed folder, by its path there.
        kept: old id of each new one [V_new], ascending.
        tokenizer: the parsed `tokenizer.json` of the result.
        texts: the other files whose text only the trim knows, by their paths: report and card.
        versions: of the libraries that made it.
    """

    name: str
    base: Mapping[str, str]
    made: Mapping[str, str]
    kept: NDArray[np.int64] = field(repr=False)
    tokenizer: dict[str, Any] = field(repr=False)
    texts: Mapping[str, str] = field(repr=False)
    versions: Mapping[str, str]


def write_patch(patch: Patch, file: Path) -> None:
    """Write a patch under a temporary name and rename it; the same patch gives the same bytes."""
    content = {name.name: getattr(patch, name.name) for name in fields(patch)}
    content["kept"] = np.diff(patch.kept, prepend=0).tolist()
    text = json.dumps({"format": FORMAT, **content}, ensure_ascii=False, separators=(",", ":"))
    packed = lzma.compress(text.encode("utf-8", "surrogatepass"), preset=9 | lzma.PRESET_EXTREME)
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        temporary = Path(folder) / file.name
        temporary.write_bytes(packed)
        temporary.replace(file)


def read_patch(file: Path) -> Patch:
    """Read a patch, or say what is wrong with it.

    Raises:
        VocabularyError: no such file, no patch, or a damaged one.
    """
    if not file.is_file():
        raise VocabularyError(f"{file}: no such patch; make one with `vocabmerge trim --patch`")
    try:
        content = json.loads(_unpacked(file.read_bytes()))
        if not isinstance(content, dict) or "format" not in content:
            raise ValueError("it has no format")
    except (lzma.LZMAError, EOFError, ValueError) as error:
        raise VocabularyError(
            f"{file}: expected a patch of `vocabmerge trim --patch`, got a damaged file or another one ({error}); fetch it again"
        ) from error
    if content["format"] != FORMAT:
        raise VocabularyError(
            f"{file}: expected the format {FORMAT}, got {content['format']!r}; use the vocabmerge that made it"
        )
    try:
        return _checked(content)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise VocabularyError(
            f"{file}: the patch contradicts itself ({error!r}); fetch it again"
        ) from error


def digests(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """SHA-256 of files of a folder, by their paths in it."""
    sums = {}
    for name in names:
        with (folder / name).open("rb") as file:
            sums[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return sums


def _unpacked(packed: bytes) -> str:
    unpacker = lzma.LZMADecompressor()
    content = unpacker.decompress(packed, max_length=_LARGEST)
    if not unpacker.eof or unpacker.unused_data:
        raise EOFError("it is cut off" if not unpacker.unused_data else "something follows it")
    return content.decode("utf-8", "surrogatepass")


def _checked(content: Mapping[str, Any]) -> Patch:
    kept = np.cumsum(np.array(content["kept"], dtype=np.int64))
    if kept.ndim != 1 or not len(kept) or kept[0] < 0 or np.any(np.diff(kept) <= 0):
        raise ValueError("kept ids do not ascend")
    tables = {}
    for name in ("base", "made", "texts", "versions"):
        tables[name] = {str(key): str(value) for key, value in content[name].items()}
    for place in (*tables["base"], *tables["made"], *tables["texts"]):
        if Path(place).is_absolute() or ".." in Path(place).parts:
            raise ValueError(f"{place} lies outside of the folder")
    if not isinstance(content["tokenizer"], dict):
        raise TypeError("no tokenizer")
    return Patch(name=str(content["name"]), kept=kept, tokenizer=content["tokenizer"], **tables)
