"""CoNLL-U: the words, tags and trees of a treebank, parsed once and cached."""

import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xeval.errors import XevalError
from xeval.task_templates.files import read_text
from xeval.task_templates.hub import HubSet, LabelNames, Row

UPOS = (
    *("ADJ", "ADP", "ADV", "AUX", "CCONJ", "DET", "INTJ", "NOUN", "NUM"),
    *("PART", "PRON", "PROPN", "PUNCT", "SCONJ", "SYM", "VERB", "X"),
)
_COLUMNS = 10
_CACHE_VERSION = 1

_log = logging.getLogger("xeval")


@dataclass(frozen=True, slots=True)
class Sentence:
    """The syntactic words of one sentence; multiword-token ranges and empty nodes are left out.

    Args:
        words: forms.
        tags: universal parts of speech, "_" where there is none.
        heads: number of the head word, 0 for the root; empty where the file gives no tree.
        relations: universal relations, the part before ":"; empty where the file gives no tree.
        line: where the sentence begins in its file.
    """

    words: tuple[str, ...]
    tags: tuple[str, ...]
    heads: tuple[int, ...]
    relations: tuple[str, ...]
    line: int


def cache_folder() -> Path:
    """Where parsed treebanks are kept: $XEVAL_CACHE, else xeval in $XDG_CACHE_HOME, else in ~/.cache."""
    if chosen := os.environ.get("XEVAL_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "xeval"


def read_treebank(path: Path, *, cache: Path | None = None) -> list[Sentence]:
    """Read a CoNLL-U file; the second time from a cache that is keyed by the file's content.

    Args:
        path: plain, .xz or .gz.
        cache: folder of the cache; `cache_folder()` when None.

    Raises:
        XevalError: naming file and line, for anything that is not CoNLL-U.
    """
    text, digest = read_text(path)
    kept = (cache or cache_folder()) / f"treebank-{_CACHE_VERSION}" / f"{digest[:32]}.json"
    if kept.is_file():
        try:
            return [
                Sentence(tuple(words), tuple(tags), tuple(heads), tuple(relations), line)
                for words, tags, heads, relations, line in json.loads(kept.read_bytes())
            ]
        except (ValueError, TypeError):
            _log.warning("%s: damaged, so the treebank is parsed again", kept)
    sentences = list(parse_treebank(text, path))
    _keep(kept, sentences)
    return sentences


def universal_dependencies(example: Callable[[Row, LabelNames, str], Any]) -> HubSet:
    """The treebanks of the Hub, for a task that makes its examples of their rows."""
    return HubSet(
        name="ud",
        repository="universal-dependencies/universal_dependencies",
        configurations=r"([a-z]{2,3})_[a-z]+",
        example=example,
        languages="more than 100, each treebank a set of its own, such as de_gsd",
        licence="one for each treebank, most of them a Creative Commons licence",
        citation="de Marneffe, Manning, Nivre, Zeman 2021: Universal Dependencies",
    )


def word_rows(row: Row) -> list[int]:
    """Where the syntactic words of a sentence of the Hub are: neither multiword ranges nor empty nodes."""
    ids = row.get("idx") or list(map(str, range(1, len(row["tokens"]) + 1)))
    return [i for i, number in enumerate(ids) if str(number).isdigit()]


def parse_treebank(text: str, path: Path) -> Iterator[Sentence]:
    """Parse CoNLL-U text; `path` is for messages."""
    block: list[str] = []
    start, some = 1, False
    for number, line in enumerate([*text.split("\n"), ""], start=1):
        line = line.removesuffix("\r")
        if line.strip():
            start = start if block else number
            block.append(line)
        elif block:
            if any(not line.startswith("#") for line in block):
                some = True
                yield _parse_sentence(block, start, path)
            block = []
    if not some:
        raise XevalError(f"{path}: holds no sentence; expected CoNLL-U")


def _parse_sentence(block: list[str], start: int, path: Path) -> Sentence:
    from conllu import parse
    from conllu.exceptions import ParseException

    lines = []
    for number, line in enumerate(block, start=start):
        if line.startswith("#"):
            continue
        if (columns := line.count("\t") + 1) != _COLUMNS:
            raise XevalError(
                f"{path}:{number}: expected {_COLUMNS} columns separated by tabs, got {columns} in {line[:60]!r}"
            )
        lines.append((number, line))
    try:
        (tokens,) = parse(
            "\n".join(line for _, line in lines) + "\n\n", field_parsers=_FIELD_PARSERS
        )
    except (ParseException, ValueError) as error:
        raise XevalError(f"{path}:{start}: not a CoNLL-U sentence: {error}") from error
    words = [
        (number, token)
        for (number, _), token in zip(lines, tokens, strict=True)
        if isinstance(token["id"], int)
    ]
    for position, (number, token) in enumerate(words, start=1):
        if token["id"] != position:
            raise XevalError(
                f"{path}:{number}: expected word {position}, got the id {token['id']!r}"
            )
    if not words:
        raise XevalError(f"{path}:{start}: the sentence has no word")
    heads = tuple(_head(token["head"], len(words), path, number) for number, token in words)
    whole = None not in heads
    return Sentence(
        words=tuple(token["form"] for _, token in words),
        tags=tuple(token["upos"] for _, token in words),
        heads=tuple(head for head in heads if head is not None) if whole else (),
        relations=tuple(token["deprel"].partition(":")[0] for _, token in words) if whole else (),
        line=start,
    )


def _head(text: str, words: int, path: Path, number: int) -> int | None:
    if text == "_":
        return None
    if not text.isascii() or not text.isdigit() or int(text) > words:
        raise XevalError(f"{path}:{number}: expected a head from 0 to {words}, got {text!r}")
    return int(text)


def _plain(line: list[str], column: int) -> str:
    return line[column]


# Features and the like are never used here, and parsing them is most of the time.
_FIELD_PARSERS: dict[str, Any] = dict.fromkeys(
    ("form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc"), _plain
)


def _keep(target: Path, sentences: list[Sentence]) -> None:
    rows = [[s.words, s.tags, s.heads, s.relations, s.line] for s in sentences]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=".", suffix=".part")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(rows, file, ensure_ascii=False, separators=(",", ":"))
        Path(name).replace(target)
    except OSError as error:
        _log.warning("%s: the parsed treebank could not be kept (%s)", target, error)
