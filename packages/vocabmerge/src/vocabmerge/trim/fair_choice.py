"""The pieces that serve the worst-served language best: a maximin problem, solved with a certificate.

For weights w over the languages, the top pieces by `Σ_l w_l p[l, i]` maximise the weighted coverage, and their
weighted coverage bounds what any choice can give the worst language. Multiplicative weights (Freund, Schapire 1999;
Arora, Hazan, Kale 2012) search the w with the lowest bound; exchanges of pieces near the cut then mend what rounding
left. The problem is NP-hard; the result carries the bound, so that the gap is known.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vocabmerge.trim.probabilities import (
    best_pieces,
    forced_pieces,
    free_places,
    unigram_probabilities,
)

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
    keep = forced_pieces(always, counts)
    places = free_places(keep, budget)
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
    keep |= best_pieces(np.zeros(len(keep)), budget - int(keep.sum()), ~keep)
    return FairChoice(keep=keep, coverage=coverage, bound=max(bound, float(coverage.min())))


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
        chosen = best_pieces(weights @ gains, places)
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
