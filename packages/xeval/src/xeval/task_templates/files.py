"""Files of data: plain, xz or gzip; whole texts, and columns separated by tabs."""

import gzip
import hashlib
import json
import lzma
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from xeval.errors import XevalError

UNPACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".xz": lzma.decompress,
    ".gz": gzip.decompress,
}
"""What a file's ending says of how it is packed."""


def read_text(path: Path) -> tuple[str, str]:
    """The text of a plain, .xz or .gz file, and the digest of its bytes.

    Raises:
        XevalError: when it cannot be read, is damaged, is empty or is not UTF-8.
    """
    try:
        content = path.read_bytes()
        raw = UNPACKERS.get(path.suffix, bytes)(content)
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise XevalError(f"{path}: cannot be read ({error}); fetch the file again") from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise XevalError(
            f"{path}:{line}: expected UTF-8 text, got the byte {raw[error.start : error.start + 1]!r}; convert the file"
        ) from error
    if not text.strip():
        raise XevalError(f"{path}: the file is empty, so there is nothing to score")
    return text, hashlib.sha256(content).hexdigest()


def read_columns(path: Path, columns: Sequence[str]) -> list[tuple[int, list[str]]]:
    """Rows of a tab-separated file, with their line numbers.

    A first line of exactly these names, among others, is a header and gives the places of the columns; without one
    the columns stand in this order, and nothing else.

    Raises:
        XevalError: naming file and line, for a row with another number of fields or an empty one.
    """
    text, _ = read_text(path)
    lines = text.split("\n")
    header = lines[0].rstrip("\r").split("\t")
    headed = set(columns) <= set(header)
    places = [header.index(name) for name in columns] if headed else list(range(len(columns)))
    width = len(header) if headed else len(columns)
    rows = []
    for number, line in enumerate(lines[headed:], start=1 + headed):
        fields = line.rstrip("\r").split("\t")
        if fields == [""]:
            continue
        if len(fields) != width:
            raise XevalError(
                f"{path}:{number}: expected {width} fields separated by tabs ({', '.join(header if headed else columns)}), got {len(fields)}"
            )
        chosen = [fields[place].strip() for place in places]
        if "" in chosen:
            raise XevalError(f"{path}:{number}: the field {columns[chosen.index('')]!r} is empty")
        rows.append((number, chosen))
    if not rows:
        raise XevalError(f"{path}: holds no row; expected {', '.join(columns)}")
    return rows


def read_json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Objects of a file with one a line, each with its file and line for messages.

    Raises:
        XevalError: naming file and line, for a line that is no object.
    """
    text, _ = read_text(path)
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise XevalError(f"{where}: expected an object of JSON, got {error}") from error
        if not isinstance(row, dict):
            raise XevalError(f"{where}: expected an object of JSON, got {row!r:.80}")
        yield where, row
