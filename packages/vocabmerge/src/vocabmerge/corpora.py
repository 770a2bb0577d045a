"""Reads the texts of files, plain or compressed, lines or records, and refuses what is not text."""

import bz2
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Literal, TypeVar

from vocabmerge.errors import VocabularyError

T = TypeVar("T")
Format = Literal["text", "json", "parquet"]
_FORMATS: Mapping[str, Format] = {".txt": "text", ".jsonl": "json", ".parquet": "parquet"}
_OPENERS: Mapping[str, Callable[[Path], Any]] = {
    ".gz": gzip.open,
    ".xz": lzma.open,
    ".bz2": bz2.open,
}
_OTHER_COMPRESSIONS = (".lz4", ".zip", ".zst")


def text_format(file: Path) -> Format | None:
    """What a file holds by its name, compressed or not: lines of text, records or rows; None for anything else.

    Example:
        >>> [text_format(Path(name)) for name in ("a.txt", "a.jsonl.gz", "a.xz", "a.csv")]
        ['text', 'json', 'text', None]
    """
    suffixes = [suffix.lower() for suffix in file.suffixes]
    if not suffixes or suffixes[-1] not in _OPENERS:
        return _FORMATS.get(suffixes[-1]) if suffixes else None
    kind = _FORMATS.get(suffixes[-2]) if len(suffixes) > 1 else "text"
    return None if kind == "parquet" else kind


def text_files(folder: Path) -> list[Path]:
    """A folder's files that hold text by their names, hidden ones aside, sorted by name.

    One that is compressed in a way that is not read is among them, to be refused rather than left out.
    """
    return [
        file
        for file in sorted(folder.iterdir())
        if file.is_file() and not file.name.startswith(".") and _names_text(file)
    ]


def read_corpus(path: str | Path) -> Iterator[str]:
    r"""Yield the lines of a UTF-8 file that are not blank; `.gz`, `.xz` and `.bz2` are decompressed.

    Args:
        path: the file: `.txt`, `.tsv`, or `.jsonl`, of whose records the lines of `text` are read.

    Yields:
        Lines without their ends.

    Raises:
        VocabularyError: no such file, or one of another name, damaged compression, bytes that are no UTF-8 and records without a
            text (with the line's number), or no text at all.

    Example:
        >>> from pathlib import Path
        >>> _ = Path("two.txt").write_text("one\n\ntwo\n")
        >>> list(read_corpus("two.txt"))
        ['one', 'two']
    """
    path = Path(path)
    refuse_missing({"": [path]})
    refuse_other_formats(path)
    return _or_refused(file_lines(path), path)


def file_lines(path: Path) -> Iterator[str]:
    """As `read_corpus`, of a file that may be empty."""
    if text_format(path) != "json":
        yield from file_texts(path)
        return
    for text in file_texts(path):
        yield from (line for line in text.splitlines() if line and not line.isspace())


def file_texts(path: Path, *, column: str = "text") -> Iterator[str]:
    """Yield the lines of a file, or the texts of its records, that are not blank; it may be empty.

    Args:
        path: the file.
        column: of a record's text.

    Raises:
        VocabularyError: see `read_corpus`.
    """
    if text_format(path) != "json":
        yield from (line for _, line in _lines(path))
        return
    for number, line in _lines(path):
        where = f"{path}, line {number}"
        text = text_of_record(parsed_record(line, where), column, where)
        if text and not text.isspace():
            yield text


def parsed_record(line: str, where: str) -> dict[str, Any]:
    """The record that a line of JSON Lines holds.

    Raises:
        VocabularyError: it holds none.
    """
    try:
        record = json.loads(line)
    except ValueError as error:
        raise VocabularyError(f"{where}: not a JSON record ({error})") from error
    if not isinstance(record, dict):
        raise VocabularyError(f"{where}: expected a record {{…}}, got {type(record).__name__}")
    return record


def text_of_record(record: Mapping[str, Any], column: str, where: str) -> str:
    """What stands in a column of a record.

    Raises:
        VocabularyError: there is no such column, or it holds no text, or text that no UTF-8 writes.
    """
    if column not in record:
        raise VocabularyError(
            f"{where}: no column {column!r}, only {sorted(record)}; name the text column"
        )
    text = record[column]
    if not isinstance(text, str):
        raise VocabularyError(f"{where}: {column!r} must be text, got {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise VocabularyError(
            f"{where}: {column!r} has {text[error.start]!a}, half of a character that takes two such codes; mend the record"
        ) from error
    return text


