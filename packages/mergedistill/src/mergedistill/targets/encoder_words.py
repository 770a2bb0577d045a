"""The words of a batch as an encoder with a tokenizer of its own reads them: which of its pieces and of the student's are one word."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mergedistill.targets.batch import StatesTargets
from teacherzoo import SignalBatch, Teacher
from teacherzoo.text.blocks import TokenFrame
from teacherzoo.text.words import in_whole_words, word_spans, words_of_tokens

WordsOfBatch = Callable[[SignalBatch], StatesTargets]
"""What of the words of a batch is learned of the encoder."""


@dataclass(frozen=True, kw_only=True)
class BlockWords:
    """A block of T of the student's pieces, its text as U pieces of the encoder, and M of its words that both have.

    Attributes:
        text_words: how many words the text has.
        encoder_ids: [U], the encoder's special tokens around.
        words: [T], which of the M words each piece belongs to; -1 where to none.
        encoder_words: [U] likewise.
    """

    text_words: int
    encoder_ids: NDArray[np.int64]
    words: NDArray[np.int64]
    encoder_words: NDArray[np.int64]


class EncoderWords:
    """The words of a language that its student and an encoder both read.

    A block's text is what the student's tokenizer makes of its true pieces: what that tokenizer drops, such as capital letters, the
    encoder does not see either. The text is cut anew by both tokenizers. Of its words (`teacherzoo.text.words`), those are both's of which
    either tokenizer has pieces that cover the word alone, none of them unknown, and the student's are pieces of the block that
    follow one another. So words are left out that do not come back from the student's pieces, and those that the encoder has
    no room for.

    Args:
        student: the `tokenizers.Tokenizer` by which the student reads the language.
        encoder: its tokenizer and its longest row.
    """

    def __init__(self, student: Any, encoder: Teacher) -> None:
        self._student = student
        added = student.get_added_tokens_decoder()
        self._not_decoded = {number for number, token in added.items() if token.special}
        self._backend = encoder.backend
        self._frame = TokenFrame.of(encoder.backend)
        self._room = max(0, encoder.max_length - len(self._frame.before) - len(self._frame.behind))
        self._unknown = encoder.space.unknown
        self._pad = encoder.space.pad

    def __call__(self, batch: SignalBatch) -> StatesTargets:
        """The words of a batch [B, S]; blocks without any are not among the encoder's rows."""
        width = batch.token_ids.shape[1]
        cells, words, rows, count = [], [], [], 0
        for row, block in enumerate(self.blocks(batch)):
            places = np.flatnonzero(block.words >= 0)
            if len(places):
                cells.append(row * width + places)
                words.append(count + block.words[places])
                rows.append((block.encoder_ids, block.encoder_words, count))
                count += 1 + int(block.words.max())
        if not count:
            return no_words(batch)
        input_ids = np.full(
            (len(rows), max(len(ids) for ids, _, _ in rows)), self._pad, dtype=np.int64
        )
        encoder_words = np.full(input_ids.shape, -1, dtype=np.int64)
        attention = np.zeros(input_ids.shape, dtype=np.int64)
        for row, (ids, word, before) in enumerate(rows):
            input_ids[row, : len(ids)] = ids
            encoder_words[row, : len(ids)] = np.where(word >= 0, word + before, -1)
            attention[row, : len(ids)] = 1
        encoder_cells = np.flatnonzero(encoder_words >= 0)
        return StatesTargets(
            input_ids=torch.from_numpy(input_ids),
            attention_mask=torch.from_numpy(attention),
            encoder_cells=torch.from_numpy(encoder_cells),
            encoder_words=torch.from_numpy(encoder_words.ravel()[encoder_cells]),
            cells=torch.from_numpy(np.concatenate(cells)),
            words=torch.from_numpy(np.concatenate(words)),
            count=count,
        )

    def blocks(self, batch: SignalBatch) -> list[BlockWords]:
        """The words of each block."""
        lengths = batch.attention_mask.sum(dim=1).tolist()
        return [
            self._block(ids[:length])
            for ids, length in zip(batch.token_ids.tolist(), lengths, strict=True)
        ]

    def _block(self, pieces: list[int]) -> BlockWords:
        text = self._student.decode(pieces)
        spans = word_spans(text)
        cut_anew = self._student.encode(text, add_special_tokens=False)
        encoding = self._backend.encode(text, add_special_tokens=False)
        in_text = np.array(
            [place for place, piece in enumerate(pieces) if piece not in self._not_decoded]
        )
        places = _places(cut_anew.ids, [pieces[place] for place in in_text])
        if len(in_text):
            places = np.where(places < 0, -1, in_text[places])
        words = _whole_words(cut_anew.offsets, spans)
        ids = np.array(encoding.ids[: self._room], dtype=np.int64)
        encoder_words = _whole_words(encoding.offsets[: self._room], spans)
        follows = np.diff(places, prepend=-1) == 1
        begins = np.diff(words, prepend=-1) != 0
        # The last entry stands for no word, which is what the number -1 finds.
        has = np.zeros((2, len(spans) + 1), dtype=bool)
        has[0, words] = has[1, encoder_words] = True
        both = has[0] & has[1]
        both[words[(places < 0) | ~(follows | begins)]] = False
        both[encoder_words[ids == self._unknown]] = False
        both[-1] = False
        numbers = np.where(both, np.cumsum(both) - 1, -1)
        of_pieces = np.full(len(pieces), -1, dtype=np.int64)
        of_pieces[places[places >= 0]] = numbers[words[places >= 0]]
        before, behind = self._frame.before, self._frame.behind
        return BlockWords(
            text_words=len(spans),
            encoder_ids=np.concatenate([before, ids, behind]).astype(np.int64),
            words=of_pieces,
            encoder_words=np.pad(
                numbers[encoder_words], (len(before), len(behind)), constant_values=-1
            ),
        )


def no_words(_: SignalBatch) -> StatesTargets:
    """Of a batch of which nothing is learned."""
    none = torch.zeros(0, dtype=torch.int64)
    return StatesTargets(
        input_ids=none.reshape(0, 0), attention_mask=none.reshape(0, 0), encoder_cells=none, encoder_words=none, cells=none,
        words=none, count=0,
    )  # fmt: skip


def _places(ids: Sequence[int], pieces: Sequence[int]) -> NDArray[np.int64]:
    """For each id its place among the pieces of a block, in order; -1 where it is not there."""
    places = np.full(len(ids), -1, dtype=np.int64)
    matcher = SequenceMatcher(None, ids, pieces, autojunk=False)
    for start, place, size in matcher.get_matching_blocks():
        places[start : start + size] = np.arange(place, place + size)
    return places


def _whole_words(offsets: Sequence[tuple[int, int]], spans: NDArray[np.int64]) -> NDArray[np.int64]:
    """The word of each token; -1 where the tokens of its word do not cover that word alone."""
    places = np.array(offsets, dtype=np.int64).reshape(-1, 2)
    words = words_of_tokens(places, spans[:, 1])
    return np.where(in_whole_words(places, words, spans), words, -1)
