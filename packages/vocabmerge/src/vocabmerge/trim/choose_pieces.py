"""Chooses which pieces stay, from how often each language uses them.

Counts are integer arrays [L, V]: row l says how often language l uses each of V pieces. Choices are boolean arrays
[V]. Pieces that must stay whatever the counts say (specials, bytes, characters) come in as `always`.
"""

from bisect import bisect_left
from collections.abc import Mapping

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


def choose_by_coverage(
    counts: ArrayLike,
    coverage: float,
    *,
    always: ArrayLike,
    merges: ArrayLike = (),
    unknown: ArrayLike = (),
) -> NDArray[np.bool_]:
    """For each language its most frequent pieces, the fewest that with their ancestors are `coverage` of its tokens.

    For one language and without merges no smaller choice that contains `always` reaches the coverage. Several languages
    get the union of what each needs by itself; pieces that one needs can serve another, which may then have more.

    Args:
        counts: [L, V].
        coverage: the share of every language's known tokens whose piece stays; above 0, at most 1.
        always: what stays whatever its counts, closed over the merges [V].
        merges: ids (left, right, result) of every merge [M, 3]; ancestors of kept pieces cover their tokens as well.
        unknown: ids of unknown tokens, which count for nothing.

    Returns:
        The choice [V], without ancestors.

    Example:
        >>> choose_by_coverage([[6, 3, 1, 0], [0, 0, 4, 6]], 0.6, always=[0, 0, 0, 0]).tolist()
        [True, False, False, True]
    """
    forced = forced_pieces(always, counts)
    table = np.asarray(counts, dtype=np.int64)
    known = _without(table, unknown)
    keep = forced.copy()
    for row, total in zip(known, known.sum(axis=1).tolist(), strict=True):
        keep |= _fewest(row, total, coverage, forced=forced, merges=merges)
    return keep


def coverage_before(
    counts: ArrayLike, *, always: ArrayLike, unknown: ArrayLike = ()
) -> NDArray[np.float64]:
    """The coverage that each language has from `always` and its pieces that are more frequent than a piece.

    By the smallest of them over the languages, pieces come in the order in which a growing coverage needs them.

    Args:
        counts: [L, V].
        always: what stays whatever its counts [V].
        unknown: ids of unknown tokens, which count for nothing.

    Returns:
        Shares [L, V]; 1 for a piece that the language does not use, 0 for what stays always.

    Example:
        >>> coverage_before([[3, 6, 1, 0]], always=[0, 0, 0, 0]).tolist()
        [[0.6, 0.0, 0.9, 1.0]]
    """
    forced = forced_pieces(always, counts)
    table = np.asarray(counts, dtype=np.int64)
    known = _without(table, unknown)
    before = np.where(forced, 0.0, np.ones(table.shape))
    for number, row in enumerate(known):
        order = _by_frequency(row, forced)
        covered = row[forced].sum() + np.cumsum(row[order]) - row[order]
        before[number, order] = covered / row.sum()
    return before


def fill_up(
    keep: ArrayLike, size: int, *, score: NDArray[np.float64], merges: ArrayLike
) -> NDArray[np.bool_]:
    """Add the pieces with the greatest score until exactly `size` stay, ancestors included.

    A piece whose ancestors do not fit any more waits until those that do have been taken.

    Args:
        keep: the choice, closed over the merges [V].
        size: how many pieces stay; no more than there are.
        score: of each piece [V]; of equals, the lower id is better.
        merges: ids (left, right, result) of every merge [M, 3].

    Returns:
        The choice [V], closed over the merges.

    Example:
        >>> fill_up([1, 0, 0, 0], 2, score=np.array([0, 0, 1, 9]), merges=[[0, 1, 3]]).tolist()
        [True, False, True, False]
    """
    keep = np.array(keep, dtype=bool)
    table = np.asarray(merges, dtype=np.int64).reshape(-1, 3)
    if not len(table):
        return keep | best_pieces(score, size - int(keep.sum()), ~keep)
    parents: dict[int, set[int]] = {}
    for left, right, result in table[~keep[table[:, 2]]].tolist():
        parents.setdefault(result, set()).update((left, right))
    places = size - int(keep.sum())
    waiting = np.argsort(-score, kind="stable")
    while places > 0:
        waiting = waiting[~keep[waiting]]
        for piece in waiting.tolist():
            missing = _missing(piece, keep, parents, places)
            keep[missing] = True
            places -= len(missing)
            if not places:
                break
    return keep


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


def _fewest(
    row: NDArray[np.int64],
    total: int,
    coverage: float,
    *,
    forced: NDArray[np.bool_],
    merges: ArrayLike,
) -> NDArray[np.bool_]:
    """What stays anyway and the fewest most frequent pieces that with all ancestors reach a coverage."""
    order = _by_frequency(row, forced)

    def first(number: int) -> NDArray[np.bool_]:
        chosen = forced.copy()
        chosen[order[:number]] = True
        return chosen

    def reaches(number: int) -> bool:
        return bool(row[close_over_merges(first(number), merges)].sum() / total >= coverage)

    return first(bisect_left(range(len(order)), True, key=reaches))


def _without(table: NDArray[np.int64], unknown: ArrayLike) -> NDArray[np.int64]:
    known = table.copy()
    known[:, np.asarray(unknown, dtype=np.int64)] = 0
    return known


def _by_frequency(row: NDArray[np.int64], forced: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The used pieces that do not stay anyway, the most frequent first; of equals, the lower id."""
    used = np.flatnonzero((row > 0) & ~forced)
    return used[np.argsort(-row[used], kind="stable")]


def _missing(
    piece: int, keep: NDArray[np.bool_], parents: Mapping[int, set[int]], most: int
) -> list[int]:
    """A piece and its ancestors that are not kept; none where there are more than `most`."""
    missing, queue = set(), [piece]
    while queue:
        number = queue.pop()
        if number in missing or keep[number]:
            continue
        missing.add(number)
        if len(missing) > most:
            return []
        queue.extend(parents.get(number, ()))
    return sorted(missing)
