"""Unigram's segmentation of many pieces that have beginnings in common."""

from collections.abc import Mapping, Sequence
from math import inf

_ENDING = 3
_SHORT = (2, 1)  # lengths below that of an ending


def segment_likeliest(
    pieces: Sequence[str], ids: Mapping[str, int], scores: Sequence[float]
) -> list[list[int]]:
    """Unigram's segmentation with the greatest sum of scores, without the unknown; none where there is no such.

    Pieces are taken in alphabetical order, so that what is known of a shared beginning serves again; for 200,000
    pieces that is several times faster than asking the library for each.

    Args:
        pieces: what to segment.
        ids: the id of every piece that may be used.
        scores: by id.

    Example:
        >>> segment_likeliest(["abc"], {"ab": 0, "a": 1, "bc": 2, "c": 3}, [-1.0, -1.0, -3.0, -1.0])
        [[0, 3]]
    """
    number_of = dict(ids).get
    lengths_of = _lengths_by_ending(ids).get
    segmented: list[list[int]] = [[] for _ in pieces]
    # Of each beginning: its greatest sum, where its last piece begins, and which that is.
    best, start_of, last = [0.0], [0], [-1]
    before = ""
    for index in sorted(range(len(pieces)), key=pieces.__getitem__):
        piece = pieces[index]
        shared = 0
        for character, earlier in zip(piece, before, strict=False):
            if character != earlier:
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
            segmented[index].append(last[end])
            end = start_of[end]
        segmented[index].reverse()
    return segmented


def _lengths_by_ending(ids: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """For each ending of three characters, the lengths that a piece with that ending may have, longest first."""
    lengths_of: dict[str, set[int]] = {}
    for text in ids:
        if len(text) >= _ENDING:
            lengths_of.setdefault(text[-_ENDING:], set()).add(len(text))
    return {
        ending: (*sorted(lengths, reverse=True), *_SHORT) for ending, lengths in lengths_of.items()
    }
