"""Counts how often a text uses each piece and each character."""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import TypeVar

import numpy as np
import tokenizers
from numpy.typing import NDArray

from vocabmerge.errors import VocabularyError
from vocabmerge.families.components import segmenting
from vocabmerge.progress import ProgressCallback, no_progress
from vocabmerge.tokenizer_file.vocabulary import Vocabulary

_LINES_AT_ONCE = 2000  # even: every other line of a batch is every other line of the text
T = TypeVar("T")


def count_pieces(
    vocabulary: Vocabulary | tokenizers.Tokenizer,
    lines: Iterable[str],
    *,
    size: int | None = None,
    watch: ProgressCallback = no_progress,
    what: str = "lines counted",
) -> NDArray[np.int64]:
    """How often the segmentation of a text uses each piece, without the special tokens that wrap a line.

    `counts[i] / Σ_j counts[j]` is the unigram probability by which trims choose.

    Args:
        vocabulary: whose pieces to count, or its opened tokenizer.
        lines: the text.
        size: V where a tokenizer is passed; by default its largest id plus one.
        watch: told the number of lines done.
        what: the watcher's word for them.

    Returns:
        Counts [V].

    Raises:
        VocabularyError: no line at all.

    Example:
        >>> tiny = parse_vocabulary({"added_tokens": [], "pre_tokenizer": {"type": "BertPreTokenizer"},
        ...     "model": {"type": "WordPiece", "unk_token": "?", "continuing_subword_prefix": "##",
        ...     "max_input_chars_per_word": 100, "vocab": {"?": 0, "a": 1, "##b": 2}}}, name="tiny")
        >>> count_pieces(tiny, ["ab a", "c"]).tolist()
        [1, 2, 1]
    """
    if isinstance(vocabulary, Vocabulary):
        size = len(vocabulary)
        vocabulary = vocabulary.segmenter()
    elif size is None:
        size = max(vocabulary.get_vocab(with_added_tokens=True).values(), default=-1) + 1
    counts = np.zeros(size, dtype=np.int64)
    done = 0
    for batch in batches(lines):
        with segmenting():
            encodings = vocabulary.encode_batch_fast(batch, add_special_tokens=False)
        ids = np.fromiter(chain.from_iterable([encoding.ids for encoding in encodings]), np.int64)
        counts += np.bincount(ids, minlength=size)
        done += len(batch)
        watch(done, None, what)
    if not done:
        raise VocabularyError("the text to count is empty; give at least one line")
    return counts


def count_characters(lines: Iterable[str]) -> Counter[str]:
    """How often a text has each character, as it stands there, before any normalization.

    They say which scripts a language is written in; see `trim_vocabulary`.

    Args:
        lines: the text.

    Returns:
        Counts by character.

    Example:
        >>> count_characters(["Aa", "a"])["a"]
        2
    """
    counts: Counter[str] = Counter()
    for batch in batches(lines):
        codes = np.frombuffer("".join(batch).encode("utf-32-le", "surrogatepass"), dtype="<u4")
        numbers = np.bincount(codes)
        for code in np.flatnonzero(numbers).tolist():
            counts[chr(code)] += int(numbers[code])
    return counts


def batches(lines: Iterable[T], size: int = _LINES_AT_ONCE) -> Iterator[list[T]]:
    """The lines, `size` at a time."""
    iterator = iter(lines)
    while batch := list(islice(iterator, size)):
        yield batch
