"""Words of raw text: the unit that is drawn alike for teachers with different tokenizers, and where long documents are cut."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

# Scripts written without spaces count a character as a word, and so does a punctuation mark.
_ALONE = (
    r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
    r"\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # kana, Han
    r"!-/:-@\[-`{-~\u00a1-\u00bf\u2010-\u2027\u2030-\u205e\u3001-\u3011\uff01-\uff0f\uff1a-\uff20"
    r"\u060c\u061b\u061f\u0964\u0965\u05be\u05c0\u05c3"
)
_FAR = np.iinfo(np.int64).max
_WORD = re.compile(rf"[{_ALONE}]|[^\s{_ALONE}]+")


def word_ends(text: str) -> NDArray[np.int64]:
    """The offset behind each word of `text`, in characters.

    A word is a run without white space, punctuation or characters of unspaced scripts; each of the latter two is a
    word alone. No tokenizer has a say, so two teachers see the same words.

    Example:
        >>> word_ends("it works, 是的").tolist()
        [2, 8, 9, 11, 12]
    """
    return word_spans(text)[:, 1]


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
    """Whether the tokens of a token's word cover that word and nothing else but white space before it.

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
    return whole[words]
