"""What a union should do: the words of a language, each with its teacher's segmentation in union ids."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain

import numpy as np
import tokenizers
from numpy.typing import NDArray

from vocabmerge.count import batches
from vocabmerge.union.character_spans import TextGrid, mixed

_MOST_WORDS = 40_000
_TOGETHER = 64


@dataclass(frozen=True, kw_only=True)
class Targets:
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


def gather_targets(
    language: tokenizers.Tokenizer,
    rows: NDArray[np.int64],
    lines: Iterable[str],
    *,
    most: int = _MOST_WORDS,
) -> Targets:
    """Segment a language's text as its teacher does and collect its words.

    Args:
        language: the teacher.
        rows: the union id of each of its ids.
        lines: text of the language.
        most: number of different words to collect.

    Returns:
        The words, each with its segmentation.
    """
    counts: Counter[str] = Counter()
    for line in lines:
        counts.update(line.split())
    chosen = [word for word, _ in counts.most_common(most)]
    # Words are segmented between words, not alone: some tokenizers treat the start of a text differently.
    groups = [chosen[first : first + _TOGETHER] for first in range(0, len(chosen), _TOGETHER)]
    lead = _lead(language, chosen)
    ids, edges = [np.zeros(0, dtype=np.int64)], [np.zeros(1, dtype=np.int64)]
    for batch in batches(groups):
        text = [lead + " ".join(group) for group in batch]
        grid = TextGrid(text)
        found, starts, _ = grid.place(language.encode_batch(text, add_special_tokens=False))
        # A token belongs to the word of its first visible character.
        ends = np.searchsorted(grid.visible_word(starts), np.arange(1, sum(map(len, batch)) + 1))
        edges.append(edges[-1][-1] + ends)
        ids.append(found)
    return Targets(
        words=chosen,
        weight=np.array([counts[word] for word in chosen]) / max(counts.total(), 1),
        offsets=np.concatenate(edges),
        ids=rows[np.concatenate(ids)],
    )


def segment_words(
    tokenizer: tokenizers.Tokenizer, words: list[str]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Segment each word alone, as it is segmented after another word.

    Returns:
        Offsets [W + 1] and ids.
    """
    lead = _lead(tokenizer, words)
    encodings = tokenizer.encode_batch_fast(
        [lead + word for word in words], add_special_tokens=False
    )
    listed = [encoding.ids for encoding in encodings]
    sizes = np.fromiter(map(len, listed), np.int64, count=len(listed))
    return np.append(0, np.cumsum(sizes)), np.fromiter(chain.from_iterable(listed), np.int64)


def _lead(tokenizer: tokenizers.Tokenizer, words: list[str]) -> str:
    """What must stand before a word alone: a space for tokenizers that see a space in a word's first piece, else nothing.

    Byte-level tokenizers without `add_prefix_space`, such as GPT-2's, otherwise take a word alone for the inside of one.
    """

    def ids(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False).ids

    if not words or ids(f"{words[0]} {words[0]}") == 2 * ids(words[0]):
        return ""
    return " " if ids(f"{words[0]} {words[0]}") == ids(words[0]) + ids(f" {words[0]}") else ""


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
    total = np.append(np.uint64(0), np.cumsum(mixed(mixed(ids) + mixed(place) * np.uint64(3))))
    return total[offsets[1:]] - total[offsets[:-1]] + sizes.astype(np.uint64)
