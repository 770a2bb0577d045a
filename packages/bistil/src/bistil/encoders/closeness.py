"""How near the answers of two models are, item by item: one number in [0, 1] for each, 1 where they are the same.

What is shown is 100 · mean x_i, with the 95 % interval of a bootstrap over items (Efron and Tibshirani 1993).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

NEIGHBOURS = 10
_DRAWS = 2_000

Items = NDArray[np.float64]


def compare_vectors(
    expected: NDArray[np.float32], given: NDArray[np.float32], *, neighbours: int = NEIGHBOURS
) -> dict[str, Items]:
    """Cosine of each vector to the whole model's, and the share of its nearest lines that are the same.

    Args:
        expected: [N, D] of the whole model.
        given: [N, D] of a smaller one.
        neighbours: k; N - 1 where there are fewer.

    Returns:
        By measure [N].

    Example:
        >>> x = np.eye(3, dtype=np.float32)
        >>> {name: values.tolist() for name, values in compare_vectors(x, 2 * x, neighbours=1).items()}
        {'cosine': [1.0, 1.0, 1.0], 'same 1 nearest': [1.0, 1.0, 1.0]}
    """
    a, b = _unit(expected), _unit(given)
    k = min(neighbours, len(a) - 1)
    same = [len({*one} & {*two}) / k for one, two in zip(_nearest(a, k), _nearest(b, k), strict=True)]  # fmt: skip
    return {"cosine": (a * b).sum(axis=1), f"same {k} nearest": np.array(same)}


def compare_sparse_vectors(
    expected: Any, given: Any, *, neighbours: int = NEIGHBOURS
) -> dict[str, Items]:
    """Cosine of each sparse vector to the whole model's, and the share of its nearest lines, by product, that are the same.

    Args:
        expected: SciPy's `csr_array` [N, V] of the whole model.
        given: of a smaller one, over the same pieces [N, V].
        neighbours: k; N - 1 where there are fewer.

    Returns:
        By measure [N].
    """
    a, b = expected.astype(np.float64), given.astype(np.float64)
    lengths = np.sqrt(a.power(2).sum(axis=1) * b.power(2).sum(axis=1))
    k = min(neighbours, a.shape[0] - 1)
    near = [_greatest((side @ side.T).toarray(), k) for side in (a, b)]
    same = [len({*one} & {*two}) / k for one, two in zip(*near, strict=True)]
    cosine = (a * b).sum(axis=1) / np.maximum(lengths, 1e-12)
    return {"cosine": cosine, f"same {k} nearest": np.array(same)}


def nearest_kept(
    expected: NDArray[np.float32], given: NDArray[np.float32], *, neighbours: int = NEIGHBOURS
) -> Items:
    """Whether the nearest line by the whole model is among the nearest by the other: what users of a search see.

    Args:
        expected: [N, D] of the whole model.
        given: [N, D] of the other.
        neighbours: k; N - 1 where there are fewer.

    Returns:
        1 or 0 for each line [N].
    """
    k = min(neighbours, len(expected) - 1)
    first, near = _nearest(_unit(expected), 1), _nearest(_unit(given), k)
    return (near == first).any(axis=1).astype(np.float64)


def compare_nearness(
    expected: NDArray[np.float32], given: NDArray[np.float32], *, neighbours: int = NEIGHBOURS
) -> dict[str, Items]:
    """How near two models agree that lines are to each other; their vectors may differ in dimension.

    Args:
        expected: [N, D] of the whole model.
        given: [N, D'] of another.
        neighbours: k; N - 1 where there are fewer.

    Returns:
        By measure [N]: of each line the Pearson correlation of its cosines to the others, and the share of its nearest lines that
        are the same.

    Example:
        >>> x = np.eye(3, dtype=np.float32)[[0, 0, 1, 2]]
        >>> compare_nearness(x, x[:, ::-1], neighbours=1)["correlation of nearness"].round(2).tolist()
        [1.0, 1.0, 0.0, 0.0]
    """
    a, b = _unit(expected), _unit(given)
    k, others = min(neighbours, len(a) - 1), ~np.eye(len(a), dtype=bool)
    cosines = [(x @ x.T)[others].reshape(len(a), -1) for x in (a, b)]
    centred = [rows - rows.mean(axis=1, keepdims=True) for rows in cosines]
    spread = np.sqrt((centred[0] ** 2).sum(axis=1) * (centred[1] ** 2).sum(axis=1))
    correlation = (centred[0] * centred[1]).sum(axis=1) / np.maximum(spread, 1e-12)
    same = [len({*one} & {*two}) / k for one, two in zip(_nearest(a, k), _nearest(b, k), strict=True)]  # fmt: skip
    return {"correlation of nearness": correlation, f"same {k} nearest": np.array(same)}


def compare_labels(
    expected: NDArray[np.float32], given: NDArray[np.float32], *, several: bool = False
) -> dict[str, Items]:
    """Whether the same labels hold, and 1 - the total variation of the distributions that the logits [N, L] stand for.

    One label holds, the greatest of a softmax; where `several` may, those of a positive logit do, and each is a coin, over
    whose total variations the mean is taken.

    Example:
        >>> x, y = np.float32([[2, 1, -3]]), np.float32([[2, -1, -3]])
        >>> [compare_labels(x, y, several=several)["same label"].tolist() for several in (False, True)]
        [[1.0], [0.0]]
    """
    if several:
        same = ((expected > 0) == (given > 0)).all(axis=1)
        variation = np.abs(_sigmoid(expected) - _sigmoid(given)).mean(axis=1)
    else:
        same = expected.argmax(axis=1) == given.argmax(axis=1)
        variation = np.abs(_softmax(expected) - _softmax(given)).sum(axis=1) / 2
    return {"same label": same.astype(np.float64), "shared probability": 1 - variation}


def compare_rankings(expected: NDArray[np.float32], given: NDArray[np.float32]) -> dict[str, Items]:
    """Of candidates scored [N, C] per query: whether the first is the same, and the share of pairs in the same order."""
    first = expected.argmax(axis=1) == given.argmax(axis=1)
    upper = np.triu_indices(expected.shape[1], 1)
    order = [np.sign(x[:, :, None] - x[:, None, :])[:, upper[0], upper[1]] for x in (expected, given)]  # fmt: skip
    return {
        "same first candidate": first.astype(np.float64),
        "pairs in the same order": (order[0] == order[1]).mean(axis=1),
    }


def compare_scores(expected: NDArray[np.float32], given: NDArray[np.float32]) -> dict[str, Items]:
    """Of scores [N, L] of lines: the share of other lines that a line keeps its order to, and how near its score is.

    A score that differs by d is near by 1 - d / s, at least 0, with s the standard deviation of the whole model's scores; of
    several scores a line the mean.

    Example:
        >>> whole, smaller = np.float32([[0], [1], [3]]), np.float32([[0], [1], [1]])
        >>> {name: values.round(2).tolist() for name, values in compare_scores(whole, smaller).items()}
        {'pairs in the same order': [1.0, 0.5, 0.5], 'nearness of scores': [1.0, 1.0, 0.0]}
    """
    order = [np.sign(scores[:, None] - scores[None]) for scores in (expected, given)]
    others = max(len(expected) - 1, 1)
    same = ((order[0] == order[1]).sum(axis=1) - 1) / others
    apart = np.abs(expected.astype(np.float64) - given)
    spread = expected.astype(np.float64).std(axis=0)
    near = 1 - np.divide(apart, spread, out=(apart > 0).astype(np.float64), where=spread > 0)
    return {
        "pairs in the same order": same.mean(axis=1),
        "nearness of scores": np.maximum(near, 0).mean(axis=1),
    }


def compare_word_labels(
    expected: Sequence[NDArray[np.int64]], given: Sequence[NDArray[np.int64]]
) -> dict[str, Items]:
    """The share of each line's words that get the same label; a line without any keeps all it has."""
    same = [(a == b).mean() if len(a) else 1.0 for a, b in zip(expected, given, strict=True)]
    return {"same label of a word": np.array(same)}


def interval(items: Items, seed: int) -> tuple[float, float]:
    """The 95 % interval of 100 · the mean of items [N]."""
    draws = np.random.default_rng(seed).integers(0, len(items), size=(_DRAWS, len(items)))
    low, high = np.quantile(items[draws].mean(axis=1), (0.025, 0.975))
    return 100 * float(low), 100 * float(high)


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    exact = vectors.astype(np.float64)
    return np.asarray(exact / np.maximum(np.linalg.norm(exact, axis=1, keepdims=True), 1e-12))


def _nearest(vectors: NDArray[np.float64], k: int) -> NDArray[np.int64]:
    return _greatest(vectors @ vectors.T, k)


def _greatest(table: NDArray[np.float64], k: int) -> NDArray[np.int64]:
    """The places of each row's k greatest, its own left out."""
    np.fill_diagonal(table, -np.inf)
    return np.argsort(-table, axis=1, kind="stable")[:, :k]


def _sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.asarray(0.5 + 0.5 * np.tanh(logits.astype(np.float64) / 2))


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True).astype(np.float64))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))
