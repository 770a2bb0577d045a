"""Pairs of texts for models that read two at once: as they stand in a file, or made of its lines."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bistil.errors import ExtractError
from bistil.text.rows import lines_of
from teacherzoo import Corpus
from teacherzoo.cache import MADE, digest_of_values, made_once
from teacherzoo.digests import digest_of_text
from teacherzoo.progress import ProgressCallback

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
        CorpusError: for text that cannot be read.
    """
    ready = with_pairs(files)
    return {
        language: paths
        if language in ready
        else [_made_of_lines(language, paths, cache_dir, watch)]
        for language, paths in files.items()
    }


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
    return next((line for file in files for line in lines_of(file) if line.strip()), "")
