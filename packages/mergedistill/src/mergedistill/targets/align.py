"""Where two teachers of a language speak of the same thing: positions of one recording found in another.

Both recordings are of the same documents under the same masks, drawn by content, but each teacher cuts text its own way.
A student reads one segmentation, its lead teacher's. Another teacher is heard at a masked position if it spells that word
with the same student pieces, all of them masked: these pieces then cover the same bytes in both, one by one. Else it
abstains there. Teachers with one tokenizer agree everywhere.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from teacherzoo.signals.shard import ShardArrays


def meeting_places(lead: ShardArrays, other: ShardArrays) -> NDArray[np.int64]:
    """For each masked position of one shard the same one in another's, in the student's ids both.

    Args:
        lead: P positions.
        other: of the same documents, by another teacher.

    Returns:
        [P], numbers of positions in `other`; -1 where the other teacher abstains.
    """
    mine, theirs = _words([lead, other])
    here, there = _Groups.of(mine), _Groups.of(theirs)
    at = np.searchsorted(there.words, here.words)
    found = at < len(there.words)
    found[found] = there.words[at[found]] == here.words[found]
    found[found] = there.sizes[at[found]] == here.sizes[found]
    group = np.repeat(np.arange(len(here.words)), here.sizes)
    inside = np.arange(len(mine)) - here.starts[group]
    asked = np.flatnonzero(found[group])
    place = there.order[there.starts[at[group[asked]]] + inside[asked]]
    gold = lead.labels[here.order[asked]]
    alike = (gold >= 0) & (other.labels[place] == gold)
    differing = np.bincount(group[asked[~alike]], minlength=len(here.words)) > 0
    spoken = ~differing[group[asked]]
    places = np.full(len(mine), -1, dtype=np.int64)
    places[here.order[asked[spoken]]] = place[spoken]
    return places


class _Groups:
    """Positions by word: `order[starts[g] : starts[g] + sizes[g]]` are those of word g, in the order of the text."""

    def __init__(
        self,
        words: NDArray[np.int64],
        starts: NDArray[np.int64],
        sizes: NDArray[np.int64],
        order: NDArray[np.int64],
    ) -> None:
        self.words, self.starts, self.sizes, self.order = words, starts, sizes, order

    @classmethod
    def of(cls, word_of_position: NDArray[np.int64]) -> _Groups:
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
