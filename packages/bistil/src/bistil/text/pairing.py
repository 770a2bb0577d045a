"""Pairs of texts for models that read two at once: as they stand in a file, or made of its lines."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bistil.errors import ExtractError
from teacherzoo import Corpus
from teacherzoo.cache import MADE, digest_of_values, made_once
from teacherzoo.digests import digest_of_text
from teacherzoo.progress import ProgressCallback
from teacherzoo.text.corpora import Part, document_digest, is_held_out
from vocabmerge.corpora import numbered_lines, read_corpus

_FAR = 1000  # lines


def with_pairs(files: Mapping[str, Sequence[Path]]) -> list[str]:
    """The languages whose text is of lines `first TAB second`, told by its first line."""
    return [language for language, paths in files.items() if "\t" in _first_line(paths)]


def paired_files(
    files: Mapping[str, Sequence[Path]], cache_dir: Path, *, watch: ProgressCallback
) -> dict[str, Sequence[Path]]:
    """Per language files of lines `first TAB second`: its own, or one made of its lines.

    Each line is paired with the one behind it and, by turns, with one far from it, the 1,000th before or the first: so a
    reranker sees texts that belong together and texts that do not. What they are worth to one another its teacher says.

    Args:
        files: per language.
        cache_dir: where pairs are made once and stay.
        watch: told (done, total, what).

    Raises:
        ExtractError: for a text of a single line.
        CorpusError, VocabularyError: for text that cannot be read, or is none.
    """
    ready = with_pairs(files)
    return {
        language: paths
        if language in ready
        else [_made_of_lines(language, paths, cache_dir, watch)]
        for language, paths in files.items()
    }


def pairs_of(
    files: Sequence[Path], *, part: Part = "all", held_out_share: float = 0.0
) -> Iterator[tuple[str, str]]:
    """The pairs in files of lines `first TAB second`, blank lines and repeats dropped.

    Args:
        files: of UTF-8 text, also `.gz` and `.xz`.
        part: which pairs.
        held_out_share: of them, by content.

    Raises:
        ExtractError: naming file and line, for a line without exactly two columns that are not blank.
        VocabularyError: for a file that cannot be read, or has no text.
    """
    seen = set()
    for file in files:
        for number, line in numbered_lines(file):
            columns = line.split("\t")
            if len(columns) != 2 or not all(column.strip() for column in columns):
                filled = sum(bool(column.strip()) for column in columns)
                raise ExtractError(
                    f"{file}, line {number}: expected two columns with a tabulator between them, got {len(columns)}"
                    + (f", of which {filled} with text" if filled < len(columns) else "")
                    + "; write a sentence, a tabulator and its counterpart."
                )
            digest = document_digest(line)
            if digest in seen:
                continue
            seen.add(digest)
            if part == "all" or is_held_out(digest, share=held_out_share) == (part == "held_out"):
                yield columns[0], columns[1]


def _made_of_lines(
    language: str, files: Sequence[Path], cache_dir: Path, watch: ProgressCallback
) -> Path:
    inputs = {"text": digest_of_text(language, files), "far": _FAR}
    folder = cache_dir / f"{language}-pairs-{digest_of_values(inputs)[:16]}"

    def make(work: Path) -> None:
        (work / MADE).mkdir()
        with (work / MADE / "pairs.txt").open("w", encoding="utf-8", newline="\n") as out:
            out.writelines(
                f"{first}\t{second}\n" for first, second in _pairs(Corpus(language, tuple(files)))
            )
        if not (work / MADE / "pairs.txt").stat().st_size:
            raise ExtractError(
                f"{language}: {', '.join(map(str, files))} has one line, of which no pair can be made; give more text."
            )

    return made_once(folder, inputs, make, watch=watch) / "pairs.txt"


def _pairs(corpus: Corpus) -> Iterator[tuple[str, str]]:
    before: deque[str] = deque(maxlen=_FAR)
    for document in corpus.documents():
        text = " ".join(document.text.split())
        if before:
            yield before[-1], text
        if len(before) > 1:
            yield text, before[0]
        before.append(text)


def _first_line(files: Sequence[Path]) -> str:
    return next(line for file in files for line in read_corpus(file))
