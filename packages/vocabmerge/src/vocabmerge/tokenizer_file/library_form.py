"""A tokenizer's JSON as the `tokenizers` library itself writes it, whatever wrote the file.

Files differ in what they leave out (`model.type`, defaults) and in how they spell the same thing (merges as one string,
`add_prefix_space` for `prepend_scheme`). The library knows all of its own spellings; nothing else here looks into a
file before it has been through this.
"""

import copy
import json
from collections.abc import Mapping
from typing import Any

import tokenizers

from vocabmerge.errors import VocabularyError
from vocabmerge.families.components import unfolded
from vocabmerge.garbage_collection import collection_paused

_ADVICE = (
    "save it with AutoTokenizer.from_pretrained(folder).save_pretrained(folder), and pass a folder "
    "with tokenizer.json"
)
# The library takes memory for every id below the largest, and so does what reads its pieces.
_MOST_IDS = 2**24


def library_form(tokenizer: Mapping[str, Any] | str, *, name: str) -> dict[str, Any]:
    """Open a `tokenizer.json` with the library and let the library write it again.

    Args:
        tokenizer: the file's text, or the text already parsed.
        name: how messages call it.

    Returns:
        The parsed JSON with every field stated, in the library's present spelling.

    Raises:
        VocabularyError: no JSON, no fast tokenizer, or one that the library cannot open.

    Example:
        >>> library_form({"model": {"vocab": [["a", -1.0]], "unk_id": 0}}, name="tiny")["model"]["type"]
        'Unigram'
    """
    return open_library_form(tokenizer, name=name)[1]


def open_library_form(
    tokenizer: Mapping[str, Any] | str, *, name: str
) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """The same as `library_form`, and the tokenizer that it opened, without padding or truncation."""
    text = tokenizer if isinstance(tokenizer, str) else json.dumps(tokenizer)
    try:
        return _rewritten(text, name)
    except VocabularyError as error:
        refusal = error
    try:
        parsed = json.loads(text)
    except json.JSONDecodeError as error:
        raise VocabularyError(
            f"{name}: expected JSON, cannot read it ({error}); fetch or save the tokenizer again"
        ) from error
    if not isinstance(parsed, dict):
        raise VocabularyError(f"{name}: expected a JSON object, got {type(parsed).__name__}")
    model = parsed.get("model")
    if not isinstance(model, dict) or "vocab" not in model:
        raise VocabularyError(
            f"{name}: expected a fast tokenizer's JSON with model.vocab, got keys {sorted(parsed)[:5]!r}; {_ADVICE}"
        )
    if _state_prepend_scheme(parsed):
        return _rewritten(json.dumps(parsed), name)
    raise refusal


def _rewritten(text: str, name: str) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    try:
        opened = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises bare Exception
        raise VocabularyError(
            f"{name}: the tokenizers library cannot open it: {error}; {_ADVICE}"
        ) from error
    with collection_paused():
        _refuse_far_ids(opened, name)
        form: dict[str, Any] = json.loads(opened.to_str())
    opened.no_padding()
    opened.no_truncation()
    return opened, form


def _refuse_far_ids(opened: tokenizers.Tokenizer, name: str) -> None:
    """Of a model that numbers its pieces; those of Unigram are a list. The library numbers added tokens anew."""
    if isinstance(opened.model, tokenizers.models.Unigram):
        return
    ids = opened.get_vocab(with_added_tokens=False)
    piece = max(ids, key=ids.__getitem__, default=None)
    if piece is not None and ids[piece] >= _MOST_IDS:
        raise VocabularyError(
            f"{name}: expected ids below {_MOST_IDS:,}, got {ids[piece]:,} for the piece {piece!r}; number the pieces without such gaps"
        )


def _state_prepend_scheme(tokenizer: dict[str, Any]) -> bool:
    """Say `prepend_scheme: never` where an older file says only `add_prefix_space: false`, in place.

    The library takes a missing scheme for `always`, and then refuses the file as contradicting itself.
    """
    stated = False
    for place in ("pre_tokenizer", "decoder"):
        tokenizer[place] = copy.deepcopy(tokenizer.get(place))
        for part in unfolded(tokenizer[place]):
            if part.get("type") == "Metaspace" and part.get("add_prefix_space") is False:
                assert isinstance(part, dict)
                part.setdefault("prepend_scheme", "never")
                stated = True
    return stated
