"""Bits per byte: what a masked language model needs to fill in the words of a text, whatever its tokenizer.

The definition, which xeval shares and implements on its own (a change gives `BITS_PER_BYTE_RULE` another name):

1.  A document is brought to Unicode NFC, and each run of white space in it to one space, none at its ends. Its words are its
    runs of other characters, each cut behind every run of the punctuation of scripts that are written without spaces: U+3001
    to U+3003, U+3008 to U+3011, U+3014 to U+301B, of the full-width forms ! ( ) , . : ; ? (U+FF01 and so on), of Thai U+0E5A
    and U+0E5B, of Burmese U+104A and U+104B, of Khmer U+17D4 to U+17D6 and U+17D8 to U+17DA, and the space without width
    (U+200B). So a word of Chinese is a clause with its mark, one of Thai what stands between two spaces, which no tokenizer
    decides.
2.  The tokenizer encodes it as a whole, without special tokens. A piece belongs to the word that its characters lie in,
    white space aside; a piece without such characters belongs to the word of the piece behind it, at the end of the
    document to that of the piece before it.
3.  A word is left out if one of its pieces is the unknown one or lies in another word as well, if it has no piece, or
    if it has more pieces than a row holds. Words left out stay in the text, but for the last kind.
4.  Blocks are runs of whole words, as many as fit into a row; words that share a piece stay together where they fit.
5.  With G = ceil(1 / rate), the W words of a block that count, numbered as they stand, are ranked by the SHA-256 of the
    block's words joined by spaces, a newline and the number in decimal (UTF-8); rank r falls into group r mod G.
6.  For each group, all pieces of its words become the mask token, the model reads the block once, and
    -log2 p(piece | block so masked) is summed over these pieces; p is the softmax over all rows in float32.
7.  Bits per byte is that sum over the UTF-8 bytes of the words that count, spaces aside.
"""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from teacherzoo.encoders.inference import batches
from teacherzoo.encoders.teachers import Teacher
from teacherzoo.errors import CorpusError
from teacherzoo.progress import ProgressCallback, no_progress
from teacherzoo.text.blocks import TokenFrame

_TOKENS = 8192
_ROWS = 512  # masked rows whose logits are held at once
_MARKS = (
    "\u3001-\u3003\u3008-\u3011\u3014-\u301b\uff01\uff08\uff09\uff0c\uff0e\uff1a\uff1b\uff1f"
    "\u0e5a\u0e5b\u104a\u104b\u17d4-\u17d6\u17d8-\u17da\u200b"
)
_WORD = re.compile(rf"[^\s{_MARKS}]*[{_MARKS}]+|[^\s{_MARKS}]+")


@dataclass(frozen=True, kw_only=True)
class BitsPerByte:
    """The sums behind the figure.

    Attributes:
        bits: to fill in the words that count.
        bytes: of these words.
        left_out_bytes: of the words that do not count.
        words: all words.
        left_out_words: those that do not count.
        pieces: of all words.
        tokens_read: by the model, over all passes.
    """

    bits: float
    bytes: int
    left_out_bytes: int
    words: int
    left_out_words: int
    pieces: int
    tokens_read: int

    @property
    def value(self) -> float:
        """Bits per byte of the words that count; NaN where none does."""
        return self.bits / self.bytes if self.bytes else math.nan

    @property
    def charged(self) -> float:
        """Bits per byte of all words, those left out charged with 8 bits a byte, as if they were noise.

        This is what makes teachers comparable: one that cannot spell the text would else be judged on its digits.
        """
        return (self.bits + 8 * self.left_out_bytes) / (self.bytes + self.left_out_bytes)


@dataclass(frozen=True, slots=True)
class _Unit:
    """Words that share a piece, mostly one word: texts, their pieces, and whether they count."""

    words: tuple[str, ...]
    pieces: tuple[int, ...]
    counts: bool


@dataclass(frozen=True, slots=True)
class _Pass:
    """One reading of a block: input ids, where masks are, and what stands there."""

    input_ids: list[int]
    positions: list[int]
    gold: list[int]


def bits_per_byte(
    teacher: Teacher,
    documents: Iterable[str],
    *,
    rate: float = 0.15,
    max_length: int = 256,
    watch: ProgressCallback = no_progress,
) -> BitsPerByte:
    """Measure `teacher` on raw text.

    Args:
        teacher: of any tokenizer.
        documents: texts in one language.
        rate: share of the words hidden at a time.
        max_length: tokens in a row, special ones included; a teacher that reads fewer gets fewer.
        watch: told (done, total, what) in rows.

    Returns:
        The sums; `.value` is the figure.

    Raises:
        CorpusError: where there is no word.
    """
    frame = TokenFrame.of(teacher.backend)
    room = min(max_length, teacher.max_length) - len(frame.before) - len(frame.behind)
    passes: list[_Pass] = []
    counted = left_out = words = left_out_words = pieces = 0
    for units in _units(teacher, documents, room):
        for unit in units:
            size = sum(len(word.encode()) for word in unit.words)
            words += len(unit.words)
            pieces += len(unit.pieces)
            if unit.counts:
                counted += size
            else:
                left_out += size
                left_out_words += len(unit.words)
        for block in _blocks(units, room):
            passes += _passes(block, frame, teacher.space.mask, rate)
    if not words:
        raise CorpusError("there is no word to measure bits per byte on; give text.")
    bits = _bits(teacher, passes, watch)
    return BitsPerByte(
        bits=bits,
        bytes=counted,
        left_out_bytes=left_out,
        words=words,
        left_out_words=left_out_words,
        pieces=pieces,
        tokens_read=sum(len(masked.input_ids) for masked in passes),
    )


