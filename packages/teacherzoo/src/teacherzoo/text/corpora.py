"""Text by language: one line or record a document, repeats dropped, split by content."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Generator, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Literal

from teacherzoo.catalogue.catalogue import is_local_path
from teacherzoo.errors import CorpusError, EmptyCorpusError
from teacherzoo.text.digest_set import Digests
from teacherzoo.text.words import has_words
from vocabmerge.corpora import file_texts, text_files, text_format, text_of_record
from vocabmerge.errors import VocabularyError

Part = Literal["all", "train", "held_out"]

DIGEST_BYTES = 16
_ROWS = 1000  # of a .parquet file that are held at once


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
        source: a local file or folder (`.txt`, `.jsonl`, `.parquet`, the first two also `.gz`, `.xz` or `.bz2`; of a folder the files
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
            if not has_words(text):
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
            try:
                reads = _texts_of_rows if _format(file) == "parquet" else file_texts
                yield from reads(file, column=self.column)
            except VocabularyError as error:
                raise CorpusError(f"{error}.") from error

    def files(self) -> list[Path] | None:
        """The local files to read, in order; None for a data set on the Hub.

        Raises:
            CorpusError: where there is no such file, or nothing to read in a folder.
        """
        if isinstance(self.source, tuple):
            for file in self.source:
                if not file.is_file():
                    raise CorpusError(f"{self.language}: there is no file {file}; give its path.")
            return list(self.source)
        path = Path(self.source)
        if path.is_dir():
            files = text_files(path)
            for file in files:
                _format(file)
            if not files:
                raise CorpusError(
                    f"{self.language}: the folder {path} holds no .txt, .jsonl or .parquet file; name one with text."
                )
            return files
        if path.exists():
            _format(path)  # refuses what no corpus reads
            return [path]
        if isinstance(self.source, Path) or text_format(path) or is_local_path(self.source):
            raise CorpusError(f"{self.language}: there is no file {self.source}; give its path.")
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
                yield text_of_record(row, self.column, f"{name}, record {number}")
        except VocabularyError as error:
            raise CorpusError(f"{error}.") from error
        except (ValueError, OSError, RuntimeError) as error:  # the Hub's many faults are these
            raise CorpusError(
                f"{self.language}: {name!r} is no local file, and as a data set on the Hub it cannot be "
                f"read: {_one_line(error).rstrip('.')}; give the path of its text, or the name of a data set, OWNER/NAME."
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


def _texts_of_rows(file: Path, *, column: str) -> Iterator[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(file) as opened:
            names = opened.schema_arrow.names
            if column not in names:
                text_of_record(dict.fromkeys(names), column, str(file))
            for batch in opened.iter_batches(batch_size=_ROWS, columns=[column]):
                for row in batch.to_pylist():
                    number += 1
                    yield text_of_record(row, column, f"{file}, record {number}")
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise CorpusError(f"{file}: not a readable Parquet file ({_one_line(error)}).") from error


def _format(file: Path) -> str:
    kind = text_format(file)
    if kind is None:
        raise CorpusError(
            f"{file}: expected a name ending in .txt, .jsonl (also with .gz, .xz or .bz2) or .parquet, "
            f"got {''.join(file.suffixes)!r}; rename it where it is plain text."
        )
    return kind


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
