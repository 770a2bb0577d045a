"""Bits per byte: how well a masked language model fills in the words of a text, comparable across tokenizers.

The definition, in full, so that another implementation gives the same number:

1.  A document is a line. It is brought to Unicode NFC, and each run of white space in it to one space, none at its ends. Its
    words are its maximal runs of other characters, each cut behind every run of the punctuation of scripts that are
    written without spaces: U+3001 to U+3003, U+3008 to U+3011, U+3014 to U+301B, of the full-width forms
    ! ( ) , . : ; ? (U+FF01 and so on), of Thai U+0E5A and U+0E5B, of Burmese U+104A and U+104B, of Khmer U+17D4 to
    U+17D6 and U+17D8 to U+17DA, and the space without width (U+200B). So a word of Chinese is a clause with its mark,
    one of Thai what stands between two spaces.
2.  The tokenizer encodes the document as a whole, without special tokens. A piece belongs to the word that its
    characters (by the tokenizer's offsets, white space aside) lie in; a piece without such characters belongs to the
    word of the piece after it, at the end to the word of the piece before it.
3.  A word is *left out* if a piece of it is the unknown token, if a piece lies in it and in another word as well, if
    it has no piece, or if it has more pieces than a row holds. A word left out stays in the text, except that the
    last kind is taken out of it.
4.  Blocks: the words of a document in order, each with all its pieces, as many to a block as fit into a row (the
    smaller of the model's positions and `max_length`, special tokens included). A piece that lies in several words
    keeps those words in one block; where they do not fit into a row together, they are taken out of the text. The special tokens of the tokenizer go around each block.
5.  Groups: let G = ceil(1 / mask_rate), and W the number of words of the block that are not left out. These words,
    numbered j = 0 … W−1 as they stand, are ranked by the SHA-256 digest of the block's words joined by spaces, a
    newline and j in decimal, all in UTF-8; the word of rank r is in group r mod G. So every word is in one group, and
    the groups depend on the text alone where the blocks do.
6.  Passes: for each group that has a word, all pieces of its words are replaced by the mask token, the model reads the
    block once, and −log2 p(gold piece | block so masked) is summed over these pieces, p being the softmax over all
    output rows in float32.
7.  Bits per byte = the sum over all blocks and passes, divided by the number of UTF-8 bytes of the words that are not
    left out. Spaces between words are not counted.

A tokenizer with longer pieces sees no advantage: whatever the pieces, a word is predicted as a whole from its
surroundings. Its pieces are predicted independently given these, which is what a masked language model does.

In a language written without spaces a word by this definition is a clause (Chinese, Japanese) or a phrase, if not a sentence (Thai, Lao,
Khmer, Burmese), and nothing is in sight of one that is alone in its document: how many were predicted from nothing is told.
"""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from xeval.encoder import longest_row
from xeval.errors import XevalError
from xeval.progress import ProgressCallback
from xeval.protocol import Protocol
from xeval.statistics.items import Items, digest_of_examples
from xeval.task_templates.batches import by_length, pad_rows
from xeval.task_templates.files import read_text
from xeval.task_templates.task import ZeroShotTask
from xeval.task_templates.word_tokenization import Encoded, Pieces

if TYPE_CHECKING:
    from xeval.task_templates.masked import MaskedModel

_TOKENS = 4096
_MARKS = (
    "\u3001-\u3003\u3008-\u3011\u3014-\u301b\uff01\uff08\uff09\uff0c\uff0e\uff1a\uff1b\uff1f"
    "\u0e5a\u0e5b\u104a\u104b\u17d4-\u17d6\u17d8-\u17da\u200b"
)
_BEHIND_MARKS = re.compile(f"(?<=[{_MARKS}])(?=[^{_MARKS}])")


@dataclass(frozen=True, slots=True)
class Block:
    """A run of words of one document.

    Args:
        document: its number.
        words: their texts.
        pieces: ids of each word.
        scored: which of them are not left out.
    """

    document: int
    words: tuple[str, ...]
    pieces: tuple[tuple[int, ...], ...]
    scored: tuple[bool, ...]


def _read(path: Path, _cache: Path | None) -> list[str]:
    text, _ = read_text(path)
    return [line for line in text.split("\n") if line.strip()]


def _open(model: str, protocol: Protocol) -> tuple[MaskedModel, Pieces]:
    from xeval.task_templates.masked import open_masked

    masked, tokenizer = open_masked(model)
    limit = min(protocol.window, longest_row(masked.model))
    return masked, Pieces(tokenizer, limit)


def _view(examples: list[str], protocol: Protocol) -> tuple[list[str], list[str]]:
    return evenly(examples, protocol.lines), []


