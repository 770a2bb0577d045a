"""A language's text, segmented once: how often it uses each piece, and its lines with their pieces for later."""

from __future__ import annotations

import tempfile
import weakref
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from vocabmerge.count import batches, count_characters
from vocabmerge.errors import VocabularyError
from vocabmerge.families.components import segmenting
from vocabmerge.progress import ProgressCallback, no_progress
from vocabmerge.tokenizer_file.vocabulary import Vocabulary

_IN_MEMORY = 2**26  # bytes of ids; what is more lies in a temporary file


class SegmentedText:
    """Lines under a vocabulary, without the special tokens that wrap a line.

    The ids stay, 4 bytes each, in memory or in a temporary file; the lines are read from their source again.

    Args:
        vocabulary: that segments.
        lines: the text; iterated a second time by `batches`.
        segmenter: the vocabulary's, where it is open already.
        watch: told the number of lines done.
        what: the watcher's word for them.

    Attributes:
        halves: how often the first, third, fifth … line and the second, fourth … use each piece [2, V].
        characters: how often the text has each character.
        lines: how many lines it has.
        words: stretches between white space in them.

    Raises:
        VocabularyError: no line at all.

    Example:
        >>> tiny = parse_vocabulary({"added_tokens": [], "pre_tokenizer": {"type": "BertPreTokenizer"},
        ...     "model": {"type": "WordPiece", "unk_token": "?", "continuing_subword_prefix": "##",
        ...     "max_input_chars_per_word": 100, "vocab": {"?": 0, "a": 1, "##b": 2}}}, name="tiny")
        >>> text = SegmentedText(tiny, ["ab a", "c"])
        >>> text.counts.tolist(), text.words, [ids.tolist() for _, ids, _ in text.batches()]
        ([1, 2, 1], 3, [[1, 2, 1, 0]])
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        lines: Iterable[str],
        *,
        segmenter: Tokenizer | None = None,
        watch: ProgressCallback = no_progress,
        what: str = "lines counted",
    ) -> None:
        self.halves: NDArray[np.int64] = np.zeros((2, len(vocabulary)), dtype=np.int64)
        self.characters: Counter[str] = Counter()
        self.words = 0
        self._text = lines
        self._lengths = array("I")
        self._ids = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115  # lives as long as the text
        weakref.finalize(self, self._ids.close)
        segmenter = segmenter or vocabulary.segmenter()
        for batch in batches(lines):
            ids, lengths = segment(segmenter, batch)
            second = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
            for half, of_half in enumerate((ids[~second], ids[second])):
                self.halves[half] += np.bincount(of_half, minlength=len(vocabulary))
            self.characters.update(count_characters(batch))
            self.words += sum(len(line.split()) for line in batch)
            self._ids.write(ids.tobytes())
            self._lengths.extend(lengths)
            watch(len(self._lengths), None, what)
        if not self._lengths:
            raise VocabularyError("the text to count is empty; give at least one line")

    @property
    def counts(self) -> NDArray[np.int64]:
        """How often the text uses each piece [V]."""
        return self.halves.sum(axis=0, dtype=np.int64)

    @property
    def lines(self) -> int:
        """How many lines there are."""
        return len(self._lengths)

    def batches(self) -> Iterator[tuple[list[str], NDArray[np.int32], NDArray[np.int64]]]:
        """Lines, the ids of all their pieces [T], and each line's number of pieces [lines]."""
        self._ids.seek(0)
        done = 0
        for batch in batches(self._text):
            lengths = np.array(self._lengths[done : done + len(batch)], dtype=np.int64)
            done += len(batch)
            yield batch, np.frombuffer(self._ids.read(4 * int(lengths.sum())), np.int32), lengths


def segment(segmenter: Tokenizer, lines: list[str]) -> tuple[NDArray[np.int32], list[int]]:
    """The ids of the lines' pieces one after the other, and each line's number of pieces."""
    with segmenting():
        encodings = segmenter.encode_batch_fast(lines, add_special_tokens=False)
    ids = np.fromiter(chain.from_iterable(encoding.ids for encoding in encodings), dtype=np.int32)
    return ids, list(map(len, encodings))
