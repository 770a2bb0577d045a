"""Byte-pair encoding (Sennrich, Haddow, Birch 2016): characters or bytes, joined pair by pair in order of rank."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from math import inf
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vocabmerge.families.components import open_tokenizer, unfolded
from vocabmerge.families.merge_order import order_merges
from vocabmerge.families.model import CalibrationData, TokenizerModel
from vocabmerge.families.pieces import (
    BYTE_ALPHABET,
    Key,
    WordClass,
    byte_level_key,
    encoded,
    isolated_characters,
    prefixed_key,
)


class BytePairEncoding(TokenizerModel):
    """What all kinds of BPE have in common: merges. How they mark words is for the subclasses to say."""

    type = "BPE"

    @classmethod
    def read(cls, tokenizer: Mapping[str, Any], *, name: str) -> TokenizerModel:
        """The kind of BPE, by what happens to text before the model."""
        before = [
            *unfolded(tokenizer.get("normalizer")),
            *unfolded(tokenizer.get("pre_tokenizer")),
        ]
        steps = {part["type"] for part in before}
        if "ByteLevel" in steps:
            return ByteLevelBpe(tokenizer, name=name)
        if tokenizer["model"]["byte_fallback"]:
            return ByteFallbackBpe(tokenizer, name=name)
        if "Metaspace" in steps or any("▁" in str(part.get("content", "")) for part in before):
            return MetaspaceBpe(tokenizer, name=name)
        return PlainBpe(tokenizer, name=name)

    @property
    def merges(self) -> Sequence[Sequence[str]]:
        """Pairs of pieces, in order of rank."""
        merges: Sequence[Sequence[str]] = self.json["merges"]
        return merges

    def joined(self, left: str, right: str) -> str:
        """What a merge makes."""
        return left + right.removeprefix(self.prefix)

    def ranks(self) -> NDArray[np.int32]:
        """The rank of the first merge that makes each piece [V], -1 where none does."""
        ranks = super().ranks()
        for rank, (left, right) in enumerate(self.merges):
            number = self.ids.get(self.joined(left, right))
            if number is not None and ranks[number] < 0:
                ranks[number] = rank
        return ranks

    def merge_ids(self) -> NDArray[np.int64]:
        """The ids (left, right, result) of every merge whose three pieces exist, in order of rank [M, 3]."""
        ids = self.ids
        rows = [
            (ids.get(left, -1), ids.get(right, -1), ids.get(self.joined(left, right), -1))
            for left, right in self.merges
        ]
        table = np.array(rows, dtype=np.int64).reshape(-1, 3)
        return table[(table >= 0).all(axis=1)]

    def segment(self, pieces: Sequence[str]) -> list[list[int]]:
        """The library's segmentations, except with marks, which to the library would be text."""
        if self.prefix or self.suffix:
            ids = dict(self.entries())
            return segment_by_merges(pieces, ids, self.merges, self.prefix, self.suffix)
        return super().segment(pieces)

    def rewritten(
        self, new_ids: NDArray[np.int64], pieces: Sequence[str], rename: Mapping[str, str]
    ) -> dict[str, Any]:
        """The model renumbered; merges go that need a piece which goes."""
        model = super().rewritten(new_ids, pieces, rename)
        numbers = zip(self.pieces, new_ids.tolist(), strict=True)
        kept = {piece for piece, new in numbers if new >= 0}
        model["merges"] = [
            [left, right]
            for left, right in self.merges
            if left in kept and right in kept and self.joined(left, right) in kept
        ]
        return model

    def united(
        self,
        models: Sequence[TokenizerModel],
        pieces: Sequence[str],
        *,
        unknown: str,
        scores: ArrayLike | None,
    ) -> dict[str, Any]:
        """All pieces, and all merges among them by the lowest rank that any of the models gives them."""
        model = super().united(models, pieces, unknown=unknown, scores=scores)
        rank: dict[tuple[str, str], tuple[int, int]] = {}
        for number, model_of_teacher in enumerate(models):
            for place, (left, right) in enumerate(model_of_teacher.merges):
                if all(
                    piece in model["vocab"] for piece in (left, right, self.joined(left, right))
                ):
                    rank[left, right] = min(
                        rank.get((left, right), (place, number)), (place, number)
                    )
        model["merges"] = [list(pair) for pair in sorted(rank, key=rank.__getitem__)]
        return model

    def calibrated(self, data: CalibrationData) -> dict[str, Any]:
        """The union with its merges in an order under which fewer words come out wrong; see `order_merges`."""
        if len(data.teachers) == 1 or not data.words:
            return data.union
        model = data.union["model"]
        vocab, merges = model["vocab"], model["merges"]
        number_of = {(left, right): number for number, (left, right) in enumerate(merges)}
        rows = [
            [vocab[left], vocab[right], vocab[self.joined(left, right)]] for left, right in merges
        ]
        ranks = np.full(len(merges), np.iinfo(np.int32).max, dtype=np.int64)
        teacher_merges: list[NDArray[np.int64]] = []
        for teacher in data.teachers:
            pairs = [(left, right) for left, right in teacher.merges]
            known = [
                (number_of[pair], rank) for rank, pair in enumerate(pairs) if pair in number_of
            ]
            table = np.array(known, dtype=np.int64).reshape(-1, 2)
            teacher_merges.append(table[:, 0])
            np.minimum.at(ranks, table[:, 0], table[:, 1])

        def ordered(order: NDArray[np.int64]) -> dict[str, Any]:
            in_order = [merges[number] for number in order.tolist()]
            return {**data.union, "model": {**model, "merges": in_order}}

        order = order_merges(
            np.array(rows, dtype=np.int64).reshape(-1, 3),
            ranks,
            {code: teacher_merges[data.teacher_of[code]] for code in data.words},
            lambda trial: open_tokenizer(ordered(trial), name="union"),
            data.words,
            watch=data.watch,
        )
        return ordered(order)