def _measure(
    opened: tuple[MaskedModel, Pieces],
    examples: Sequence[str],
    protocol: Protocol,
    watch: ProgressCallback,
) -> tuple[list[Items], list[str]]:
    masked, pieces = opened
    blocks = list(split_blocks(examples, pieces))
    rows = np.zeros((len(examples), 2))
    passes: list[tuple[int, Encoded]] = []
    for block in blocks:
        rows[block.document, 1] += sum(
            len(word.encode()) for word, use in zip(block.words, block.scored, strict=True) if use
        )
        passes += [
            (block.document, masked_row)
            for masked_row in mask_passes(block, pieces, masked.mask_id, protocol.mask_rate)
        ]
    if not rows[:, 1].any():
        raise XevalError(
            f"every word of the text that begins {examples[0][:40]!r} is unknown to the tokenizer, so there is no figure; leave "
            "its language out (--languages)"
        )
    encoded = [masked_row for _, masked_row in passes]
    done = 0
    for indices in by_length(encoded, tokens=masked.rows_at_once(_TOKENS)):
        batch = pad_rows([encoded[i] for i in indices], pieces.pad_id)
        bits = masked.bits(batch, [encoded[i].labels for i in indices])
        for i, value in zip(indices, bits, strict=True):
            rows[passes[i][0], 0] += value
        done += len(indices)
        watch(done, len(encoded), "bits per byte")
    items = Items(metric="bits_per_byte", rows=rows, test_digest=digest_of_examples(examples))
    every = sum(len(run) for line in examples for run in _runs(line))
    out = every - sum(sum(block.scored) for block in blocks)
    note = f"{out} of {every} words were left out: unknown, without piece, joined by a piece, or too long"
    unseen = sum(len(block.words) == 1 and block.scored[0] for block in blocks)
    alone = (
        f"{unseen} of {every - out} words had no other beside them and were predicted from nothing, as whole sentences are in a "
        "language written without spaces"
    )
    return [items], [note] * (out > 0) + [alone] * (unseen > 0)


def evenly(lines: Sequence[str], wanted: int) -> list[str]:
    """At most so many lines, evenly spread; all when `wanted` is 0."""
    if not wanted or len(lines) <= wanted:
        return list(lines)
    return [lines[i * len(lines) // wanted] for i in range(wanted)]


def split_blocks(lines: Sequence[str], pieces: Pieces) -> Iterator[Block]:
    """Points 1 to 4 of the definition."""
    documents = [_runs(line) for line in lines]
    encoded = pieces.tokenizer(
        [" ".join("".join(run) for run in runs) for runs in documents],
        add_special_tokens=False,
        return_offsets_mapping=True,
    )
    unknown = pieces.tokenizer.unk_token_id
    for number, runs in enumerate(documents):
        ids, offsets = encoded["input_ids"][number], encoded["offset_mapping"][number]
        words = [word for run in runs for word in run]
        word_of_piece, joined = _assign(runs, offsets)
        units: list[list[int]] = []
        word_ids: list[list[int]] = [[] for _ in words]
        for piece, word in zip(ids, word_of_piece, strict=True):
            word_ids[word].append(piece)
        known = [bool(p) and unknown not in p for p in word_ids]
        for i in range(len(words)):
            if i and i in joined:
                units[-1].append(i)
            else:
                units.append([i])
        together = {i for unit in units if len(unit) > 1 for i in unit}
        current: list[int] = []
        for unit in units:
            size = sum(len(word_ids[i]) for i in unit)
            if size > pieces.room:
                continue
            if current and sum(len(word_ids[i]) for i in current) + size > pieces.room:
                yield _block(number, words, word_ids, known, together, current)
                current = []
            current += unit
        if current:
            yield _block(number, words, word_ids, known, together, current)


def _block(
    number: int,
    words: Sequence[str],
    word_ids: Sequence[Sequence[int]],
    known: Sequence[bool],
    together: set[int],
    chosen: Sequence[int],
) -> Block:
    return Block(
        document=number,
        words=tuple(words[i] for i in chosen),
        pieces=tuple(tuple(word_ids[i]) for i in chosen),
        scored=tuple(known[i] and i not in together for i in chosen),
    )


def _runs(line: str) -> list[list[str]]:
    """Point 1: the words of each run between white space."""
    return [_BEHIND_MARKS.split(run) for run in unicodedata.normalize("NFC", line).split()]


def _assign(
    runs: Sequence[Sequence[str]], offsets: Sequence[tuple[int, int]]
) -> tuple[list[int], set[int]]:
    """The word of each piece; and the words that a piece joins to the one before them."""
    word_at: list[int] = []
    number = 0
    for run in runs:
        for text in run:
            word_at += [number] * len(text)
            number += 1
        word_at.append(-1)
    word_of_piece: list[int | None] = []
    joined: set[int] = set()
    for start, end in offsets:
        touched = [word for word in word_at[start:end] if word >= 0]
        word_of_piece.append(touched[0] if touched else None)
        if touched:
            joined.update(range(touched[0] + 1, touched[-1] + 1))
    following: int | None = None
    for i in range(len(word_of_piece) - 1, -1, -1):
        following = word_of_piece[i] if word_of_piece[i] is not None else following
        word_of_piece[i] = following
    last = 0
    filled = []
    for word in word_of_piece:
        last = last if word is None else word
        filled.append(last)
    return filled, joined


def mask_passes(block: Block, pieces: Pieces, mask_id: int, rate: float) -> Iterator[Encoded]:
    """Points 5 and 6: one masked row per group; `labels` are (position, gold id)."""
    scored = [i for i, use in enumerate(block.scored) if use]
    start = hashlib.sha256(" ".join(block.words).encode() + b"\n")
    keys = []
    for j in range(len(scored)):
        key = start.copy()
        key.update(str(j).encode())
        keys.append(key.digest())
    ranked = sorted(range(len(scored)), key=keys.__getitem__)
    groups = math.ceil(1 / rate)
    for group in range(min(groups, len(ranked))):
        hidden = {scored[j] for j in ranked[group::groups]}
        row = list(pieces.before)
        gold = []
        for i, ids in enumerate(block.pieces):
            for piece in ids:
                if i in hidden:
                    gold.append((len(row), piece))
                row.append(mask_id if i in hidden else piece)
        yield Encoded(rows=[row + pieces.after], labels=gold)


TASK = ZeroShotTask(
    name="bpb",
    title="bits per byte",
    folder="corpora",
    suffix="txt",
    metrics=("bits_per_byte",),
    read=_read,
    open=_open,
    measure=_measure,
    view=_view,
    own_settings=("mask_rate", "lines"),
)
