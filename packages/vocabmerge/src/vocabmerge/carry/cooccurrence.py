"""Small embeddings of pieces from which pieces they stand near, for where no trained ones are at hand."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

_PAIRS_AT_ONCE = 4_000_000
_IDS_AT_ONCE = 1_000_000
_PLACES_HELD = 16_000_000  # before counts of the same pair are added up


def cooccurrence_embeddings(
    texts: Iterable[Sequence[int] | NDArray[np.uint32]],
    size: int,
    *,
    width: int = 128,
    contexts: int = 1024,
    window: int = 4,
) -> NDArray[np.float32]:
    """Positive pointwise mutual information of each piece with the frequent pieces around it, compressed.

    PPMI = max(0, log p(i, c) − log p(i) − log p(c)), contexts c the most frequent pieces, within `window` tokens on
    either side; then the leading left singular vectors times the root of their singular values (Levy, Goldberg 2014).
    Deterministic.

    Args:
        texts: token ids of each text; read twice and never held, so a list, or what gives the same texts each time.
        size: V.
        width: of the embeddings; fewer where the contexts do not span as many.
        contexts: how many frequent pieces serve as contexts.
        window: how far a context lies at most.

    Returns:
        [V, width], zero rows for pieces that the texts do not use.

    Example:
        >>> rows = cooccurrence_embeddings([[0, 1], [0, 1], [2, 3], [2, 3]], 5, width=2)
        >>> rows.shape, bool(rows[4].any())
        ((5, 2), False)
    """
    if isinstance(texts, Iterator):
        texts = list(texts)
    counts = np.zeros(size, dtype=np.int64)
    for ids, _ in _chunks(texts):
        counts += np.bincount(ids, minlength=size)
    frequent = np.sort(np.argsort(-counts, kind="stable")[: min(contexts, int((counts > 0).sum()))])
    column = np.full(size, -1, dtype=np.int64)
    column[frequent] = np.arange(len(frequent))
    places, values = _sum_of_parts(
        _pair_counts(ids, breaks, column, len(frequent), window) for ids, breaks in _chunks(texts)
    )
    row, context = np.divmod(places, max(len(frequent), 1))
    total = values.sum()
    of_row = np.bincount(row, weights=values, minlength=size)
    of_context = np.bincount(context, weights=values, minlength=len(frequent))
    information = np.log(values * total / (of_row[row] * of_context[context]))
    positive = information > 0
    row, context = row[positive], context[positive]
    information = information[positive].astype(np.float32)
    embeddings = np.zeros((size, width), dtype=np.float32)
    used, local = np.unique(row, return_inverse=True)
    dense = np.zeros((len(used), len(frequent)), dtype=np.float32)
    dense[local, context] = information
    roots, vectors = np.linalg.eigh((dense.T @ dense).astype(np.float64))
    kept = np.argsort(-roots)[:width]
    kept = kept[roots[kept] > 1e-9 * max(float(roots.max(initial=0.0)), 1e-30)]
    turned = vectors[:, kept] / np.sqrt(np.sqrt(roots[kept]))
    embeddings[used, : len(kept)] = dense @ turned.astype(np.float32)
    return embeddings


def _chunks(
    texts: Iterable[Sequence[int] | NDArray[np.uint32]],
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """All ids in a row, and for each the number of its text; whole texts, about a million ids at once."""
    rows: list[NDArray[np.int64]] = []
    held = 0
    for text in texts:
        rows.append(np.asarray(text, dtype=np.int64))
        held += len(rows[-1])
        if held >= _IDS_AT_ONCE:
            yield _joined(rows)
            rows, held = [], 0
    if rows:
        yield _joined(rows)


def _joined(rows: Sequence[NDArray[np.int64]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return np.concatenate(rows), np.repeat(np.arange(len(rows)), [len(row) for row in rows])


def _sum_of_parts(
    parts: Iterable[tuple[NDArray[np.int64], NDArray[np.float64]]],
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The counts of all parts, place by place."""
    held: list[tuple[NDArray[np.int64], NDArray[np.float64]]] = []
    room = _PLACES_HELD
    for part in parts:
        held.append(part)
        room -= len(part[0])
        if room < 0:
            held = [_sum(held)]
            room = max(_PLACES_HELD, len(held[0][0]))  # so that each place is seldom sorted again
    return _sum(held)


def _sum(
    parts: Sequence[tuple[NDArray[np.int64], NDArray[np.float64]]],
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    if not parts:
        return np.zeros(0, dtype=np.int64), np.zeros(0)
    places, inverse = np.unique(np.concatenate([part[0] for part in parts]), return_inverse=True)
    counts = np.bincount(inverse, weights=np.concatenate([part[1] for part in parts]))
    return places, counts.astype(np.float64)


def _pair_counts(
    ids: NDArray[np.int64],
    text: NDArray[np.int64],
    column: NDArray[np.int64],
    columns: int,
    window: int,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """How often each (piece, context) stands within the window: places `piece · columns + context`, and counts."""
    counted: list[tuple[NDArray[np.int64], NDArray[np.float64]]] = []
    for first in range(0, len(ids), _PAIRS_AT_ONCE // (2 * window)):
        stop = min(first + _PAIRS_AT_ONCE // (2 * window), len(ids))
        pairs = []
        for distance in range(1, window + 1):
            left = np.arange(first, min(stop, len(ids) - distance))
            left = left[text[left] == text[left + distance]]
            for piece, near in ((left, left + distance), (left + distance, left)):
                context = column[ids[near]]
                pairs.append((ids[piece] * columns + context)[context >= 0])
        places, counts = np.unique(np.concatenate(pairs), return_counts=True)
        counted.append((places, counts.astype(np.float64)))
    return _sum(counted)
