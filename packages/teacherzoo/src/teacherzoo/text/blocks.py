"""Documents become blocks: at most L teacher tokens, never two documents in one, cut between words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from teacherzoo.text.corpora import Document
from teacherzoo.text.words import in_whole_words, word_spans, words_of_tokens

_TOGETHER = 512  # documents a tokenizer call takes: enough for its threads, little enough to hold


@dataclass(frozen=True, slots=True)
class Block:
    """What a teacher reads at once.

    Attributes:
        document: the document's digest.
        part: which block of its document, from 0.
        token_ids: [T] uint32, the teacher's ids with its special tokens around.
        words: [T] int32, the word of its document each token belongs to; -1 at special tokens.
        document_words: the number of words in the document.
        whole: [T], whether the tokens of its word are all in this block and cover that word alone (`in_whole_words`);
            False at special tokens.
    """

    document: bytes
    part: int
    token_ids: NDArray[np.uint32]
    words: NDArray[np.int32]
    document_words: int
    whole: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class TokenFrame:
    """What a tokenizer puts around a text: `[CLS]` … `[SEP]`, `<s>` … `</s>`, or nothing."""

    before: tuple[int, ...]
    behind: tuple[int, ...]

    @classmethod
    def of(cls, backend: Any) -> TokenFrame:
        """Read the frame off one encoded letter."""
        encoding = backend.encode("a")
        special = np.asarray(encoding.special_tokens_mask, dtype=bool)
        inside = np.flatnonzero(~special)
        first, last = (inside[0], inside[-1]) if len(inside) else (len(special), len(special))
        return cls(tuple(encoding.ids[:first]), tuple(encoding.ids[last + 1 :]))


def blocks_of(documents: Iterable[Document], backend: Any, *, length: int) -> Iterator[Block]:
    """Tokenize documents and cut them.

    Args:
        documents: in order.
        backend: a `tokenizers.Tokenizer`, without truncation and padding.
        length: the largest number of tokens in a block, special tokens included.

    Yields:
        The blocks, in order; a document without a token yields none.
    """
    frame = TokenFrame.of(backend)
    room = length - len(frame.before) - len(frame.behind)
    documents = iter(documents)
    while batch := list(islice(documents, _TOGETHER)):
        encodings = backend.encode_batch([d.text for d in batch], add_special_tokens=False)
        for document, encoding in zip(batch, encodings, strict=True):
            yield from _cut(document, encoding, frame, room)


def _cut(document: Document, encoding: Any, frame: TokenFrame, room: int) -> Iterator[Block]:
    ids = np.array(encoding.ids, dtype=np.uint32)
    if not len(ids):
        return
    spans = word_spans(document.text)
    offsets = np.array(encoding.offsets, dtype=np.int64)
    words = words_of_tokens(offsets, spans[:, 1])
    whole = in_whole_words(offsets, words, spans)
    for part, (start, stop) in enumerate(_spans(words, room)):
        inside = slice(len(frame.before), len(frame.before) + stop - start)
        size = inside.stop + len(frame.behind)
        block = Block(
            document.digest,
            part,
            np.empty(size, dtype=np.uint32),
            np.full(size, -1, dtype=np.int32),
            len(spans),
            np.zeros(size, dtype=bool),
        )
        block.token_ids[: inside.start] = frame.before
        block.token_ids[inside] = ids[start:stop]
        block.token_ids[inside.stop :] = frame.behind
        block.words[inside] = words[start:stop]
        block.whole[inside] = whole[start:stop] & ~_cut_off(words, start, stop)
        yield block


def _cut_off(words: NDArray[np.int64], start: int, stop: int) -> NDArray[np.bool_]:
    """Which tokens of a span belong to a word that goes on outside of it."""
    inside = words[start:stop]
    cut = np.zeros(len(inside), dtype=bool)
    for outer in (start - 1, stop):
        if 0 <= outer < len(words):
            cut |= inside == words[outer]
    return cut


def _spans(words: NDArray[np.int64], room: int) -> Iterator[tuple[int, int]]:
    """Spans of at most `room` tokens that end between words; a word longer than that is cut inside."""
    start, total = 0, len(words)
    while total - start > room:
        stop = start + room
        while stop > start and words[stop] == words[stop - 1]:
            stop -= 1
        if stop == start:
            stop = start + room
        yield start, stop
        start = stop
    yield start, total
