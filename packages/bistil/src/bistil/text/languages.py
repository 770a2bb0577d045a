"""Which languages an extraction is for, and where their text lies: known before anything is opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bistil.errors import ExtractError
from teacherzoo.digests import digest_of_text
from vocabmerge.corpora import corpus_files
from vocabmerge.hub.texts import PREFIX

_ENDINGS = (".txt", ".txt.gz", ".txt.xz")
PAIR_ENDINGS = (*_ENDINGS, ".tsv", ".tsv.gz", ".tsv.xz")


def languages_of(
    source: str,
    targets: Sequence[str],
    corpora: Mapping[str, str | Path],
    sfts: Mapping[str, str | Path] | None = None,
    licences: Mapping[str, str] | None = None,
) -> tuple[str, ...]:
    """The languages of an extraction, the source first; it may be the only one.

    Raises:
        ExtractError: for a language that is named twice or without a corpus, and for what is given for a language that is not asked for.
    """
    languages = (source, *targets)
    if len({*languages}) != len(languages):
        raise ExtractError(
            f"Expected a source and target languages that all differ, got {', '.join(languages)}; name each once."
        )
    for language in languages:
        if language not in corpora:
            raise ExtractError(
                f"{language}: there is no corpus of this language, only of {', '.join(corpora) or 'none'}; "
                f"add {language}=FILE."
            )
    for what, given in (
        ("corpus", corpora),
        ("sparse fine-tuning", sfts or {}),
        ("licence", licences or {}),
    ):
        for language in given:
            if language not in languages:
                raise ExtractError(
                    f"{language}: a {what} is given, but the languages are {', '.join(languages)}; add it to the targets "
                    "or leave it out."
                )
    return languages


def text_files(
    language: str, source: str | Path, *, endings: tuple[str, ...] = _ENDINGS
) -> list[Path]:
    """The files of a corpus, or with `PAIR_ENDINGS` of a text of pairs, in order.

    Raises:
        ExtractError: where there is none.
    """
    path = Path(source)
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.name.endswith(endings))
    else:
        files = [path] if path.name.endswith(endings) else []
    if not files or not path.exists():
        raise ExtractError(
            f"{language}: expected a text file ({', '.join(endings)}) or a folder of such, got {str(source)!r}."
        )
    return files


def digests_of_sources(sources: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """What decides the text: of files their contents, of a data set of the Hub its name."""
    return {
        language: [
            source
            if source.startswith(PREFIX)
            else digest_of_text(language, [Path(file) for file in corpus_files(source)])
            for source in given
        ]
        for language, given in sources.items()
    }
