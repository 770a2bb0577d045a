"""Digests of what a run reads: texts, models and files by what they hold, never by where they lie."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from teacherzoo.atomic_write import written_whole
from teacherzoo.catalogue.catalogue import find_teacher, local_folder
from teacherzoo.errors import CorpusError
from teacherzoo.text.corpora import Corpus
from teacherzoo.training.arguments import LOGS_AND_LOADERS
from vocabmerge.corpora import text_format

Text = Corpus | str | Path | Sequence[Path]

TOKENIZER_FILES = (
    "tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "*.model",
)  # fmt: skip
MODEL_FILES = (
    "config.json", "*.safetensors", "pytorch_model*.bin", "*.py", *TOKENIZER_FILES,
    "modules.json", "sentence_*_config.json", "config_sentence_transformers.json", "*_linear.pt", "[0-9]*_*/config.json", "[0-9]*_*/*.safetensors", "[0-9]*_*/*.bin",
    *(f"[0-9]*_*/{name}" for name in TOKENIZER_FILES),
)  # fmt: skip


def digest_of_inputs(
    *,
    corpora: Mapping[str, Text] | None = None,
    models: Mapping[str, str | Path] | None = None,
    files: Mapping[str, Path] | None = None,
) -> dict[str, Any]:
    r"""What a run reads, as a plain value for its plan: equal where the contents are, wherever they lie.

    The order of the languages is part of it. A file is read once in a process for each time that it changes.

    Args:
        corpora: language to its text: a file, a folder, several files in the order in which they are read, the name of a
            data set on the Hub, or a `Corpus`, whose options count, too.
        models: role to a model folder, or to a name in the catalogue or on the Hub.
        files: role to any other file.

    Returns:
        `{"corpora": [[language, digest], ...], "models": {role: digest}, "files": {role: digest}}`.

    Raises:
        CorpusError: where there is no such text or file.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "en.txt"
        >>> _ = path.write_text("one line\n")
        >>> digest_of_inputs(corpora={"en": path})["corpora"]
        [['en', '58de56216f81f1207cd59f22798f85c9']]
    """
    return {
        "corpora": [
            [language, digest_of_text(language, text)] for language, text in (corpora or {}).items()
        ],
        "models": {role: digest_of_model(name) for role, name in (models or {}).items()},
        "files": {role: digest_of_files([file]) for role, file in (files or {}).items()},
    }


def digest_of_text(language: str, text: Text) -> str:
    """Of the files of a corpus in the order in which they are read; a data set on the Hub is named with its commit.

    Raises:
        CorpusError: where there is no such file.
    """
    if not isinstance(text, Corpus | str | Path):
        return digest_of_files(text)
    corpus = text if isinstance(text, Corpus) else Corpus(language, text)
    files = corpus.files()
    content = _on_hub(str(corpus.source), "dataset") if files is None else digest_of_files(files)
    if not isinstance(text, Corpus):
        return content
    options = [corpus.column, corpus.config, corpus.split, corpus.part, corpus.held_out_share, corpus.limit]  # fmt: skip
    return _digest([content, *map(repr, options)])


def digest_of_model(name: str | Path, patterns: Iterable[str] = MODEL_FILES) -> str:
    """Of a model folder's weights, configuration and tokenizer; a model on the Hub is named with its commit.

    Args:
        name: a model folder, or a name in the catalogue or on the Hub.
        patterns: of the files that count, such as `TOKENIZER_FILES` where the tokenizer alone is read.

    Raises:
        TeacherError: for a path where there is nothing.
    """
    folder = Path(name)
    if not folder.is_dir():
        local_folder(name)  # refuses a path where there is nothing
        return _on_hub(find_teacher(str(name)), "model")
    return digest_of_files(sorted({file for pattern in patterns for file in folder.glob(pattern)}))


def digest_of_files(files: Iterable[Path]) -> str:
    """Of the files' kinds and bytes in this order; their names do not count.

    Raises:
        CorpusError: for a file that is not there.
    """
    parts = []
    for file in files:
        try:
            state = file.stat()
        except FileNotFoundError as error:
            raise CorpusError(f"{file}: there is no such file; give its path.") from error
        kind = text_format(file) or file.suffix
        parts.append(f"{kind}:{_of_bytes(file.resolve(), state.st_size, state.st_mtime_ns)}")
    return _digest(parts)


def digest_of_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a Trainer's arguments that bear on what is learnt.

    A file that one names, such as a DeepSpeed configuration, stands there by its digest.
    """
    return {
        name: {"file": digest_of_files([Path(value)])}
        if isinstance(value, str) and Path(value).is_file()
        else value
        for name, value in arguments.items()
        if name not in LOGS_AND_LOADERS
    }


def keep_digests(file: Path) -> None:
    """Remember in `file` what this process has read, and know from now on what others remembered there.

    A file whose path, size and time of change stand there is not read again. One that changed in the last seconds is not
    remembered: within the grain of a clock it could change once more and look the same.

    Args:
        file: JSON, path to size, time of change and digest; written where its folder exists.
    """
    kept: dict[str, tuple[int, int, str]] = {}
    with contextlib.suppress(OSError, ValueError):
        kept = {path: tuple(known) for path, known in json.loads(file.read_text()).items()}
    settled = time.time_ns() - _GRAIN
    new = {path: known for path, known in _READ.items() if known[1] < settled}
    for path, known in kept.items():
        _READ.setdefault(path, known)
    if any(kept.get(path) != known for path, known in new.items()) and file.parent.is_dir():
        with contextlib.suppress(OSError), written_whole(file) as part:
            # A full disk, or a folder of others: then it is read again the next time.
            part.write_text(json.dumps(kept | new, indent=1) + "\n")


_READ: dict[str, tuple[int, int, str]] = {}  # path to size, time of change and digest
_GRAIN = 2 * 10**9  # nanoseconds


def _of_bytes(file: Path, size: int, changed: int) -> str:
    known = _READ.get(str(file))
    if known is None or known[:2] != (size, changed):
        digest = hashlib.blake2b(digest_size=16)
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 22):
                digest.update(chunk)
        known = _READ[str(file)] = (size, changed, digest.hexdigest())
    return known[2]


def _digest(parts: Iterable[str]) -> str:
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()


@cache  # a run reads one commit, even where another comes out meanwhile
def _on_hub(name: str, kind: str) -> str:
    """`hub:NAME@COMMIT`, the commit that loading would take; without it where the Hub is out of reach and nothing is cached."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    small = "config.json" if kind == "model" else ".gitattributes"  # the cache files it by commit
    try:
        file = hf_hub_download(name, small, repo_type=kind)
    except (HfHubHTTPError, HFValidationError, OSError):  # reading the model or the text says why
        return f"hub:{name}"
    return f"hub:{name}@{Path(file).parent.name}"
