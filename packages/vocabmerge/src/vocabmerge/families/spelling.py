"""How a tokenizer spells a piece that it does not have."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import inf
from typing import Any

import tokenizers

_ENDING = 3
_SHORT = (2, 1)  # lengths below that of an ending


def spell(piece: str, tokenizer: Mapping[str, Any], opened: tokenizers.Tokenizer) -> list[int]:
    """The ids that stand for a piece in the place in a word where it stood.

    Args:
        piece: in the tokenizer's own spelling, with its word marker.
        tokenizer: the parsed `tokenizer.json`.
        opened: the same, opened.

    Returns:
        The ids; none where a part of the piece is unknown to the tokenizer.
    """
    model = tokenizer["model"]
    if model["type"] == "WordPiece":
        return spell_greedily(piece, model["vocab"], model["continuing_subword_prefix"])
    if has_marks(model):
        return spell_by_merges([piece], model)[0]
    vocab = model["vocab"]
    unknown = model.get("unk_id")
    if isinstance(vocab, Mapping):
        unknown = vocab.get(model.get("unk_token"))
    ids = [token.id for token in opened.model.tokenize(piece)]
    return [] if unknown in ids else ids


def spell_likeliest(
    pieces: Sequence[str], ids: Mapping[str, int], scores: Sequence[float]
) -> list[list[int]]:
    """Unigram's segmentation with the greatest sum of scores, without the unknown; none where there is no such.

    Pieces are taken in alphabetical order, so that what was found for a shared beginning serves again; for 200,000
    pieces that is several times faster than asking the library for each.

    Args:
        pieces: what to spell.
        ids: the id of every piece that may be used.
        scores: by id.

    Example:
        >>> spell_likeliest(["abc"], {"ab": 0, "a": 1, "bc": 2, "c": 3}, [-1.0, -1.0, -3.0, -1.0])
        [[0, 3]]
    """
    number_of = dict(ids).get
    lengths_of = _lengths_by_ending(ids).get
    spelled: list[list[int]] = [[] for _ in pieces]
    # Of each beginning: its greatest sum, where its last piece begins, and which that is.
    best, start_of, last = [0.0], [0], [-1]
    before = ""
    for index in sorted(range(len(pieces)), key=pieces.__getitem__):
        piece = pieces[index]
        shared = 0
        for here, there in zip(piece, before, strict=False):
            if here != there:
                break
            shared += 1
        del best[shared + 1 :], start_of[shared + 1 :], last[shared + 1 :]
        for end in range(shared + 1, len(piece) + 1):
            top, top_start, top_number = -inf, 0, -1
            # Longest first, so that of equal sums the one with the longest last piece wins.
            for length in lengths_of(piece[max(end - _ENDING, 0) : end], _SHORT):
                start = end - length
                number = number_of(piece[start:end]) if start >= 0 else None
                if number is not None:
                    total = best[start] + scores[number]
                    if total > top:
                        top, top_start, top_number = total, start, number
            best.append(top)
            start_of.append(top_start)
            last.append(top_number)
        before = piece
        end = len(piece)
        while end and best[len(piece)] > -inf:
            spelled[index].append(last[end])
            end = start_of[end]
        spelled[index].reverse()
    return spelled


def _lengths_by_ending(ids: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """For each ending of three characters, the lengths that a piece with that ending may have, longest first."""
    found: dict[str, set[int]] = {}
    for text in ids:
        if len(text) >= _ENDING:
            found.setdefault(text[-_ENDING:], set()).add(len(text))
    return {ending: (*sorted(lengths, reverse=True), *_SHORT) for ending, lengths in found.items()}


def has_marks(model: Mapping[str, Any]) -> bool:
    """Whether a BPE model writes marks into its pieces, a prefix inside words or a suffix at their ends."""
    marks = ("continuing_subword_prefix", "end_of_word_suffix")
    return model["type"] == "BPE" and any(model.get(mark) for mark in marks)


def spell_by_merges(pieces: Sequence[str], model: Mapping[str, Any]) -> list[list[int]]:
    """BPE's merges applied to the characters of pieces with marks, which to the library would be text.

    Args:
        pieces: what to spell.
        model: of a `tokenizer.json`.

    Returns:
        The ids of each; none where a character has no piece.

    Example:
        >>> model = {"type": "BPE", "end_of_word_suffix": "</w>", "vocab": {"a": 0, "b": 1, "b</w>": 2, "ab": 3},
        ...     "merges": [["a", "b"]]}
        >>> spell_by_merges(["abab</w>"], model)
        [[3, 0, 2]]
    """
    prefix = model.get("continuing_subword_prefix") or ""
    suffix = model.get("end_of_word_suffix") or ""
    ids = model["vocab"]
    rank = {(left, right): number for number, (left, right) in enumerate(model["merges"])}
    spelled: list[list[int]] = []
    for piece in pieces:
        if not piece:
            spelled.append([])
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
        spelled.append([ids[s] for s in symbols] if all(s in ids for s in symbols) else [])
    return spelled


def spell_greedily(piece: str, ids: Mapping[str, int], prefix: str) -> list[int]:
    """WordPiece's longest match first, for a word's beginning or, where the piece has the prefix, its inside.

    Example:
        >>> spell_greedily("##abc", {"##a": 0, "##ab": 1, "##c": 2, "abc": 3}, "##")
        [1, 2]
    """
    inside = piece.startswith(prefix) and piece != prefix
    text = piece.removeprefix(prefix) if inside else piece
    found: list[int] = []
    start = 0
    while start < len(text):
        for end in range(len(text), start, -1):
            number = ids.get(prefix + text[start:end] if inside or start else text[:end])
            if number is not None:
                break
        else:
            return []
        found.append(number)
        start = end
    return found