class ByteLevelBpe(BytePairEncoding):
    """GPT-2's: pieces of bytes, spelled in a printable alphabet; a space is a byte, too (Radford et al. 2019)."""

    family = "bpe-byte"
    has_fallback_bytes = False
    spells_text = False

    def key(self, piece: str) -> Key:
        """The canonical key of a piece; a space at its beginning begins a word."""
        return byte_level_key(piece)

    @cached_property
    def longest_character(self) -> int:
        """A space and the four bytes of a character, and the suffix."""
        return 5 + len(self.suffix)

    def is_byte(self, piece: str) -> bool:
        """Whether a piece stands for one byte."""
        return len(piece.removesuffix(self.suffix)) == 1

    def piece_of(self, key: Key, normalize: Callable[[str], str] = str) -> str:
        """The bytes of a key in the printable alphabet, whether or not they are text."""
        place, text = key
        return "".join(BYTE_ALPHABET[byte] for byte in (b" " if place == "initial" else b"") + text)


class ByteFallbackBpe(BytePairEncoding):
    """SentencePiece's BPE with a piece for each byte of a character that has none, such as Llama's."""

    family = "bpe-byte-fallback"


class MetaspaceBpe(BytePairEncoding):
    """SentencePiece's BPE, in which `▁` stands for a space."""

    family = "bpe-metaspace"


class PlainBpe(BytePairEncoding):
    """BPE after text is cut into words, with a suffix at their ends (`</w>`), a prefix inside them, or neither."""

    family = "bpe-plain"

    def __init__(self, tokenizer: Mapping[str, Any], *, name: str) -> None:
        super().__init__(tokenizer, name=name)
        self.marks_word_starts = bool(self.prefix)

    @cached_property
    def _stands_alone(self) -> Callable[[str], bool]:
        return isolated_characters(self.tokenizer)

    def key(self, piece: str) -> Key:
        """The canonical key of a piece, which keeps its suffix; without a prefix nothing tells where a word starts."""
        if self.prefix:
            return prefixed_key(piece, self.prefix, self._stands_alone)
        return "internal", encoded(piece)

    def marked(self, text: str, place: WordClass) -> str:
        """A text with the prefix inside words, if there is one."""
        return self.prefix + text if place == "internal" and text else text


def segment_by_merges(
    pieces: Sequence[str],
    ids: Mapping[str, int],
    merges: Sequence[Sequence[str]],
    prefix: str,
    suffix: str,
) -> list[list[int]]:
    """BPE's merges applied to the characters of pieces with marks, which to the library would be text.

    Args:
        pieces: what to segment.
        ids: the id of each piece.
        merges: pairs, in order of rank.
        prefix: of pieces inside words, or "".
        suffix: of pieces at the end of words, or "".

    Returns:
        The ids of each; none where a character has no piece.

    Example:
        >>> segment_by_merges(["abab</w>"], {"a": 0, "b": 1, "b</w>": 2, "ab": 3}, [("a", "b")], "", "</w>")
        [[3, 0, 2]]
    """
    rank = {(left, right): number for number, (left, right) in enumerate(merges)}
    segmented: list[list[int]] = []
    for piece in pieces:
        if not piece:
            segmented.append([])
            continue
        inside = piece.startswith(prefix) and piece != prefix
        ends = piece.endswith(suffix) and piece != suffix
        text = piece.removeprefix(prefix) if inside else piece
        text = text.removesuffix(suffix) if ends else text
        symbols = [prefix + character for character in text]
        symbols[0] = symbols[0] if inside else text[0]
        symbols[-1] += suffix if ends else ""
        while len(symbols) > 1:
            ranks = [rank.get(pair, inf) for pair in pairwise(symbols)]
            first = min(range(len(ranks)), key=ranks.__getitem__)
            if ranks[first] == inf:
                break
            symbols[first : first + 2] = [symbols[first] + symbols[first + 1].removeprefix(prefix)]
        known = all(symbol in ids for symbol in symbols)
        segmented.append([ids[symbol] for symbol in symbols] if known else [])
    return segmented
