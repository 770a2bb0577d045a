"""Chooses which pieces stay, from how often each language uses them.

Counts are integer arrays [L, V]: row l says how often language l uses each of V pieces. Choices are boolean arrays
[V]. Pieces that must stay whatever the counts say (specials, bytes, characters) come in as `always`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vocabmerge.errors import VocabularyError

THRESHOLD = 1e-6
"""BiStil's: its trimmed models are named after it."""

_ROUNDS = 150  # of the multiplicative weights: their error falls with the root of the rounds
_MARGIN = 48  # pieces on either side of the cut that the exchange may swap


@dataclass(frozen=True, kw_only=True)
class FairChoice:
    """What `choose_fair` found, with its own certificate.

    Args:
        keep: the choice [V].
        coverage: per language, the share of its tokens whose piece stays [L].
        bound: no choice of this size has a worst coverage above this.
    """

    keep: NDArray[np.bool_]
    coverage: NDArray[np.float64]
    bound: float


def unigram_probabilities(counts: ArrayLike) -> NDArray[np.float64]:
    """Share of each language's tokens that each piece has: `p[l, i] = counts[l, i] / Σ counts[l]`.

    Raises:
        VocabularyError: no language, or one without a token.

    Example:
        >>> unigram_probabilities([[1, 3], [2, 0]]).tolist()
        [[0.25, 0.75], [1.0, 0.0]]
    """
    array = np.asarray(counts, dtype=np.float64)
    if array.ndim != 2 or len(array) == 0:
        raise VocabularyError(
            f"expected counts of one row per language, got an array of shape {array.shape}"
        )
    totals = array.sum(axis=1)
    if np.any(totals == 0):
        raise VocabularyError(
            f"expected tokens in every language, got none in row {int(np.flatnonzero(totals == 0)[0])}"
        )
    return array / totals[:, None]


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
    return _forced(always, counts) | (unigram_probabilities(counts).max(axis=0) >= threshold)


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
    keep = _forced(always, counts)
    probability = unigram_probabilities(counts).max(axis=0)
    return keep | _best(probability, _free_places(keep, size), ~keep)


def choose_fair(counts: ArrayLike, budget: int, *, always: ArrayLike) -> FairChoice:
    """The `budget` pieces that serve the worst-served language best.

    Maximises `min over l of Σ_{i kept} p[l, i]` over all choices of at most `budget` pieces that contain `always`.
    Places that are left when all used pieces stay go to the lower ids. The share that is not covered is the least by which a language's tokens per word can grow: each token whose piece
    goes becomes two or more.

    For weights w over the languages, the top pieces by `Σ_l w_l p[l, i]` maximise the weighted coverage, and their
    weighted coverage bounds what any choice can give the worst language. Multiplicative weights search the w with
    the lowest bound; exchanges of pieces near the cut then mend what rounding left. The problem is NP-hard; the
    result carries the bound, so that the gap is known.

    Args:
        counts: [L, V].
        budget: how many pieces stay at most.
        always: what stays whatever its counts [V].

    Returns:
        The choice, every language's coverage and the bound.

    Raises:
        VocabularyError: more pieces stay always than `budget` allows.

    Example:
        >>> found = choose_fair([[6, 3, 1, 0], [0, 0, 4, 6]], 2, always=[0, 0, 0, 0])
        >>> found.keep.tolist(), found.coverage.tolist()
        ([True, False, False, True], [0.6, 0.6])
    """
    keep = _forced(always, counts)
    places = _free_places(keep, budget)
    probabilities = unigram_probabilities(counts)
    base = probabilities[:, keep].sum(axis=1)
    open_ids = np.flatnonzero(~keep & (probabilities.max(axis=0) > 0))
    gains = np.ascontiguousarray(probabilities[:, open_ids])
    if places >= len(open_ids):
        chosen = np.ones(len(open_ids), dtype=bool)
        bound = float((base + gains.sum(axis=1)).min())
    else:
        chosen, weights, bound = _search(gains, base, places)
        chosen = _exchange(gains, base, chosen, weights)
    keep[open_ids[chosen]] = True
    coverage = probabilities[:, keep].sum(axis=1)
    keep |= _best(np.zeros(len(keep)), budget - int(keep.sum()), ~keep)
    return FairChoice(keep=keep, coverage=coverage, bound=max(bound, float(coverage.min())))


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


