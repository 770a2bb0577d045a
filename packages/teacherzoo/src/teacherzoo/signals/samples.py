"""Ids drawn at a position as they are stored, each once with its count, and back as weights.

Random sampling (Anshumann et al. 2025, "Sparse Logit Sampling: Accelerating Knowledge Distillation in LLMs"): D ids are drawn
with replacement from a proposal q, and an id that was drawn c times gets the weight (c / D) · p / q. Here q is the teacher's p, or
p^(1/T) normalised, itself. Then the ratio is 1: the weights are c / D, they sum to 1 without being normalised, the mean
of id v's weight over draws is p(v), and so the gradient of the cross-entropy with them is in the mean that with all of p. Another
proposal would have weights that either do not sum to 1 or, normalised, are biased.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from teacherzoo.errors import RecordError
from teacherzoo.signals.layout import Sampler

MOST_DRAWS = 255  # a count is a byte


def sampler_options(
    sampler: Sampler, k: int | None, draws: int | None, temperatures: Sequence[float] | None
) -> tuple[int | None, int | None, Sequence[float]]:
    """k, draws and temperatures as the sampler takes them, its own where nothing is said.

    Raises:
        RecordError: for what does not go with the sampler.
    """
    if sampler == "topk":
        if draws is not None:
            raise RecordError(
                f"draws goes with sampler 'random', which draws ids, got draws {draws} with sampler 'topk'; set the sampler, or "
                "mask_draws for the masks of a block."
            )
        k = 8 if k is None else k
        if k < 1:
            raise RecordError(f"k must be at least 1, got {k!r}.")
        return k, None, (2.0, 4.0) if temperatures is None else temperatures
    if sampler != "random":
        raise RecordError(f"sampler must be 'topk' or 'random', got {sampler!r}.")
    if k is not None:
        raise RecordError(
            f"k goes with sampler 'topk', got k {k} with sampler 'random'; leave it out and set draws."
        )
    draws = 12 if draws is None else draws
    if not 1 <= draws <= MOST_DRAWS:
        raise RecordError(f"draws must be from 1 to {MOST_DRAWS}, got {draws!r}.")
    temperatures = () if temperatures is None else temperatures
    if len(temperatures) > 1:
        raise RecordError(
            f"sampler 'random' draws at one temperature, got {list(temperatures)}; record into a folder for each."
        )
    return None, draws, temperatures if [*temperatures] != [1.0] else ()


def merge_draws(
    ids: NDArray[np.int64],
) -> tuple[NDArray[np.uint32], NDArray[np.uint8], NDArray[np.int64]]:
    """Equal draws as one id with a count.

    Args:
        ids: [N, D], ascending in each row.

    Returns:
        ids [U] and their counts [U], position by position, and how many each position has [N].
    """
    first = np.ones(ids.shape, dtype=bool)
    first[:, 1:] = ids[:, 1:] != ids[:, :-1]
    starts = np.flatnonzero(first)
    counts = np.diff(starts, append=ids.size)
    return ids[first].astype(np.uint32), counts.astype(np.uint8), first.sum(axis=1)


def decode_draws(
    ids: NDArray[np.int64], counts: NDArray[np.uint8], *, draws: int, temperature: float
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The inverse of `merge_draws`, as a reader of log-probabilities takes it.

    Args:
        ids: [U].
        counts: [U]; those of a position sum to `draws`.
        draws: D.
        temperature: T that the ids were drawn at.

    Returns:
        ids [N, D], -1 behind the last distinct one, and T · log(count / D) [N, D], minus infinity there: divided by T they are
        the logarithms of the weights.
    """
    ends = np.cumsum(counts, dtype=np.int64)
    position = (ends - 1) // draws
    number = len(ids) and int(position[-1]) + 1
    place = np.arange(len(ids)) - np.searchsorted(position, position)
    decoded = np.full((number, draws), -1, dtype=np.int64)
    logprobs = np.full((number, draws), -np.inf, dtype=np.float32)
    decoded[position, place] = ids
    logprobs[position, place] = temperature * np.log(counts / draws)
    return decoded, logprobs