def numbered_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    r"""Every line of a file of any name that is not blank, with its number in the file, from 1.

    Raises:
        VocabularyError: see `read_corpus`.

    Example:
        >>> from pathlib import Path
        >>> _ = Path("three.txt").write_text("one\n\ntwo\n")
        >>> list(numbered_lines("three.txt"))
        [(1, 'one'), (3, 'two')]
    """
    path = Path(path)
    refuse_missing({"": [path]})
    return _or_refused(_lines(path), path)


def _or_refused(texts: Iterator[T], path: Path) -> Iterator[T]:
    for first in texts:
        yield first
        yield from texts
        return
    raise VocabularyError(
        f"{path}: the corpus is empty; give a file with at least one line of text"
    )


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    number = 0
    try:
        with _opened(path) as file:
            for number, raw in enumerate(file, start=1):
                line = line_text(raw)
                if line and not line.isspace():
                    yield number, line
    except UnicodeDecodeError as error:
        raise VocabularyError(
            f"{path}, line {number}: expected UTF-8 text, got byte 0x{error.object[error.start]:02x} at column "
            f"{error.start + 1}; convert the file, for example with iconv -t UTF-8"
        ) from error
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise VocabularyError(
            f"{path}: cannot read on ({reason}); fetch or compress the file again"
        ) from error


def _opened(path: Path) -> IO[bytes]:
    opener = _OPENERS.get(path.suffix.lower())
    return path.open("rb") if opener is None else io.BufferedReader(opener(path))


def line_text(raw: bytes) -> str:
    r"""The text of a file's line, UTF-8, without its end and a byte order mark; what is the same text has the same digest everywhere.

    Raises:
        UnicodeDecodeError: other bytes.

    Example:
        >>> line_text(b"\xef\xbb\xbfone\r\n")
        'one'
    """
    return raw.decode("utf-8").removeprefix("\ufeff").rstrip("\r\n")


def refuse_missing(corpora: Mapping[str, Sequence[str | Path]]) -> None:
    """Refuse corpus files that are not there, before anything slow begins.

    Raises:
        VocabularyError: naming the first of them.
    """
    for file in (file for files in corpora.values() for file in files):
        if not Path(file).is_file():
            raise VocabularyError(f"{file}: no such corpus file")


def sample_lines(lines: Iterable[str], most: int) -> list[str]:
    """At most `most` lines of a text, evenly spaced, in one pass and bounded memory.

    Args:
        lines: the text.
        most: how many lines to keep.

    Returns:
        Every n-th line, with the least n that is a power of two and gives no more than `most`.

    Raises:
        VocabularyError: fewer than one line is asked for.

    Example:
        >>> sample_lines("abcdefgh", 3)
        ['a', 'e']
    """
    if most < 1:
        raise VocabularyError(f"expected a sample of 1 line or more, got {most!r}")
    kept: list[str] = []
    stride = 1
    for number, line in enumerate(lines):
        if number % stride:
            continue
        if len(kept) == most:
            kept, stride = kept[::2], stride * 2
            if number % stride:
                continue
        kept.append(line)
    return kept


def corpus_files(source: str | Path) -> list[Path]:
    """The text files of a source: the file itself, or those of a folder, see `text_files`.

    Raises:
        VocabularyError: no such file or folder, a folder without text files, or a file that is not read here.

    Example:
        >>> from pathlib import Path
        >>> Path("texts").mkdir()
        >>> _ = Path("texts/b.txt").write_text("two"), Path("texts/a.txt").write_text("one")
        >>> [file.name for file in corpus_files("texts")]
        ['a.txt', 'b.txt']
    """
    path = Path(source)
    if not path.is_dir():
        refuse_missing({"": [path]})
    files = text_files(path) if path.is_dir() else [path]
    if not files:
        raise VocabularyError(
            f"{path}: expected .txt or .jsonl files in the folder (also with .gz, .xz or .bz2), found none; name a file"
        )
    for file in files:
        refuse_other_formats(file)
    return files


def refuse_other_formats(file: Path) -> None:
    """Refuse a file whose name says that it holds something else than lines or records; `.tsv` are lines of several texts.

    Raises:
        VocabularyError: naming it.
    """
    packed = file.suffix.lower() in _OPENERS
    columns = Path(file.stem if packed else file.name).suffix.lower() == ".tsv"
    if text_format(file) not in ("text", "json") and not columns:
        raise VocabularyError(
            f"{file}: expected a name ending in .txt or .jsonl (also with .gz, .xz or .bz2), got {''.join(file.suffixes)!r}; rename it "
            "where it is plain text, else write its text to such a file"
        )


def _names_text(file: Path) -> bool:
    packed_otherwise = file.suffix.lower() in _OTHER_COMPRESSIONS
    return text_format(file.with_suffix("") if packed_otherwise else file) is not None
