"""The text of each language, fetched once: lines to train on, and lines kept out for the figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bistil.counted import counted
from bistil.errors import MakeError
from bistil.text.languages import digests_of_sources
from teacherzoo.cache import MADE, digest_of_values, made_once
from teacherzoo.progress import ProgressCallback
from vocabmerge import Kind, Layout
from vocabmerge.corpora import read_corpus
from vocabmerge.hub.texts import PREFIX
from vocabmerge.language_texts import LanguageText, evenly_spread

PUBLIC_TEXT = "hub:wikimedia/wikipedia:20231101.{language}"
"""What a language without a text of the user's is read from."""
_LEAST = 40


@dataclass(frozen=True, kw_only=True)
class SplitText:
    """Two files of one language.

    Attributes:
        training: to choose pieces and to train on.
        judged: lines that are in no part of it.
    """

    training: Path
    judged: Path

    def judged_lines(self) -> list[str]:
        """The lines kept out."""
        return list(read_corpus(self.judged))


def sources_of(
    languages: Sequence[str], texts: Mapping[str, Sequence[str]]
) -> dict[str, list[str]]:
    """Per language what its text is read from: the user's, else Wikipedia's on the Hub.

    Raises:
        MakeError: for no language, one twice, or a text of a language that is not asked for.

    Example:
        >>> sources_of(["en", "sw"], {"en": ["news.txt"]})
        {'en': ['news.txt'], 'sw': ['hub:wikimedia/wikipedia:20231101.sw']}
    """
    if len(set(languages)) != len(languages) or not languages or not all(languages):
        raise MakeError(
            f"--languages must name one language or more, each once, such as en,sw; got {','.join(languages)!r}."
        )
    for language in texts:
        if language not in languages:
            raise MakeError(
                f"--text {language}: the languages are {', '.join(languages)}; add it to --languages, or leave it out."
            )
    return {
        language: list(texts.get(language, [PUBLIC_TEXT.format(language=language)]))
        for language in languages
    }


def require_one_form(sources: Mapping[str, Sequence[str]], layout: Layout) -> None:
    """Refuse a classifier's text that is of pairs in some languages and of single texts in others, before any of it is read.

    Of a reranker's lines pairs are made where they are none. Data sets of the Hub are opened only beside files of pairs.

    Raises:
        MakeError: naming two of the languages.
        VocabularyError: for text that cannot be read.
    """
    if layout.kind is not Kind.CLASSIFIER or layout.reranker:
        return
    local = [language for language, given in sources.items() if not all(source.startswith(PREFIX) for source in given)]  # fmt: skip
    paired = [language for language in local if _begins_with_a_pair(sources[language])]
    others = [language for language in sources if language not in paired]
    single = [language for language in others if language in local or (paired and not _begins_with_a_pair(sources[language]))]  # fmt: skip
    if paired and single:
        raise MakeError(
            f"{single[0]}: its text has one column and that of {paired[0]} two; give both lines `first TAB second`, or both without."
        )


def _begins_with_a_pair(sources: Sequence[str]) -> bool:
    lines = map(str.strip, LanguageText(sources, lines=None))
    return "\t" in next(filter(None, lines), "")


def split_text(
    language: str,
    sources: Sequence[str],
    folder: Path,
    *,
    lines: int,
    judged: int,
    columns: bool = False,
    watch: ProgressCallback,
) -> SplitText:
    """Write both files of a language, made once; repeated lines are dropped.

    A tabulator is a space, but where the model reads two texts at once and the first line has one: then all lines are
    `first TAB second`.

    Args:
        language: of the text.
        sources: files, folders, `hub:NAME[:CONFIG[:SPLIT]]`.
        folder: in which they stay.
        lines: at most so many in all.
        judged: of them, how many are kept out of training, evenly spread; a tenth where that is less.
        columns: whether the model may read two texts at once, as sequence classifiers and rerankers do.
        watch: told (done, total, what).

    Raises:
        MakeError: for too little text, and for some lines of two columns among others.
        VocabularyError: for text that cannot be read.
    """
    inputs = {"sources": digests_of_sources({language: sources}), "lines": lines, "judged": judged, "columns": columns}  # fmt: skip

    def make(work: Path) -> None:
        watch(0, 0, f"reading {language}")
        read = [line for line in map(str.strip, LanguageText(sources, lines=lines)) if line]
        if columns and read and "\t" in read[0]:
            _require_pairs(language, sources, read)
        else:
            read = [line.replace("\t", " ") for line in read]
        text = list(dict.fromkeys(read))
        if len(text) < _LEAST:
            raise MakeError(
                f"{language}: {', '.join(sources)} has {counted(len(text), 'different line')}, and {_LEAST} are the least to make a "
                "model of; give more text."
            )
        kept_out = list(evenly_spread(text, min(judged, len(text) // 10)))
        without = set(kept_out)
        (work / MADE).mkdir()
        for name, part in (
            (f"{language}.txt", [line for line in text if line not in without]),
            ("judged.txt", kept_out),
        ):
            (work / MADE / name).write_text("\n".join(part) + "\n", encoding="utf-8")

    place = folder / f"text-{language}-{digest_of_values(inputs)[:16]}"
    made = made_once(place, inputs, make, watch=watch)
    return SplitText(training=made / f"{language}.txt", judged=made / "judged.txt")


def _require_pairs(language: str, sources: Sequence[str], lines: Sequence[str]) -> None:
    for line in lines:
        parts = line.split("\t")
        if len(parts) != 2 or not all(map(str.strip, parts)):
            raise MakeError(
                f"{language}: {', '.join(sources)} begins with a line `first TAB second`, and {line!r:.60} is none; give every line two "
                "texts with a tabulator between them, or one."
            )
