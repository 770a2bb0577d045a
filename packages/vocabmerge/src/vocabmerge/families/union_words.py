"""Words of text, each with the segmentation that a union should give it."""

from dataclasses import dataclass
from itertools import chain

import numpy as np
import tokenizers
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class SegmentedWords:
    """The different words of a language (runs without white space), the most frequent first.

    Args:
        words: the words [W].
        weight: share of the language's running words that each is [W].
        offsets: int64 [W + 1]; word w's segmentation is `ids[offsets[w]:offsets[w + 1]]`.
        ids: union ids.
    """

    words: list[str]
    weight: NDArray[np.float64]
    offsets: NDArray[np.int64]
    ids: NDArray[np.int64]


def segment_words(
    tokenizer: tokenizers.Tokenizer, words: list[str]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Segment each word alone, as it is segmented after another word.

    Returns:
        Offsets [W + 1] and ids.
    """
    lead = leading_space(tokenizer, words)
    encodings = tokenizer.encode_batch_fast(
        [lead + word for word in words], add_special_tokens=False
    )
    listed = [encoding.ids for encoding in encodings]
    sizes = np.fromiter(map(len, listed), np.int64, count=len(listed))
    return np.append(0, np.cumsum(sizes)), np.fromiter(chain.from_iterable(listed), np.int64)


def leading_space(tokenizer: tokenizers.Tokenizer, words: list[str]) -> str:
    """What must stand before a word alone: a space for tokenizers that see a space in a word's first piece, else nothing.

    Byte-level tokenizers without `add_prefix_space`, such as GPT-2's, otherwise take a word alone for the inside of one.
    """

    def ids(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False).ids

    if not words or ids(f"{words[0]} {words[0]}") == 2 * ids(words[0]):
        return ""
    return " " if ids(f"{words[0]} {words[0]}") == ids(words[0]) + ids(f" {words[0]}") else ""


def count_uses(
    offsets: NDArray[np.int64], ids: NDArray[np.int64], weight: NDArray[np.float64], size: int
) -> NDArray[np.float64]:
    """The weight of the words that use each id [size], once for each use."""
    uses = np.bincount(ids, weights=np.repeat(weight, np.diff(offsets)), minlength=size)
    return uses.astype(np.float64)


def rows_differ(
    offsets: NDArray[np.int64],
    ids: NDArray[np.int64],
    other_offsets: NDArray[np.int64],
    other_ids: NDArray[np.int64],
) -> NDArray[np.bool_]:
    """Row by row, whether two ragged arrays hold different ids."""
    return _row_hashes(offsets, ids) != _row_hashes(other_offsets, other_ids)


def _row_hashes(offsets: NDArray[np.int64], ids: NDArray[np.int64]) -> NDArray[np.uint64]:
    sizes = np.diff(offsets)
    place = np.arange(len(ids)) - np.repeat(offsets[:-1], sizes)
    total = np.append(
        np.uint64(0),
        np.cumsum(hash_integers(hash_integers(ids) + hash_integers(place) * np.uint64(3))),
    )
    return total[offsets[1:]] - total[offsets[:-1]] + sizes.astype(np.uint64)


def hash_integers(values: NDArray[np.int64] | NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele, Lea, Flood 2014)."""
    hashed = values.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    hashed = (hashed ^ (hashed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashed = (hashed ^ (hashed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return hashed ^ (hashed >> np.uint64(31))
