"""Text by language: one line or record a document, repeats dropped, split by content."""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import re
import zlib
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import IO, Any, Literal

from teacherzoo.catalogue.catalogue import is_local_path
from teacherzoo.errors import CorpusError, EmptyCorpusError
from teacherzoo.text.digest_set import Digests
from vocabmerge.corpora import line_text

Part = Literal["all", "train", "held_out"]

_FORMATS = {".txt": "text", ".jsonl": "json", ".parquet": "parquet"}
_COMPRESSIONS = (".gz", ".xz")
_OTHER_COMPRESSIONS = (".bz2", ".lz4", ".zip", ".zst")
DIGEST_BYTES = 16
_ROWS = 1000  # of a .parquet file that are held at once
# What a file that is cut off, or damaged inside, makes its reader raise.
_DAMAGE = (OSError, EOFError, lzma.LZMAError, zlib.error)


@dataclass(frozen=True, slots=True)
class Document:
    """One document, its text as it stands in the source.

    Attributes:
        text: never changed: no normalisation, no stripping; line ends and byte order marks of files are none of it.
        digest: BLAKE2b of the UTF-8 bytes, 16 bytes: the document's name everywhere downstream.
    """

    text: str
    digest: bytes


@dataclass(frozen=True)
class Corpus:
    r"""Documents of one language.

    Args:
        language: the tag that the documents carry downstream.
        source: a local file or folder (`.txt`, `.jsonl`, `.parquet`, the first two also `.gz` or `.xz`; of a folder the files
            that are not hidden, sorted by name), several files in the order in which they are read, or the name of a data
            set on the Hub, which is streamed.
        column: the text column of `.jsonl`, `.parquet` and Hub data.
        config: the Hub data set's configuration.
        split: the Hub data set's split.
        part: the documents to keep: all, those for training, or those held out.
        held_out_share: the share of documents held out, chosen by content: a document is on the same side in every
            corpus it occurs in, and adding text never moves it.
        limit: keep at most so many documents.

    Raises:
        CorpusError: on options that make no sense; reading raises it for undecodable bytes, broken records, a
            missing column, and a corpus without a document.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "en.txt"
        >>> _ = path.write_text("one line\none line\nanother line\n")
        >>> [document.text for document in Corpus("en", path).documents()]
        ['one line', 'another line']
    """

    language: str
    source: str | Path | tuple[Path, ...]
    _: KW_ONLY
    column: str = "text"
    config: str | None = None
    split: str = "train"
    part: Part = "all"
    held_out_share: float = 0.01
    limit: int | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", self.language):
            raise CorpusError(
                f"{self._name()}: a language tag is made of letters, digits, '-' and '_', got {self.language!r}."
            )
        if self.part not in ("all", "train", "held_out"):
            raise CorpusError(
                f"{self.language}: part must be 'all', 'train' or 'held_out', got {self.part!r}."
            )
        if not 0 <= self.held_out_share < 1:
            raise CorpusError(
                f"{self.language}: held_out_share must be in [0, 1), got {self.held_out_share!r}."
            )
        if self.limit is not None and self.limit < 1:
            raise CorpusError(f"{self.language}: limit must be at least 1, got {self.limit!r}.")

    def documents(self, *, start: int = 0) -> Generator[Document, None, None]:
        """The documents in source order, blank ones and repeats dropped, of the wanted part.

        Args:
            start: skip so many documents of this very sequence: where a reader stopped, it resumes exactly.

        Raises:
            CorpusError: see the class.
        """
        kept = every = 0
        seen = Digests()
        for text in self._texts():
            if not text or text.isspace():
                continue
            digest = document_digest(text)
            if not seen.add(digest):
                continue
            every += 1
            if not self._wanted(digest):
                continue
            if kept >= start:
                yield Document(text, digest)
            kept += 1
            if kept == self.limit:
                return
        if kept == 0 and every:
            raise EmptyCorpusError(
                f"{self.language}: of the {every} documents of {self._name()} none is in the part {self.part!r} at a held-out "
                f"share of {self.held_out_share}; choose another share, or give more text."
            )
        if kept == 0:
            raise EmptyCorpusError(
                f"{self.language}: {self._name()} holds no document; give a file with at least one line that is not blank."
            )

    def _wanted(self, digest: bytes) -> bool:
        if self.part == "all":
            return True
        held_out = is_held_out(digest, share=self.held_out_share)
        return held_out == (self.part == "held_out")

    def _texts(self) -> Iterator[str]:
        files = self.files()
        if files is None:
            yield from self._hub_texts()
        for file in files or ():
            yield from _READERS[_format(file)](file, self.column)

    def files(self) -> list[Path] | None:
        """The local files to read, in order; None for a data set on the Hub.

        Raises:
            CorpusError: where there is no such file, or nothing to read in a folder.
        """
        if isinstance(self.source, tuple):
            for file in self.source:
                if not file.is_file():
                    raise CorpusError(f"{self.language}: there is no file {file}.")
            return list(self.source)
        path = Path(self.source)
        if path.is_dir():
            files = _files_of(path)
            if not files:
                raise CorpusError(
                    f"{self.language}: the folder {path} holds no .txt, .jsonl or .parquet file."
                )
            return files
        if path.exists():
            _format(path)  # refuses what no corpus reads
            return [path]
        if isinstance(self.source, Path) or text_format(path) or is_local_path(self.source):
            raise CorpusError(f"{self.language}: there is no file {self.source}.")
        return None

    def _name(self) -> str:
        """The source, for messages."""
        if not isinstance(self.source, tuple):
            return str(self.source)
        more = len(self.source) - 1
        return f"{self.source[0]}" + (f" (and {more} more)" if more else "")

    def _hub_texts(self) -> Iterator[str]:
        import datasets

        name = str(self.source)
        try:
            rows = datasets.load_dataset(name, self.config, split=self.split, streaming=True)
            for number, row in enumerate(rows, start=1):
                yield _text_of(row, self.column, f"{name}, record {number}")
        except CorpusError:
            raise
        except (ValueError, OSError, RuntimeError) as error:  # the Hub's many faults are these
            raise CorpusError(
                f"{self.language}: {name!r} is no local file, and as a data set on the Hub it cannot be "
                f"read: {_one_line(error)}"
            ) from error


