"""Ridge regression from vectors to labels, in closed form: no start, no order, no steps, so there is nothing to draw.

For vectors x_i `[D]` and one-hot labels y_i `[K]`, both less their means, and a strength C of the data against the penalty,

    min over W  ‖W‖² + C · Σ_i ‖W x_i − y_i‖²   gives   W = (G + I / C)⁻¹ B,   G = Σ_i x_i x_iᵀ,   B = Σ_i x_i y_iᵀ

(Hoerl and Kennard 1970). A vector is of the label with the largest output, as by scikit-learn's `RidgeClassifier` with alpha 1 / C.
G and B are sums over rows. They are added up in float64, one batch after another, so that memory is bounded by D² however many rows
there are, and one eigendecomposition of G serves every C.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
Labels = NDArray[np.intp]
Float64 = NDArray[np.float64]
Batch = tuple[Sequence[Vectors], Labels]

STRENGTHS = tuple(10.0**exponent for exponent in range(-6, 3))


@dataclass(frozen=True)
class RidgeClassifier:
    """A solution.

    Args:
        strength: C.
        weights: `[D, K]`.
        intercept: `[K]`.
    """

    strength: float
    weights: Float64
    intercept: Float64

    def predict(self, vectors: Vectors) -> Labels:
        """Labels `[n]` of vectors `[n, D]`."""
        outputs = vectors.astype(np.float64) @ self.weights + self.intercept
        return np.asarray(outputs.argmax(axis=1))


def fit_ridge(
    train: Iterable[Batch], dev: Iterable[Batch], classes: int, strength: float | None
) -> tuple[RidgeClassifier, int, list[str]]:
    """Learn labels from vectors in one pass, and choose what is not given on the development set.

    Args:
        train: batches of labels `[n]` from 0 to K − 1, with vectors `[n, D]` from each of the layers that may be read.
        dev: likewise; not asked where nothing is to be chosen.
        classes: K.
        strength: C, or None to choose among `STRENGTHS`.

    Returns:
        The classifier with the best accuracy on `dev`, of equals that of the first layer and the smallest C; the place of the layer
        that it reads; and notes.

    Example:
        >>> vectors, labels = np.array([[0.0], [1.0], [4.0]], dtype=np.float32), np.array([0, 0, 1])
        >>> classifier, place, notes = fit_ridge([([vectors], labels)], [], 2, 1e6)
        >>> classifier.predict(np.array([[1.5], [3.5]], dtype=np.float32)).tolist()
        [0, 1]
    """
    sums: list[RidgeSums] = []
    for layers, labels in train:
        sums = sums or [RidgeSums(vectors.shape[1], classes) for vectors in layers]
        for added, vectors in zip(sums, layers, strict=True):
            added.add(vectors, labels)
    solved = [added.solve(STRENGTHS if strength is None else [strength]) for added in sums]
    if len(solved) == 1 and strength is not None:
        return solved[0][0], 0, []
    right, rows = np.zeros((len(solved), len(solved[0]))), 0
    for layers, labels in dev:
        rows += len(labels)
        for place, vectors in enumerate(layers):
            right[place] += [(c.predict(vectors) == labels).sum() for c in solved[place]]
    place, number = divmod(int(right.argmax()), right.shape[1])
    best = solved[place][number]
    share = 100 * right[place, number] / rows
    return best, place, [f"C {best.strength:g} has the best accuracy on the dev set, {share:.2f}"]


class RidgeSums:
    """What ridge regression needs of its rows: their number and the sums of their products, in float64.

    Args:
        width: D.
        classes: K.
    """

    def __init__(self, width: int, classes: int) -> None:
        self._rows = 0
        self._vectors: Float64 = np.zeros(width)
        self._labels: Float64 = np.zeros(classes)
        self._gram: Float64 = np.zeros((width, width))
        self._products: Float64 = np.zeros((width, classes))

    def add(self, vectors: Vectors, labels: Labels) -> None:
        """Add rows: vectors `[n, D]` and labels `[n]`."""
        exact = vectors.astype(np.float64)
        one_hot = np.eye(len(self._labels))[labels]
        self._rows += len(exact)
        self._vectors += exact.sum(axis=0)
        self._labels += one_hot.sum(axis=0)
        self._gram += exact.T @ exact
        self._products += exact.T @ one_hot

    def solve(self, strengths: Sequence[float]) -> list[RidgeClassifier]:
        """The classifier of each strength C."""
        mean, shares = self._vectors / self._rows, self._labels / self._rows
        gram = self._gram - self._rows * np.outer(mean, mean)
        products = self._products - self._rows * np.outer(mean, shares)
        values, basis = np.linalg.eigh(gram)
        spread, turned = values.clip(min=0)[:, None], basis.T @ products
        solved = [basis @ (turned / (spread + 1 / strength)) for strength in strengths]
        return [
            RidgeClassifier(strength, weights, shares - mean @ weights)
            for strength, weights in zip(strengths, solved, strict=True)
        ]
