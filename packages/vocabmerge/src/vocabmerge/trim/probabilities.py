"""How probable each piece is in each language, and what every choice of pieces starts from.

Counts are integer arrays [L, V]: row l says how often language l uses each of V pieces. Choices are boolean arrays
[V]. Pieces that must stay whatever the counts say (specials, bytes, characters) come in as `always`.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vocabmerge.errors import VocabularyError


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


def best_pieces(
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


def forced_pieces(always: ArrayLike, counts: ArrayLike) -> NDArray[np.bool_]:
    """The choice [V] that stays whatever the counts say."""
    forced = np.array(always, dtype=bool)
    if forced.shape != np.shape(counts)[-1:]:
        raise VocabularyError(
            f"expected one entry of `always` per piece, got shapes {forced.shape} and {np.shape(counts)}"
        )
    return forced


def free_places(keep: NDArray[np.bool_], size: int) -> int:
    """How many pieces may join those that stay always.

    Raises:
        VocabularyError: those alone are more than `size`.
    """
    forced = int(keep.sum())
    if forced > size:
        raise VocabularyError(
            f"{forced} pieces stay always (special tokens, bytes, single characters) and the size is {size}; "
            f"ask for {forced} or more"
        )
    return size - forced
