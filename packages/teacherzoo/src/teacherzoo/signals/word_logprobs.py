"""Masked words as one event: the log-probability of all their pieces together, as recorded and as read back.

Under a masked LM the pieces of a word that is masked whole are independent, so log p(word) = Σ_j log p(piece_j), and at a
temperature T = Σ_j (log p(piece_j) / T - log Σ_v p_jv^(1/T)).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def word_starts(words: NDArray[np.int64], position_starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """[W], where each masked word of each row begins.

    Args:
        words: [P], the word of each masked position, row by row.
        position_starts: [R + 1], where each row's masked positions begin.
    """
    begins = np.zeros(len(words), dtype=bool)
    begins[1:] = words[1:] != words[:-1]
    begins[position_starts[:-1][np.diff(position_starts) > 0]] = True
    return np.flatnonzero(begins)


def word_logprobs(
    gold_logprobs: NDArray[np.float32], whole: NDArray[np.bool_], starts: NDArray[np.int64]
) -> NDArray[np.float32]:
    """[W] log-probabilities of words; NaN where a position is not of a whole word.

    Args:
        gold_logprobs: [P] of the true pieces.
        whole: [P], whether all of the position's word, and nothing else, is in the masked pieces of its row.
        starts: [W] of `word_starts`.
    """
    if not len(starts):
        return np.zeros(0, dtype=np.float32)
    masked = np.where(whole, gold_logprobs.astype(np.float64), np.nan)
    return np.add.reduceat(masked, starts).astype(np.float32)


def softened_word_logprobs(
    recorded: NDArray[np.float32],
    log_partition: NDArray[np.float32],
    temperatures: tuple[float, ...],
    starts: NDArray[np.int64],
) -> NDArray[np.float32]:
    """[P, 1 + T]: at each position the log-probability of its word, at temperature 1 and at those declared.

    Args:
        recorded: [W] of `word_logprobs`.
        log_partition: [P, T].
        temperatures: T of them.
        starts: [W] of `word_starts`.
    """
    if not len(starts):
        return np.zeros((0, 1 + len(temperatures)), dtype=np.float32)
    plain = recorded[:, None].astype(np.float64)
    partitions = np.add.reduceat(log_partition.astype(np.float64), starts, axis=0)
    softened = np.concatenate([plain, plain / np.array(temperatures) - partitions], axis=1)
    sizes = np.diff(np.concatenate([starts, [len(log_partition)]]))
    return np.repeat(softened, sizes, axis=0).astype(np.float32)
