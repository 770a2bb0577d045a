"""Words of raw text: the unit that is drawn alike for teachers with different tokenizers, and where long documents are cut."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

# Signs behind a word or, in Tibetan, a syllable: of the visible word dividers of Unicode's Standard Annex 14 those that end a run
# of letters (Tibetan, Ethiopic; runes, Aegean, Ugaritic, Old Persian, Phoenician, cuneiform).
_DIVIDERS = (
    r"\u0f0b\u0f0c\u1361\u16eb-\u16ed\U00010100-\U00010102\U0001039f\U000103d0\U0001091f\U00012470"
)
_ALONE_LATER = (
    # Of the class SA of that annex: Tai Le, New Tai Lue, Tai Tham, Burmese of other languages, Tai Viet, Ahom.
    r"\u1950-\u19ff\u1a20-\u1aaf\ua9e0-\ua9ff\uaa60-\uaadf\U00011700-\U0001174f"
    # Punctuation of Tibetan and Ethiopic.
    r"\u0f04-\u0f0a\u0f0d-\u0f12\u0f14\u0f3a-\u0f3d\u0f85\u0fd0-\u0fd4\u0fd9\u0fda\u1360\u1362-\u1368"
)
# Scripts written without spaces count a character as a word, and so does a punctuation mark.
_ALONE = (
    r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
    r"\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # kana, Han
    r"!-/:-@\[-`{-~\u00a1-\u00bf\u2010-\u2027\u2030-\u205e\u3001-\u3011\uff01-\uff0f\uff1a-\uff20"
    r"\u060c\u061b\u061f\u0964\u0965\u05be\u05c0\u05c3" + _ALONE_LATER
)
_FAR = np.iinfo(np.int64).max
_SPACE = "\u200b"  # without width, between words of Khmer, Thai and the like
_WORD = re.compile(rf"[{_ALONE}]|[^\s{_SPACE}{_DIVIDERS}{_ALONE}]+[{_DIVIDERS}]*|[{_DIVIDERS}]+")
_LATER = re.compile(rf"[{_SPACE}{_DIVIDERS}{_ALONE_LATER}]")
WORD_RULE = "words of 2026-11"
"""Names the rule by which text is cut into words, for recordings."""

FIRST_WORD_RULE = "words of 2026-11"
"""The rule of recordings that do not name theirs."""

WHOLE_WORD_RULE = "whole words of 2026-11-28"
"""Names the rule of `in_whole_words`, by which likelihoods of words are recorded."""

BITS_PER_BYTE_RULE = "bits per byte of 2026-11-28"
"""Names the definition in `teacherzoo.rank.bits_per_byte`, for figures that are kept."""


def word_ends(text: str) -> NDArray[np.int64]:
    """The offset behind each word of `text`, in characters.

    A word is a run without white space (which U+200B is, too), punctuation or characters of unspaced scripts; each of the latter two
    is a word alone. A sign that divides words where others have a space, as the tsheg behind a Tibetan syllable, ends the
    word before it. No tokenizer has a say, so two teachers see the same words.

    Example:
        >>> word_ends("it works, 是的").tolist()
        [2, 8, 9, 11, 12]
        >>> word_ends("བོད་ཡིག").tolist()
        [4, 7]
    """
    return word_spans(text)[:, 1]


def has_words(text: str) -> bool:
    """Whether `text` is more than white space."""
    return _WORD.search(text) is not None


def has_later_signs(text: str) -> bool:
    """Whether `text` has signs that were letters of a word, or words, when signals of version 2 were first recorded."""
    return _LATER.search(text) is not None


def word_spans(text: str) -> NDArray[np.int64]:
    """[W, 2], start and end of each word of `text` in characters; see `word_ends`."""
    spans = [match.span() for match in _WORD.finditer(text)]
    return np.array(spans, dtype=np.int64).reshape(-1, 2)


def words_of_tokens(offsets: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """The word each token belongs to: that of its last character; white space belongs to the word behind it.

    A token that spans several words, as in scripts without spaces, is hidden or not by the last of them: a share of tokens
    is hidden as large as the share of words, whatever the tokenizer. Any rule by which two tokenizers hid the very same
    characters there would have to hide whole runs between spaces, or cut the text otherwise than the teacher does.

    Args:
        offsets: [T, 2], start and end of each token in characters.
        ends: [W] of `word_ends`.

    Returns:
        [T], numbers of words, in order.
    """
    words = np.searchsorted(ends, offsets[:, 1] - 1, side="right")
    return np.minimum(words, max(len(ends) - 1, 0)).astype(np.int64)


def in_whole_words(
    offsets: NDArray[np.int64], words: NDArray[np.int64], spans: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Whether the tokens of a token's word cover that word and nothing else but white space before it, and no other token does.

    Such a word is the same stretch of text for every tokenizer of which this holds, whatever the pieces.

    Args:
        offsets: [T, 2], start and end of each token in characters.
        words: [T] of `words_of_tokens`.
        spans: [W, 2] of `word_spans`.

    Returns:
        [T].

    Example:
        >>> spans = word_spans("so it (works)")
        >>> offsets = np.array([[0, 2], [2, 5], [5, 8], [8, 12], [12, 13]])  # so| it| (w|orks|)
        >>> in_whole_words(offsets, words_of_tokens(offsets, spans[:, 1]), spans).tolist()
        [True, True, False, False, True]
    """
    if not len(spans):
        return np.zeros(len(words), dtype=bool)
    before = np.concatenate([[0], spans[:-1, 1]])
    first, last = offsets[:, 0], offsets[:, 1]
    start = np.full(len(spans), _FAR)
    end = np.zeros(len(spans), dtype=np.int64)
    np.minimum.at(start, words, first)
    np.maximum.at(end, words, last)
    whole = (start >= before) & (start <= spans[:, 0]) & (end == spans[:, 1])
    # A token put before the text has the place of the first character, which may be within a later word's token.
    reached = np.searchsorted(spans[:, 1], first, side="right")
    for token in np.flatnonzero(reached < words):
        whole[reached[token] : words[token]] = False
    return whole[words]
