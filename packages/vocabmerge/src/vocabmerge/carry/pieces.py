"""Which old pieces say what a new piece says: the same piece, or a spelling of it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, normalizers

from vocabmerge.families.canonical import BYTE_ALPHABET, Key, WordClass
from vocabmerge.families.spelling import spell_by_merges, spell_greedily
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
    fallbacks: dict[
        Key, int
    ] = {}  # <0x61> is no letter "a": it has a row of its own, which ASCII text never reaches
    for number in range(len(old) - 1, -1, -1):  # so that of equals the first stays
        key = old.keys[number]
        if key is not None and old.roles[number] not in ("special", "placeholder"):
            (fallbacks if _is_fallback(old, number) else letters)[key] = number
    found = np.full(len(new), -1, dtype=np.int64)
    for number, (key, role) in enumerate(zip(new.keys, new.roles, strict=True)):
        if key is None or role in ("special", "placeholder"):
            continue
        own, other = letters, fallbacks
        if _is_fallback(new, number):
            own, other = fallbacks, letters
        keys = [(place, key[1]) for place in _SAME_PLACE[key[0]]]
        matches = [ids[key] for ids in (own, other) for key in keys if key in ids]
        found[number] = matches[0] if matches else -1
    for number in new.having("special").tolist():
        found[number] = _special_match(new, old, number)
    return found


def _is_fallback(vocabulary: Vocabulary, number: int) -> bool:
    """Whether a piece stands for a byte of what has no piece, not for the character that the byte also is."""
    return vocabulary.roles[number] == "byte" and vocabulary.family != "bpe-byte"


def spellings(new: Vocabulary, old: Vocabulary, ids: Sequence[int]) -> list[list[int]]:
    """Old ids that spell each of the given new pieces, in its place in a word; none where an unknown would be needed.

    The old model itself is asked, after its normalizer and without its pre-tokenizer, for the piece with the old
    family's own word marker.
    """
    segmenter = old.segmenter()
    raw = [_in_the_words_of(old, new.keys[number], segmenter.normalizer) for number in ids]
    asked = [index for index, piece in enumerate(raw) if piece]
    found: list[list[int]] = [[] for _ in raw]
    if old.family == "wordpiece":
        prefix = old.tokenizer["model"].get("continuing_subword_prefix", "##")
        for index in asked:
            found[index] = spell_greedily(str(raw[index]), old.ids, prefix)
        return found
    suffix = new.tokenizer["model"].get("end_of_word_suffix")
    if suffix and suffix == old.tokenizer["model"].get("end_of_word_suffix"):
        spelled = spell_by_merges([str(raw[index]) for index in asked], old.tokenizer["model"])
        for index, ids_of_old in zip(asked, spelled, strict=True):
            found[index] = ids_of_old
        return found
    unknown = old.special_id("unk")
    bare = Tokenizer(segmenter.model)
    encodings = bare.encode_batch_fast(
        [str(raw[index]) for index in asked], add_special_tokens=False
    )
    for index, encoding in zip(asked, encodings, strict=True):
        if unknown not in encoding.ids:
            found[index] = encoding.ids
    return found


def _special_match(new: Vocabulary, old: Vocabulary, number: int) -> int:
    text = new.pieces[number]
    roles = [role for role in SPECIAL_ROLES if new.specials.get(role) == text]
    for role in roles:
        match = old.special_id(role)
        if match is not None:
            return match
    same = old.ids.get(str(text), -1)
    return same if same >= 0 and old.roles[same] == "special" else -1


def _in_the_words_of(
    old: Vocabulary, key: Key | None, normalizer: normalizers.Normalizer | None
) -> str | None:
    """A canonical key as a raw string of the old family; None where it cannot be said."""
    if key is None:
        return None
    place, data = key
    if old.family == "bpe-byte":
        marked = b" " + data if place == "initial" else data
        return "".join(BYTE_ALPHABET[byte] for byte in marked)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return None
    if normalizer is not None:
        text = normalizer.normalize_str(text).replace("▁", " ").strip()
    if old.family == "wordpiece":
        prefix = old.tokenizer["model"].get("continuing_subword_prefix", "##")
        return prefix + text if place == "internal" and text else text
    marker = "" if old.family == "bpe-plain" or place != "initial" else "▁"
    return marker + text.replace(" ", "▁")
