"""Several teachers at the positions of one text become one: a mixture of what they say, or in each block the best of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from teacherzoo.signals.shard import ShardArrays


@dataclass(frozen=True, kw_only=True)
class Together:
    """What is heard at P masked positions, in the student's ids; the columns are those of `ShardArrays`."""

    topk_ids: NDArray[np.int64]
    topk_logprobs: NDArray[np.float32]
    tail: NDArray[np.float32]
    lost: NDArray[np.float32]
    log_partition: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Said(Together):
    """What one teacher said of R blocks, just now; the further columns, too, are those of `ShardArrays`."""

    loss: NDArray[np.float32]
    position_starts: NDArray[np.int64]
    labels: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Voice:
    """A teacher at the P masked positions of the lead.

    Attributes:
        arrays: what it said of blocks of its own, recorded or just now.
        places: [P], its number of each position; -1 where it abstains. The lead never does.
        weight: of its say.
        unlisted: how many ids of its vocabulary are not among the k of a position.
    """

    arrays: ShardArrays | Said
    places: NDArray[np.int64]
    weight: float
    unlisted: int

    @property
    def speaks(self) -> NDArray[np.bool_]:
        """[P]."""
        return self.places >= 0


def mixture(voices: Sequence[Voice], *, temperature: float) -> Together:
    """At each position p = Σ_t w_t p_t / Σ_t w_t, over the teachers t that speak at a position.

    Each p_t is taken at the temperature, p_t^(1/T) / Σ p_t^(1/T). An id that one teacher lists and another does not
    gets nothing from the other, whose share of it stays in the tail. An id that several list stands several times, and
    counts as the sum. The log-probabilities are T · log p and the log partitions 0, for a loss divides by T again.

    Args:
        voices: the lead first.
        temperature: T.
    """
    lead = voices[0].arrays
    share = np.stack([voice.weight * voice.speaks for voice in voices]).astype(np.float64)
    share /= share.sum(axis=0)
    ids, logprobs = [], []
    tail = np.zeros(len(lead.tail))
    lost = np.zeros(len(lead.tail))
    for voice, its in zip(voices, share, strict=True):
        arrays, at = voice.arrays, np.maximum(voice.places, 0)
        with np.errstate(divide="ignore"):
            log_share = np.log(its)
        said = arrays.topk_logprobs[at] / temperature + log_share[:, None]
        if temperature != 1.0:
            said -= arrays.log_partition[at, :1]
        ids.append(np.where(voice.speaks[:, None], arrays.topk_ids[at], -1))
        logprobs.append(temperature * said)
        tail += its * arrays.tail[at]
        lost += its * arrays.lost[at]
    return Together(
        topk_ids=np.concatenate(ids, axis=1),
        topk_logprobs=np.concatenate(logprobs, axis=1).astype(np.float32),
        tail=tail.astype(np.float32),
        lost=lost.astype(np.float32),
        log_partition=np.zeros_like(lead.log_partition),
    )


def mince(
    voices: Sequence[Voice], *, same_text: bool
) -> tuple[Together, NDArray[np.int64], NDArray[np.int64]]:
    """Each block as the teacher with the lowest cross-entropy with it says it (FuseLLM's MinCE).

    Teachers with one tokenizer compare by what they recorded, the mean of -log p(gold) over the block. Others compare
    over the positions at which all speak; a gold id that a teacher does not list costs what its tail, spread evenly over
    the ids that it did not list, gives it. Equals go to the one named first, and so do blocks without such a position.
    Where the chosen one abstains, the lead is heard.

    Args:
        voices: the lead first.
        same_text: whether all have one tokenizer.

    Returns:
        What is heard, the chosen voice of each row [R], and the one that is heard at each position [P].
    """
    lead = voices[0].arrays
    if same_text:
        costs = np.stack([voice.arrays.loss for voice in voices]).astype(np.float64)
    else:
        costs = _costs(voices)
    chosen = costs.argmin(axis=0)
    wanted = np.repeat(chosen, np.diff(lead.position_starts))
    speaks = np.stack([voice.speaks for voice in voices])
    heard = np.where(speaks[wanted, np.arange(len(wanted))], wanted, 0)
    picked = {name: getattr(lead, name).copy() for name in _SAID}
    for number, voice in enumerate(voices[1:], start=1):
        here = np.flatnonzero(heard == number)
        for name in _SAID:
            picked[name][here] = getattr(voice.arrays, name)[voice.places[here]]
    return Together(**picked), chosen, heard


_SAID = ("topk_ids", "topk_logprobs", "tail", "lost", "log_partition")


def _costs(voices: Sequence[Voice]) -> NDArray[np.float64]:
    """[voices, R] summed cross-entropy with the text at positions where all speak."""
    lead = voices[0].arrays
    counts = np.diff(lead.position_starts)
    row = np.repeat(np.arange(len(counts)), counts)
    common = np.flatnonzero(np.logical_and.reduce([voice.speaks for voice in voices]))
    return np.stack(
        [
            np.bincount(
                row[common],
                weights=_surprise(voice, common, lead.labels[common]),
                minlength=len(counts),
            )
            for voice in voices
        ]
    )


def _surprise(
    voice: Voice, positions: NDArray[np.int64], gold: NDArray[np.int64]
) -> NDArray[np.float64]:
    at = voice.places[positions]
    arrays = voice.arrays
    listed = arrays.topk_ids[at] == gold[:, None]
    probability = (np.exp(arrays.topk_logprobs[at].astype(np.float64)) * listed).sum(axis=1)
    spread = arrays.tail[at].astype(np.float64) / max(1, voice.unlisted)
    cost: NDArray[np.float64] = -np.log(
        np.maximum(np.where(listed.any(axis=1), probability, spread), 1e-30)
    )
    return cost
