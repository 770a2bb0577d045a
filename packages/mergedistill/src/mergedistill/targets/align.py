"""Masked positions of one teacher's recording aligned with those of another, whose tokenizer may differ.

Both recordings are of the same documents under the same masks, drawn by content, but each teacher cuts text its own way.
A student reads one segmentation, its primary teacher's. Another teacher has a prediction for a masked position if it spells
that word with the same student pieces, all of them masked: these pieces then cover the same bytes in both, one by one. Else
its prediction is missing there. Teachers with one tokenizer are aligned everywhere.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from teacherzoo.signals.shard import ShardArrays


def align_positions(primary: ShardArrays, other: ShardArrays) -> NDArray[np.int64]:
    """For each masked position of one shard the same one in another's, in the student's ids both.

    Args:
        primary: P positions.
        other: of the same documents, by another teacher.

    Returns:
        [P], numbers of positions in `other`; -1 where the other teacher has no prediction.
    """
    here, there, match = match_words(primary, other)
    matched = match >= 0
    matched[matched] = there.sizes[match[matched]] == here.sizes[matched]
    group = here.group_of_ordered
    offset = np.arange(len(group)) - here.starts[group]
    candidate = np.flatnonzero(matched[group])
    position = there.order[there.starts[match[group[candidate]]] + offset[candidate]]
    gold = primary.labels[here.order[candidate]]
    same_piece = (gold >= 0) & (other.labels[position] == gold)
    differing = np.bincount(group[candidate[~same_piece]], minlength=len(here.words)) > 0
    same_word = ~differing[group[candidate]]
    positions = np.full(len(group), -1, dtype=np.int64)
    positions[here.order[candidate[same_word]]] = position[same_word]
    return positions


def match_words(
    primary: ShardArrays, other: ShardArrays
) -> tuple[WordGroups, WordGroups, NDArray[np.int64]]:
    """The masked words of two shards of the same documents.

    Returns:
        The words of the one and of the other, and for each of the former [G] its number among the latter, -1 where
        the other has nothing masked that is counted to it.
    """
    here, there = (WordGroups.of(words) for words in _words([primary, other]))
    match = np.searchsorted(there.words, here.words)
    matched = match < len(there.words)
    matched[matched] = there.words[match[matched]] == here.words[matched]
    return here, there, np.where(matched, match, -1)


def masked_words(shard: ShardArrays) -> WordGroups:
    """The masked words of one shard."""
    return WordGroups.of(_words([shard])[0])


class WordGroups:
    """Positions by word: `order[starts[g] : starts[g] + sizes[g]]` are those of word g, in the order of the text."""

    def __init__(
        self,
        words: NDArray[np.int64],
        starts: NDArray[np.int64],
        sizes: NDArray[np.int64],
        order: NDArray[np.int64],
    ) -> None:
        self.words, self.starts, self.sizes, self.order = words, starts, sizes, order

    @property
    def group_of_ordered(self) -> NDArray[np.int64]:
        """[P], the word of `order[p]`."""
        return np.repeat(np.arange(len(self.words)), self.sizes)

    @property
    def group_of_position(self) -> NDArray[np.int64]:
        """[P], the word of each position."""
        groups = np.empty(len(self.order), dtype=np.int64)
        groups[self.order] = self.group_of_ordered
        return groups

    def any_of(self, positions: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """[G], the words one of whose positions is marked [P]."""
        return np.bincount(self.group_of_position[positions], minlength=len(self.words)) > 0

    def all_of(self, positions: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """[G], the words all of whose positions are marked [P]."""
        return ~self.any_of(~positions)

    @classmethod
    def of(cls, word_of_position: NDArray[np.int64]) -> WordGroups:
        """Group positions [P] by the number of their word."""
        words, starts, sizes = np.unique(
            np.sort(word_of_position), return_index=True, return_counts=True
        )
        # A word that was cut in two by the end of a block lies in several rows, in order.
        return cls(words, starts, sizes, np.argsort(word_of_position, kind="stable"))


def _words(shards: list[ShardArrays]) -> list[NDArray[np.int64]]:
    """For each shard [P] one number for document, draw and word, the same in all of them."""
    digests = np.concatenate([shard.documents for shard in shards])
    names = np.ascontiguousarray(digests).view("V16").ravel()
    _, document = np.unique(names, return_inverse=True)
    draws = 1 + max((int(shard.draws.max()) for shard in shards if len(shard.draws)), default=0)
    most = 1 + max((int(shard.words.max()) for shard in shards if len(shard.words)), default=0)
    parts = np.split(document.ravel(), np.cumsum([len(shard.documents) for shard in shards])[:-1])
    return [
        np.repeat(part * draws + shard.draws, np.diff(shard.position_starts)) * most + shard.words
        for shard, part in zip(shards, parts, strict=True)
    ]
