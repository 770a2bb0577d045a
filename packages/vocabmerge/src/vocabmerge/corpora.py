"""Reads the lines of a text corpus, plain or compressed, and refuses what is not text."""

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from vocabmerge.errors import VocabularyError

_OPENERS: dict[str, Callable[[Path], BinaryIO | gzip.GzipFile | lzma.LZMAFile | bz2.BZ2File]] = {
    ".gz": gzip.open,
    ".xz": lzma.open,
    ".bz2": bz2.open,
}


def read_corpus(path: str | Path) -> Iterator[str]:
    r"""Yield the lines of a UTF-8 text file that are not blank; `.gz`, `.xz` and `.bz2` are decompressed.

    Args:
        path: the file.

    Yields:
        Lines without their line ends.

    Raises:
        VocabularyError: no such file, damaged compression, bytes that are no UTF-8 (with the line's number), or no
            text at all.

    Example:
        >>> from pathlib import Path
        >>> _ = Path("two.txt").write_text("one\n\ntwo\n")
        >>> list(read_corpus("two.txt"))
        ['one', 'two']
    """
    for _, line in numbered_lines(path):
        yield line


def numbered_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    r"""As `read_corpus`, every line with its number in the file, from 1.

    Example:
        >>> from pathlib import Path
        >>> _ = Path("three.txt").write_text("one\n\ntwo\n")
        >>> list(numbered_lines("three.txt"))
        [(1, 'one'), (3, 'two')]
    """
    path = Path(path)
    if not path.is_file():
        raise VocabularyError(f"{path}: no such corpus file")
    number = 0
    any_text = False
    try:
        with _OPENERS.get(path.suffix, _open_plain)(path) as file:
            for raw in file:
                number += 1
                line = line_text(raw)
                if line and not line.isspace():
                    any_text = True
                    yield number, line
    except UnicodeDecodeError as error:
        raise VocabularyError(
            f"{path}, line {number}: expected UTF-8 text, got byte 0x{error.object[error.start]:02x} at column "
            f"{error.start + 1}; convert the file, for example with iconv -t UTF-8"
        ) from error
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise VocabularyError(
            f"{path}, after line {number}: cannot read on ({error}); fetch or compress the file again"
        ) from error
    if not any_text:
        raise VocabularyError(
            f"{path}: the corpus is empty; give a file with at least one line of text"
        )


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
    """The text files of a source: the file itself, or a folder's `.txt` files, compressed or not, sorted by name.

    Raises:
        VocabularyError: no such file or folder, or a folder without text files.

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
        return [path]
    files = sorted(file for file in path.iterdir() if file.is_file() and _is_text(file))
    if not files:
        raise VocabularyError(
            f"{path}: expected .txt files in the folder (also with .gz, .xz or .bz2), found none; name a file"
        )
    return files


def _open_plain(path: Path) -> BinaryIO:
    return path.open("rb")


def _is_text(file: Path) -> bool:
    return file.suffix == ".txt" or file.suffix in _OPENERS
