"""The components around a tokenizer's model, and a whole tokenizer opened."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import tokenizers

from vocabmerge.errors import VocabularyError


def unfolded(component: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """A normalizer, pre-tokenizer, post-processor or decoder, with sequences unfolded."""
    if component is None:
        return
    if component.get("type") != "Sequence":
        yield component
        return
    for kind in ("normalizers", "pretokenizers", "processors", "decoders"):
        for inner in component.get(kind) or ():
            yield from unfolded(inner)


def open_tokenizer(tokenizer: Mapping[str, Any], *, name: str) -> tokenizers.Tokenizer:
    """Build the `tokenizers.Tokenizer` of a parsed `tokenizer.json`, without padding or truncation.

    Args:
        tokenizer: the parsed file.
        name: how messages call it.

    Raises:
        VocabularyError: the library cannot open it.

    Example:
        >>> model = {"type": "WordLevel", "vocab": {"?": 0, "a": 1}, "unk_token": "?"}
        >>> open_tokenizer({"model": model}, name="tiny").encode("a").ids
        [1]
    """
    try:
        return tokenizers.Tokenizer.from_str(
            json.dumps({**tokenizer, "padding": None, "truncation": None})
        )
    except Exception as error:  # the library raises bare Exception
        raise VocabularyError(f"{name}: the tokenizers library cannot open it: {error}") from error


@contextmanager
def segmenting() -> Iterator[None]:
    """Say in one sentence why the library cannot segment a text: its model lacks the unknown piece that the text needs."""
    try:
        yield
    except Exception as error:
        if type(error) is not Exception:  # the library raises bare Exception
            raise
        raise VocabularyError(
            f"the tokenizers library cannot segment the text: {error}; give the tokenizer's model an unknown piece that is in its "
            "vocabulary, or leave out text that it does not know"
        ) from error


def open_normalizer(normalizer: Mapping[str, Any]) -> Callable[[str], str]:
    """What a normalizer makes of a text.

    Example:
        >>> open_normalizer({"type": "Lowercase"})("A")
        'a'
    """
    model = {"type": "WordLevel", "vocab": {"?": 0}, "unk_token": "?"}
    opened = open_tokenizer({"normalizer": normalizer, "model": model}, name="the normalizer")
    assert opened.normalizer is not None
    return opened.normalizer.normalize_str
