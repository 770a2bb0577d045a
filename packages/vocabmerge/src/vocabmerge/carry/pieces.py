"""Which old pieces say what a new piece says: the same piece, or several that make it up."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vocabmerge.families.components import open_normalizer
from vocabmerge.families.pieces import Key, WordClass
from vocabmerge.tokenizer_file.vocabulary import SPECIAL_ROLES, Vocabulary

# Where the families disagree: punctuation and ideographs stand alone in WordPiece, inside or first elsewhere.
_SAME_PLACE: dict[WordClass, tuple[WordClass, ...]] = {
    "initial": ("initial", "isolated"),
    "internal": ("internal", "isolated"),
    "isolated": ("isolated", "internal", "initial"),
}


def matching_ids(new: Vocabulary, old: Vocabulary) -> NDArray[np.int64]:
    """The old id of each new piece [V_new]; -1 where the old vocabulary lacks it.

    Special tokens match by what they are for, `[CLS]` with `<s>`; all others by their canonical key, where a piece
    that stands alone in one family matches the inside or the beginning of a word in another. Letters match letters and
    fallback bytes bytes, as far as there are any.
    """
    letters: dict[Key, int] = {}
    # <0x61> is no letter "a": it has a row of its own, which ASCII text never reaches.
    fallback_bytes: dict[Key, int] = {}
    for number in range(len(old) - 1, -1, -1):  # so that of equals the first stays
        key = old.keys[number]
        if key is not None and old.roles[number] not in ("special", "placeholder"):
            (fallback_bytes if _is_fallback(old, number) else letters)[key] = number
    matches = np.full(len(new), -1, dtype=np.int64)
    for number, (key, role) in enumerate(zip(new.keys, new.roles, strict=True)):
        if key is None or role in ("special", "placeholder"):
            continue
        tables = (letters, fallback_bytes)
        if _is_fallback(new, number):
            tables = (fallback_bytes, letters)
        keys = [(place, key[1]) for place in _SAME_PLACE[key[0]]]
        matches[number] = next((ids[key] for ids in tables for key in keys if key in ids), -1)
    for number in new.having("special").tolist():
        match = same_token(new, old, number)
        matches[number] = match if match is not None and old.roles[match] == "special" else -1
    return matches


def same_token(vocabulary: Vocabulary, counterpart: Vocabulary, number: int) -> int | None:
    """The counterpart's id of what a token is for, `<s>` for `[CLS]`; else its id of the same string, if it has it.

    Args:
        vocabulary: where the token is.
        counterpart: where to look for its like.
        number: the token's id in `vocabulary`.
    """
    text = str(vocabulary.pieces[number])
    for role in SPECIAL_ROLES:
        if vocabulary.specials.get(role) == text and counterpart.special_id(role) is not None:
            return counterpart.special_id(role)
    return counterpart.ids.get(text)


def segment_in_old_pieces(new: Vocabulary, old: Vocabulary, ids: Sequence[int]) -> list[list[int]]:
    """Old ids that make up each of the given new pieces, in its place in a word; none where an unknown would be needed.

    The old model itself segments the piece, after its normalizer and without its pre-tokenizer, spelled with the old
    family's own word marker.
    """
    normalize = _normalizing(old.tokenizer["normalizer"])
    # What says nothing of where words end is taken for the end of one.
    ending = old.model.suffix if new.model.suffix != old.model.suffix else ""
    segmented: list[list[int]] = [[] for _ in ids]
    asked, texts = [], []
    for index, number in enumerate(ids):
        key = new.keys[number]
        text = None if key is None else old.model.piece_of(key, normalize)
        if text:
            asked.append(index)
            texts.append(text + ending)
    for index, old_ids in zip(asked, old.model.segment(texts), strict=True):
        segmented[index] = old_ids
    return segmented


def _normalizing(normalizer: Mapping[str, Any] | None) -> Callable[[str], str]:
    if normalizer is None:
        return str
    normalized = open_normalizer(normalizer)
    return lambda text: normalized(text).replace("▁", " ").strip()


def _is_fallback(vocabulary: Vocabulary, number: int) -> bool:
    """Whether a piece stands for a byte of what has no piece, not for the character that the byte also is."""
    return vocabulary.roles[number] == "byte" and vocabulary.model.has_fallback_bytes