def _search(
    gains: NDArray[np.float64], base: NDArray[np.float64], places: int
) -> tuple[NDArray[np.bool_], NDArray[np.float64], float]:
    """Multiplicative weights: the best choice seen, the weights of the lowest bound, and that bound."""
    languages = len(gains)
    log_weights = np.zeros(languages)
    step = np.sqrt(8 * np.log(max(languages, 2)) / _ROUNDS)
    best, best_worst = np.zeros(gains.shape[1], dtype=bool), -1.0
    bound, bound_weights = np.inf, np.full(languages, 1 / languages)
    for _ in range(_ROUNDS if languages > 1 else 1):
        weights = np.exp(log_weights - log_weights.max())
        weights /= weights.sum()
        chosen = _best(weights @ gains, places)
        coverage = base + gains[:, chosen].sum(axis=1)
        if coverage.min() > best_worst:
            best, best_worst = chosen, float(coverage.min())
        if weights @ coverage < bound:
            bound, bound_weights = float(weights @ coverage), weights
        spread = np.ptp(coverage)
        if spread == 0:
            break
        log_weights -= step * (coverage - coverage.min()) / spread
    return best, bound_weights, bound


def _exchange(
    gains: NDArray[np.float64],
    base: NDArray[np.float64],
    chosen: NDArray[np.bool_],
    weights: NDArray[np.float64],
) -> NDArray[np.bool_]:
    """Swap one kept piece for one dropped, near the cut, as long as the worst language gains by it."""
    chosen = chosen.copy()
    score = weights @ gains
    coverage = base + gains[:, chosen].sum(axis=1)
    while chosen.any() and not chosen.all():
        inside, outside = np.flatnonzero(chosen), np.flatnonzero(~chosen)
        worst = gains[int(coverage.argmin())]
        leaving = _least(inside, score[inside], worst[inside])
        entering = _least(outside, -score[outside], -worst[outside])
        after = (coverage[:, None] - gains[:, leaving])[:, :, None] + gains[:, None, entering]
        worst_after = after.min(axis=0)
        row, column = np.unravel_index(int(worst_after.argmax()), worst_after.shape)
        if worst_after[row, column] <= coverage.min() + 1e-12:
            break
        chosen[leaving[row]], chosen[entering[column]] = False, True
        coverage = after[:, row, column]
    return chosen


def _least(ids: NDArray[np.int64], *orders: NDArray[np.float64]) -> NDArray[np.int64]:
    """The ids that come first in any of the orders."""
    taken = [ids[np.argsort(order, kind="stable")[:_MARGIN]] for order in orders]
    return np.unique(np.concatenate(taken))


def _best(
    score: NDArray[np.float64], places: int, among: NDArray[np.bool_] | None = None
) -> NDArray[np.bool_]:
    """The `places` pieces with the greatest score; of equals, the lower id."""
    chosen = np.zeros(len(score), dtype=bool)
    candidates = np.arange(len(score)) if among is None else np.flatnonzero(among)
    if places >= len(candidates):
        chosen[candidates] = True
    elif places > 0:
        values = score[candidates]
        cut = np.partition(values, len(values) - places)[len(values) - places]
        above = candidates[values > cut]
        chosen[above] = True
        chosen[candidates[values == cut][: places - len(above)]] = True
    return chosen


def _forced(always: ArrayLike, counts: ArrayLike) -> NDArray[np.bool_]:
    forced = np.array(always, dtype=bool)
    if forced.shape != np.shape(counts)[-1:]:
        raise VocabularyError(
            f"expected one entry of `always` per piece, got shapes {forced.shape} and {np.shape(counts)}"
        )
    return forced


def _free_places(keep: NDArray[np.bool_], size: int) -> int:
    forced = int(keep.sum())
    if forced > size:
        raise VocabularyError(
            f"{forced} pieces stay always (special tokens, bytes, single characters) and the size is {size}; "
            f"ask for {forced} or more"
        )
    return size - forced
