"""Writes a tokenizer into a folder that appears whole or not at all."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from vocabmerge.errors import VocabularyError
from vocabmerge.tokenizer_file.vocabulary import Vocabulary


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Give a temporary folder beside `out` and rename it to `out` at the end; after an error nothing stays.

    Raises:
        VocabularyError: `out` is taken, or its disk cannot be written to.
    """
    refuse_taken(out)
    partial = out.with_name(f".{out.name}.partial-{os.getpid()}")
    try:
        partial.mkdir(parents=True)
        yield partial
        partial.replace(out)
    except (OSError, SafetensorError) as error:
        raise VocabularyError(
            f"{out}: cannot write it: {error}; make room there, or name another folder"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def refuse_taken(out: Path) -> None:
    """Refuse a folder that holds something.

    Raises:
        VocabularyError: saying what to do.
    """
    if out.is_dir() and any(out.iterdir()):
        raise VocabularyError(
            f"{out}: expected a new or empty folder; name another one, or remove it"
        )
    if out.exists() and not out.is_dir():
        raise VocabularyError(f"{out}: expected a folder to make, there is a file of that name")


def write_tokenizer(folder: Path, vocabulary: Vocabulary, *, with_model: bool) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json`; older files (vocab.txt, sentencepiece) would be stale.

    Args:
        folder: where to.
        vocabulary: what to write.
        with_model: whether a model's config lies beside it, from which AutoTokenizer knows the class; a tokenizer
            alone that does not name its class gets the generic one.
    """
    write_json(folder / "tokenizer.json", vocabulary.tokenizer)
    settings = dict(vocabulary.config)
    if "tokenizer_class" not in settings and not with_model:
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
        for role, token in vocabulary.specials.items():
            settings.setdefault(f"{role}_token", token)
    decoder = settings.get("added_tokens_decoder")
    if isinstance(decoder, Mapping):
        ids = vocabulary.ids
        settings["added_tokens_decoder"] = {
            str(ids[token["content"]]): token
            for token in decoder.values()
            if token["content"] in ids
        }
    write_json(folder / "tokenizer_config.json", settings)


def write_json(path: Path, value: Any) -> None:
    """Write JSON as people read it, in UTF-8, with a final line end."""
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
