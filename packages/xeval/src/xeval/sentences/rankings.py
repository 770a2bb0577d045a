"""What a ranking of documents is worth: nDCG, reciprocal rank, average precision and recall of one query.

As trec_eval computes them, and mteb by it: a document of relevance g > 0 at rank r gains g / log2(r + 1), and nDCG is the
gain of the first ten over that of the best order (Järvelin and Kekäläinen 2002); documents of equal score stand in falling
order of their ids.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from xeval.statistics.items import Items

DEEPEST = 1000
"""How many documents of a ranking count."""


def ranked(scores: NDArray[np.floating], ids: Sequence[str], *, most: int = DEEPEST) -> list[int]:
    """Places of the best documents, best first; those of equal score in falling order of their ids.

    Example:
        >>> ranked(np.array([0.5, 0.9, 0.5]), ["a", "b", "c"])
        [1, 2, 0]
    """
    places = list(range(len(scores)))
    if len(scores) > most:
        places = np.flatnonzero(scores >= np.partition(scores, -most)[-most]).tolist()
    by_id = sorted(places, key=lambda place: ids[place], reverse=True)
    return sorted(by_id, key=lambda place: -scores[place])[:most]


def ndcg(gains: Sequence[float], possible: Sequence[float], depth: int) -> float:
    """Normalised discounted cumulative gain.

    Args:
        gains: of the documents as they are ranked, 0 where a document is not relevant.
        possible: of every relevant document.
        depth: how many ranks count.
    """
    best = _discounted(sorted(possible, reverse=True)[:depth])
    return _discounted(gains[:depth]) / best if best else 0.0


def _discounted(gains: Sequence[float]) -> float:
    return sum(max(gain, 0.0) / np.log2(rank + 1) for rank, gain in enumerate(gains, start=1))


def reciprocal_rank(gains: Sequence[float], depth: int) -> float:
    """One over the rank of the first relevant document, 0 where it is not among the first `depth`."""
    return next((1 / rank for rank, g in enumerate(gains[:depth], start=1) if g > 0), 0.0)


def average_precision(gains: Sequence[float], possible: Sequence[float]) -> float:
    """Mean, over the relevant documents, of the precision at their ranks; one that is not ranked counts 0."""
    relevant = sum(gain > 0 for gain in possible)
    hits = [rank for rank, gain in enumerate(gains, start=1) if gain > 0]
    return sum(n / rank for n, rank in enumerate(hits, start=1)) / relevant if relevant else 0.0


def recall(gains: Sequence[float], possible: Sequence[float], depth: int) -> float:
    """The share of the relevant documents that stand among the first `depth`."""
    relevant = sum(gain > 0 for gain in possible)
    return sum(gain > 0 for gain in gains[:depth]) / relevant if relevant else 0.0


def ranking_items(
    metrics: Sequence[str],
    rankings: Sequence[tuple[Sequence[float], Sequence[float]]],
    test_digest: str,
) -> list[Items]:
    """Per-query statistics of several metrics.

    Args:
        metrics: of "ndcg_at_10", "mrr_at_10", "map" and "recall_at_100".
        rankings: of each query, in order: the gains as ranked, and those of every relevant document.
        test_digest: of the test set.
    """
    measures = {
        "ndcg_at_10": lambda gains, possible: ndcg(gains, possible, 10),
        "mrr_at_10": lambda gains, _possible: reciprocal_rank(gains, 10),
        "map": average_precision,
        "recall_at_100": lambda gains, possible: recall(gains, possible, 100),
    }
    return [
        Items(
            metric=metric,
            rows=np.array([(measures[metric](*ranking), 1.0) for ranking in rankings]),
            test_digest=test_digest,
        )
        for metric in metrics
    ]