def document_digest(text: str) -> bytes:
    """The 16-byte name of a document: BLAKE2b of its UTF-8 bytes.

    Example:
        >>> document_digest("hello").hex()
        '46fb7408d4f285228f4af516ea25851b'
    """
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).digest()


def is_held_out(digest: bytes, *, share: float) -> bool:
    """Whether a document is held out: its digest, read as a number in [0, 1), lies below `share`."""
    return int.from_bytes(digest[:8], "big") < share * 2.0**64


def refuse_repeated_languages(corpora: Sequence[Corpus]) -> None:
    """Refuse several corpora of one language, of which only one would be heard.

    Raises:
        CorpusError: naming the language.
    """
    languages = [corpus.language for corpus in corpora]
    for language in languages:
        if languages.count(language) > 1:
            raise CorpusError(
                f"{language}: given twice; put its files into one folder and name that."
            )


def _files_of(folder: Path) -> list[Path]:
    """The text files of a folder, sorted by name; one that is compressed in another way is refused rather than left out."""
    files = []
    for file in sorted(folder.iterdir()):
        if file.name.startswith(".") or not file.is_file():
            continue
        if text_format(file):
            files.append(file)
        elif file.suffix in _OTHER_COMPRESSIONS and text_format(file.with_suffix("")):
            _format(file)
    return files


def _texts_of_lines(file: Path, _column: str) -> Iterator[str]:
    return (line for _, line in _numbered_lines(file))


def _texts_of_records(file: Path, column: str) -> Iterator[str]:
    for number, line in _numbered_lines(file):
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        try:
            record = json.loads(line)
        except ValueError as error:
            raise CorpusError(f"{where}: not a JSON record ({_one_line(error)}).") from error
        if not isinstance(record, dict):
            raise CorpusError(f"{where}: expected a record {{…}}, got {type(record).__name__}.")
        text = _text_of(record, column, where)
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise CorpusError(
                f"{where}: {column!r} has {text[error.start]!a}, half of a character that takes two such codes; mend the record."
            ) from error
        yield text


def _texts_of_rows(file: Path, column: str) -> Iterator[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(file) as opened:
            names = opened.schema_arrow.names
            if column not in names:
                raise _missing(column, names, str(file))
            for batch in opened.iter_batches(batch_size=_ROWS, columns=[column]):
                for row in batch.to_pylist():
                    number += 1
                    yield _text_of(row, column, f"{file}, record {number}")
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise CorpusError(f"{file}: not a readable Parquet file ({_one_line(error)}).") from error


_READERS = {"text": _texts_of_lines, "json": _texts_of_records, "parquet": _texts_of_rows}


def _text_of(record: Mapping[str, Any], column: str, where: str) -> str:
    if column not in record:
        raise _missing(column, record, where)
    text = record[column]
    if not isinstance(text, str):
        raise CorpusError(f"{where}: {column!r} must be text, got {type(text).__name__}.")
    return text


def _missing(column: str, names: Iterable[str], where: str) -> CorpusError:
    return CorpusError(
        f"{where}: no column {column!r}, only {sorted(names)}; name the text column."
    )


def _numbered_lines(file: Path) -> Iterator[tuple[int, str]]:
    """Every line with its number, as `vocabmerge` reads it."""
    number = 0
    try:
        with _open_binary(file) as lines:
            for number, line in enumerate(lines, start=1):
                yield number, line_text(line)
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{file}, line {number}: byte {error.start + 1} (0x{error.object[error.start]:02x}) is not UTF-8; convert the file to "
            "UTF-8."
        ) from error
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.strerror:
            raise CorpusError(f"{file}: cannot be read ({error.strerror}).") from error
        raise CorpusError(
            f"{file}: the compressed file is damaged ({_one_line(error)}); fetch it again."
        ) from error


def text_format(file: Path) -> str | None:
    """`"text"`, `"json"` or `"parquet"` by a file's name, compressed or not; None for what no corpus reads."""
    suffixes = file.suffixes
    if suffixes and suffixes[-1] in _COMPRESSIONS:
        kind = _FORMATS.get(suffixes[-2]) if len(suffixes) > 1 else None
        return kind if kind != "parquet" else None
    return _FORMATS.get(file.suffix)


def _format(file: Path) -> str:
    kind = text_format(file)
    if kind is None:
        raise CorpusError(
            f"{file}: expected a name ending in .txt, .jsonl (also with .gz or .xz) or .parquet, "
            f"got {''.join(file.suffixes)!r}."
        )
    return kind


def _open_binary(file: Path) -> IO[bytes]:
    import gzip

    if file.suffix == ".gz":
        return io.BufferedReader(gzip.open(file))
    if file.suffix == ".xz":
        return io.BufferedReader(lzma.open(file))
    return file.open("rb")


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
