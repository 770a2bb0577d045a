"""Chooses which pieces stay, from how often each language uses them.

Counts are integer arrays [L, V]: row l says how often language l uses each of V pieces. Choices are boolean arrays
[V]. Pieces that must stay whatever the counts say (specials, bytes, characters) come in as `always`.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vocabmerge.errors import VocabularyError
from vocabmerge.trim.fair_choice import choose_fair
from vocabmerge.trim.probabilities import (
    best_pieces,
    forced_pieces,
    free_places,
    unigram_probabilities,
)

THRESHOLD = 1e-6
"""BiStil's: its trimmed models are named after it."""


def choose_by_threshold(
    counts: ArrayLike, *, always: ArrayLike, threshold: float = THRESHOLD
) -> NDArray[np.bool_]:
    """BiStil's rule: a piece stays if `max over l of p[l, i] ≥ threshold`.

    Args:
        counts: [L, V].
        always: what stays whatever its counts [V].
        threshold: a probability; 0 keeps everything, also what no language uses.

    Returns:
        The choice [V].

    Example:
        >>> choose_by_threshold([[9, 1, 0], [5, 0, 5]], always=[0, 0, 0], threshold=0.2).tolist()
        [True, False, True]
    """
    if not 0 <= threshold <= 1:
        raise VocabularyError(f"expected a threshold between 0 and 1, got {threshold!r}")
    return forced_pieces(always, counts) | (unigram_probabilities(counts).max(axis=0) >= threshold)


def choose_top(counts: ArrayLike, size: int, *, always: ArrayLike) -> NDArray[np.bool_]:
    """The `size` pieces with the greatest `max over l of p[l, i]`, among them all that stay always.

    Ties go to the lower id, so that pieces which no language uses come last, in their own order.

    Args:
        counts: [L, V].
        size: how many pieces stay at most.
        always: what stays whatever its counts [V].

    Returns:
        The choice [V].

    Raises:
        VocabularyError: more pieces stay always than `size` allows.

    Example:
        >>> choose_top([[9, 1, 0], [5, 0, 5]], 2, always=[0, 1, 0]).tolist()
        [True, True, False]
    """
    keep = forced_pieces(always, counts)
    probability = unigram_probabilities(counts).max(axis=0)
    return keep | best_pieces(probability, free_places(keep, size), ~keep)


def close_over_merges(keep: ArrayLike, merges: ArrayLike) -> NDArray[np.bool_]:
    """Add every piece that BPE needs on its way to a kept one.

    For each merge (left, right) → result: if the result stays, so do left and right. With all ancestors and the
    merges among them kept, text that was made of kept pieces is segmented as before: the merges that built it are
    there, in the same order, and fewer others compete.

    Args:
        keep: the choice [V].
        merges: ids (left, right, result) of every merge [M, 3], in order of rank.

    Returns:
        The closed choice [V]; closing it again changes nothing.

    Example:
        >>> close_over_merges([0, 0, 0, 0, 1], [[0, 1, 3], [3, 2, 4]]).tolist()
        [True, True, True, True, True]
    """
    closed = np.array(keep, dtype=bool)
    table = np.asarray(merges, dtype=np.int64).reshape(-1, 3)
    while True:
        parents = table[closed[table[:, 2]], :2]
        if closed[parents].all():
            return closed
        closed[parents] = True


def choose_within(
    counts: ArrayLike, size: int, *, always: ArrayLike, merges: ArrayLike, fair: bool
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], float | None]:
    """At most `size` pieces, among them all that BPE needs on its way to the others.

    Fewer are asked for until they and their ancestors fit.

    Args:
        counts: [L, V].
        size: how many pieces stay at most, ancestors included.
        always: what stays whatever its counts, closed over the merges [V].
        merges: ids (left, right, result) of every merge [M, 3].
        fair: by `choose_fair`, else by `choose_top`.

    Returns:
        The choice [V], the choice with its ancestors [V], and the fair rule's bound.

    Raises:
        VocabularyError: more pieces stay always than `size` allows.

    Example:
        >>> chosen, closed, _ = choose_within([[0, 0, 1, 5, 9]], 3, always=[0, 0, 0, 0, 0],
        ...     merges=[[0, 1, 4]], fair=False)
        >>> chosen.tolist(), closed.tolist()
        ([False, False, False, False, True], [True, True, False, False, True])
    """
    asked, bound = size, None
    least = int(np.sum(np.array(always, dtype=bool)))
    while True:
        if fair:
            choice = choose_fair(counts, asked, always=always)
            chosen = choice.keep
            bound = choice.bound if bound is None else bound
        else:
            chosen = choose_top(counts, asked, always=always)
        closed = close_over_merges(chosen, merges)
        excess = int(closed.sum()) - size
        if excess <= 0:
            return chosen, closed, bound
        asked = max(asked - excess, least)
