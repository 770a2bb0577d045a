"""Events of masked words: the word of the text and the words a teacher holds likely, in the student's pieces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mergedistill.targets.spellings import WordSpellings
from teacherzoo.signals.shard import ShardArrays


@dataclass(frozen=True, kw_only=True)
class WordEvents:
    """M masked words with at most E events of at most L pieces each; the first event is the word of the text.

    Attributes:
        first: [M], the position at which the word begins; it fills as many as it has pieces.
        sizes: [M], the student's pieces.
        ids: [M, E, L], -1 behind the last.
        logprobs: [M, E], of a teacher at a temperature; minus infinity where there are fewer events.
        weights: [M].
    """

    first: NDArray[np.int64]
    sizes: NDArray[np.int64]
    ids: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    weights: NDArray[np.float32]

    def between(self, start: int, stop: int) -> WordEvents:
        """Those that begin in `start` to `stop`, of events in order."""
        inside = slice(*np.searchsorted(self.first, [start, stop]))
        return self._taken(inside)

    def ordered(self) -> WordEvents:
        """By where they begin."""
        return self._taken(np.argsort(self.first, kind="stable"))

    def _taken(self, rows: slice | NDArray[np.int64]) -> WordEvents:
        return WordEvents(**{name: column[rows] for name, column in vars(self).items()})


def join_events(parts: Sequence[WordEvents]) -> WordEvents:
    """Several one behind the other, filled up to the most events and pieces."""
    most = max(part.ids.shape[1] for part in parts)
    longest = max(part.ids.shape[2] for part in parts)
    filled = [
        WordEvents(
            first=part.first,
            sizes=part.sizes,
            ids=np.pad(
                part.ids,
                ((0, 0), (0, most - part.ids.shape[1]), (0, longest - part.ids.shape[2])),
                constant_values=-1,
            ),
            logprobs=np.pad(
                part.logprobs,
                ((0, 0), (0, most - part.logprobs.shape[1])),
                constant_values=-np.inf,
            ),
            weights=part.weights,
        )
        for part in parts
    ]
    return WordEvents(
        **{
            name: np.concatenate([getattr(part, name) for part in filled])
            for name in WordEvents.__dataclass_fields__
        }
    )


def events_of(
    raw: ShardArrays,
    *,
    labels: NDArray[np.int64],
    first: NDArray[np.int64],
    sizes: NDArray[np.int64],
    raw_first: NDArray[np.int64],
    raw_sizes: NDArray[np.int64],
    weights: NDArray[np.float64],
    spellings: WordSpellings,
    temperature: float,
    column: int,
) -> WordEvents:
    """The events of M words at a teacher.

    The likelihood of the word in the text is recorded. Further words come from the top k of a teacher that has the word as
    one piece: those that are words, and that the student spells with as many pieces as there are masks. They count where
    the spelling is known to hold, which the word of the text shows: its own piece must spell what stands there.

    Args:
        raw: the teacher's predictions in its own ids.
        labels: [P], the student's pieces.
        first: [M], where a word begins in `labels`.
        sizes: [M], how many pieces it has there.
        raw_first: [M], where it begins in `raw`.
        raw_sizes: [M], how many it has there.
        weights: [M].
        spellings: the teacher's words in the student's pieces.
        temperature: of the loss.
        column: of `raw.log_partition`, where the temperature is not 1.
    """
    longest = int(max(sizes.max(initial=1), spellings.ids.shape[1]))
    places = np.arange(longest)
    rows = np.minimum(first[:, None] + places, len(labels) - 1)
    gold = np.where(places < sizes[:, None], labels[rows], -1).astype(np.int32)
    assert raw.word_logprobs is not None
    word_column = 0 if temperature == 1.0 else 1 + column
    gold_logprobs = raw.word_logprobs[raw_first, word_column].astype(np.float64)
    ids, logprobs = _candidates(
        raw, raw_first, gold, sizes, raw_sizes, spellings, temperature, column
    )
    ids = np.concatenate([gold[:, None], ids], axis=1)
    logprobs = np.concatenate([gold_logprobs[:, None], logprobs], axis=1)
    _add_up_equal(ids, logprobs)
    used = 1 + int(np.nonzero(np.isfinite(logprobs))[1].max(initial=0))
    length = int(sizes.max(initial=1))
    return WordEvents(
        first=first,
        sizes=sizes,
        ids=ids[:, :used, :length],
        logprobs=logprobs[:, :used].astype(np.float32),
        weights=weights.astype(np.float32),
    )


def _candidates(
    raw: ShardArrays,
    raw_first: NDArray[np.int64],
    gold: NDArray[np.int32],
    sizes: NDArray[np.int64],
    raw_sizes: NDArray[np.int64],
    spellings: WordSpellings,
    temperature: float,
    column: int,
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """[M, K, L] and [M, K]: likely words in the student's pieces; minus infinity where there is none."""
    longest = gold.shape[1]
    table = np.pad(
        spellings.ids, ((0, 0), (0, longest - spellings.ids.shape[1])), constant_values=-1
    )
    piece = raw.labels[raw_first]
    listed = raw.topk_ids[raw_first]
    known = (raw_sizes == 1) & (spellings.sizes[piece] == sizes)
    known &= (table[piece] == gold).all(axis=1)
    fits = known[:, None] & (spellings.sizes[listed] == sizes[:, None])
    fits &= listed != piece[:, None]  # whose likelihood is recorded
    logprobs = raw.topk_logprobs[raw_first].astype(np.float64) / temperature
    if temperature != 1.0:
        logprobs -= raw.log_partition[raw_first, column, None]
    return np.where(fits[..., None], table[listed], -1), np.where(fits, logprobs, -np.inf)


def _add_up_equal(ids: NDArray[np.int32], logprobs: NDArray[np.float64]) -> None:
    """In place, leave an event that stands twice once, with the sum of its probabilities."""
    for later in range(1, ids.shape[1]):
        same = (ids[:, :later] == ids[:, later, None]).all(axis=2) & np.isfinite(
            logprobs[:, later, None]
        )
        words = np.flatnonzero(same.any(axis=1))
        earlier = same[words].argmax(axis=1)
        logprobs[words, earlier] = np.logaddexp(logprobs[words, earlier], logprobs[words, later])
        logprobs[words, later] = -np.inf
        ids[words, later] = -1
