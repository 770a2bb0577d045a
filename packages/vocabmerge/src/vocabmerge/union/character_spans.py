"""A text as one array of characters, on which the tokens of different tokenizers can be laid."""

import unicodedata
from collections.abc import Sequence
from itertools import chain

import numpy as np
import tokenizers
from numpy.typing import NDArray

from vocabmerge.families.pieces import is_ideograph, is_punctuation
from vocabmerge.families.union_words import hash_integers


class CharacterSpans:
    """Some lines as one array of characters, with where words start and end in it."""

    def __init__(self, lines: Sequence[str]) -> None:
        joined = "\n".join(lines)
        codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
        kinds, back = np.unique(codes, return_inverse=True)
        classes = np.array([_character_class(chr(code)) for code in kinds.tolist()], dtype=np.int8)
        self._class = classes[back]
        lengths = np.array([len(line) + 1 for line in lines], dtype=np.int64)
        self._line_start = np.cumsum(lengths) - lengths
        spaces = self._class == 0
        index = np.arange(len(codes))
        # For each position, the next one that is no space; then starts can be moved past leading spaces at once.
        after = np.where(spaces, len(codes), index)
        self._next_visible = np.append(np.minimum.accumulate(after[::-1])[::-1], len(codes))
        before = np.where(spaces, -1, index)
        self._last_visible = np.append(np.maximum.accumulate(before), -1)
        self._run = np.cumsum(~spaces & np.append(True, spaces[:-1])) - 1
        inside = self._class == 1
        opens = (inside & ~np.append(False, inside[:-1])) | (self._class == 2)
        closes = (inside & ~np.append(inside[1:], False)) | (self._class == 2)
        self._word_start = np.flatnonzero(opens)
        self._word_end = np.flatnonzero(closes) + 1

    def of_tokens(
        self, encodings: Sequence[tokenizers.Encoding]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Ids, and spans in the joined text without the spaces at their ends; a bare marker goes to what follows it."""
        sizes = [len(encoding) for encoding in encodings]
        ids = np.fromiter(chain.from_iterable([e.ids for e in encodings]), np.int64)
        flat = chain.from_iterable(chain.from_iterable([e.offsets for e in encodings]))
        offsets = np.fromiter(flat, np.int64, count=2 * len(ids)).reshape(-1, 2)
        offsets = offsets + np.repeat(self._line_start, sizes)[:, None]
        starts = self._next_visible[offsets[:, 0]]
        ends = self._last_visible[offsets[:, 1] - 1] + 1
        ends[offsets[:, 1] == 0] = 0
        bare = ends <= starts
        starts[bare] = self._next_visible[offsets[bare, 1]]
        ends[bare] = starts[bare]
        # The marker of a line's first word stands on the word's first letter, where some libraries' offsets leave it.
        first = (np.cumsum(sizes) - sizes)[np.array(sizes, dtype=np.int64) > 1].astype(np.int64)
        marker = first[starts[first] == starts[first + 1]]
        ends[marker] = starts[marker]
        return ids, starts, ends

    def hash_tokens(
        self,
        ids: NDArray[np.int64] | None,
        starts: NDArray[np.int64],
        ends: NDArray[np.int64],
    ) -> NDArray[np.uint64]:
        """For each character a hash of the tokens over it: their spans and, if given, their ids."""
        bare = ends <= starts
        if ids is None:  # a bare marker cuts nothing
            starts, ends = starts[~bare], ends[~bare]
        else:
            ends = np.where(bare, np.minimum(starts + 1, len(self._class)), ends)
        value = hash_integers(starts) * np.uint64(3) + hash_integers(ends + (1 << 40))
        if ids is not None:
            value = value + hash_integers(ids + (1 << 41)) + bare.astype(np.uint64)
        value = hash_integers(value)
        steps = np.zeros(len(self._class) + 2, dtype=np.uint64)
        np.add.at(steps, starts, value)
        np.subtract.at(steps, ends, value)
        return np.cumsum(steps)[: len(self._class)]

    def word_numbers(self, starts: NDArray[np.int64]) -> NDArray[np.int64]:
        """The running number of the run without white space that each position lies in."""
        return self._run[np.minimum(starts, len(self._run) - 1)]

    def words_without(self, marked: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """For each word, whether none of its characters is marked."""
        total = np.append(0, np.cumsum(marked))
        return total[self._word_end] == total[self._word_start]


def _character_class(character: str) -> int:
    """0 for space, 1 inside words, 2 a word of its own, 3 between words."""
    if character.isspace():
        return 0
    if is_ideograph(character):
        return 2
    if is_punctuation(character) or unicodedata.category(character)[0] in "SCPZ":
        return 3
    return 1