def _units(teacher: Teacher, documents: Iterable[str], room: int) -> Iterator[list[_Unit]]:
    """Points 1 to 3, a list for each document."""
    texts = [" ".join(unicodedata.normalize("NFC", document).split()) for document in documents]
    encodings = teacher.backend.encode_batch(texts, add_special_tokens=False)
    for text, encoding in zip(texts, encodings, strict=True):
        matches = list(_WORD.finditer(text))
        words = [match.group() for match in matches]
        spans = np.array([match.span() for match in matches], dtype=np.int64).reshape(-1, 2)
        first, last = _words_of_pieces(spans, encoding.offsets)
        # A word begins a new unit unless a piece lies in it and in the word before.
        begins = np.ones(len(words), dtype=bool)
        for start, stop in zip(first, last, strict=True):
            begins[start + 1 : stop + 1] = False
        unit_of_word = np.cumsum(begins) - 1
        members: list[list[int]] = [[] for _ in range(int(begins.sum()))]
        for piece, word in zip(encoding.ids, first, strict=True):
            members[unit_of_word[word]].append(piece)
        made = []
        for number, group in groupby(range(len(words)), key=unit_of_word.__getitem__):
            unit_words = [words[index] for index in group]
            pieces = members[number]
            known = bool(pieces) and teacher.space.unknown not in pieces and len(pieces) <= room
            made.append(_Unit(tuple(unit_words), tuple(pieces), known and len(unit_words) == 1))
        yield made


def _words_of_pieces(
    spans: NDArray[np.int64], offsets: Sequence[tuple[int, int]]
) -> tuple[list[int], list[int]]:
    """For each piece the first and the last word that it lies in, of words [W, 2] by their first and behind their last character."""
    first: list[int] = []
    last: list[int] = []
    waiting = 0
    for start, stop in offsets:
        lowest = int(np.searchsorted(spans[:, 1], start, side="right"))
        highest = int(np.searchsorted(spans[:, 0], stop, side="left")) - 1
        if stop <= start or highest < lowest:
            waiting += 1
            continue
        first += [lowest] * (waiting + 1)
        last += [lowest] * waiting + [highest]
        waiting = 0
    tail = first[-1] if first else 0
    return first + [tail] * waiting, last + [tail] * waiting


def _blocks(units: Sequence[_Unit], room: int) -> Iterator[list[_Unit]]:
    """Point 4."""
    block: list[_Unit] = []
    size = 0
    for unit in units:
        if len(unit.pieces) > room:
            continue
        if block and size + len(unit.pieces) > room:
            yield block
            block, size = [], 0
        block.append(unit)
        size += len(unit.pieces)
    if block:
        yield block


def _passes(block: Sequence[_Unit], frame: TokenFrame, mask: int, rate: float) -> Iterator[_Pass]:
    """Points 5 and 6, but for the model."""
    text = " ".join(word for unit in block for word in unit.words)
    counting = [index for index, unit in enumerate(block) if unit.counts]
    order = sorted(
        range(len(counting)),
        key=lambda number: hashlib.sha256(f"{text}\n{number}".encode()).digest(),
    )
    group_count = math.ceil(1 / rate)
    for group in range(group_count):
        hidden = {counting[number] for number in order[group::group_count]}
        if not hidden:
            return
        row = list(frame.before)
        positions: list[int] = []
        gold: list[int] = []
        for index, unit in enumerate(block):
            if index in hidden:
                positions += range(len(row), len(row) + len(unit.pieces))
                gold += unit.pieces
                row += [mask] * len(unit.pieces)
            else:
                row += unit.pieces
        yield _Pass(row + list(frame.behind), positions, gold)


@torch.inference_mode()
def _bits(teacher: Teacher, passes: Sequence[_Pass], watch: ProgressCallback) -> float:
    device = next(teacher.model.parameters()).device
    total = 0.0
    done = 0
    for batch in batches([len(masked.input_ids) for masked in passes], _TOKENS):
        members = [passes[index] for index in batch]
        hidden = _hidden(teacher, members, device)
        gold = torch.tensor([piece for masked in members for piece in masked.gold], device=device)
        for rows, wanted in zip(hidden.split(_ROWS), gold.split(_ROWS), strict=True):
            logits = F.linear(rows, teacher.masked_lm.weight, teacher.masked_lm.bias).float()
            total += float(F.cross_entropy(logits, wanted, reduction="sum"))
        done += len(members)
        watch(done, len(passes), "bits per byte")
    return total / math.log(2)


def _hidden(teacher: Teacher, members: Sequence[_Pass], device: Any) -> torch.Tensor:
    width = max(len(masked.input_ids) for masked in members)
    input_ids = torch.full((len(members), width), teacher.space.pad)
    attention = torch.zeros_like(input_ids)
    for row, masked in enumerate(members):
        input_ids[row, : len(masked.input_ids)] = torch.tensor(masked.input_ids)
        attention[row, : len(masked.input_ids)] = 1
    output = teacher.masked_lm.encoder(
        input_ids=input_ids.to(device), attention_mask=attention.to(device)
    ).last_hidden_state.flatten(0, 1)
    cells = [
        row * width + place for row, masked in enumerate(members) for place in masked.positions
    ]
    return teacher.masked_lm.transform(output[torch.tensor(cells, device=device)])
