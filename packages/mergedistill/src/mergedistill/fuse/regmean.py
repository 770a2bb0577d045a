"""RegMean: the linear layer that answers each model's inputs most nearly as that model does, in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch

from mergedistill.fuse.grams import Grams
from mergedistill.fuse.mean import as_bytes, mean_of, values_of
from vocabmerge.encoder_folder.weight_files import StoredTensor

Embeddings = Literal["mean", "counts"]
_RIDGE = 1e-8  # of a matrix with a diagonal of ones


def regression_mean(
    weights: Sequence[torch.Tensor],
    grams: Sequence[torch.Tensor],
    *,
    shares: Sequence[float],
    alpha: float,
) -> torch.Tensor:
    r"""The W that minimises Σ_i s_i ‖X_i W^T - X_i W_i^T‖², after Jin et al. 2023 (arXiv 2212.09849), equation 1.

    W^T = (Σ_i s_i G̃_i)^{-1} Σ_i s_i G̃_i W_i^T with G̃_i = α G_i + (1 - α) diag(G_i), solved in float64 for the
    difference from the weighted mean: identical models give that model, and what no input reaches stays the mean.

    Args:
        weights: W_i [O, I] of each model, as `torch.nn.Linear` holds them.
        grams: G_i = X_i^T X_i / n_i [I, I].
        shares: s_i, that sum to one.
        alpha: in [0, 1]; below 1 it takes from what is off the diagonal, which keeps the solution near the models.

    Returns:
        [O, I] in float64.

    Example:
        >>> ones, zeros = torch.ones(1, 2), torch.zeros(1, 2)
        >>> apart = [torch.diag(torch.tensor([1.0, 0.0])), torch.diag(torch.tensor([0.0, 1.0]))]
        >>> regression_mean([ones, zeros], apart, shares=[0.5, 0.5], alpha=1.0).round().tolist()
        [[1.0, 0.0]]
    """
    center = sum((share * weight.double() for share, weight in zip(shares, weights, strict=True)), start=torch.zeros(()))  # fmt: skip
    size = len(grams[0])
    left = torch.zeros(size, size, dtype=torch.float64)
    right = torch.zeros(size, len(weights[0]), dtype=torch.float64)
    for share, weight, gram in zip(shares, weights, grams, strict=True):
        shrunk = gram.double() * alpha
        shrunk.diagonal().copy_(gram.diagonal())
        left += share * shrunk
        right += share * shrunk @ (weight.double() - center).T
    scale = left.diagonal().clamp_min(0).sqrt()
    scale = torch.where(scale > 0, scale, 1.0)
    left /= scale[:, None] * scale
    left.diagonal().add_(_RIDGE)
    solved = torch.cholesky_solve(right / scale[:, None], torch.linalg.cholesky(left))
    return center + (solved / scale[:, None]).T


def row_mean(
    tables: Sequence[torch.Tensor], counts: Sequence[torch.Tensor], *, shares: Sequence[float]
) -> torch.Tensor:
    """`regression_mean` of embeddings: their inputs are single pieces, so that each row is the mean weighted by counts.

    Args:
        tables: [V, H] of each model.
        counts: [V], shares of the pieces in each model's text.
        shares: of the models; the weights of a row that no text has.

    Returns:
        [V, H] in float32.
    """
    weights = torch.stack([share * count.double() for share, count in zip(shares, counts, strict=True)])  # fmt: skip
    total = weights.sum(dim=0)
    by_model = torch.tensor(shares, dtype=torch.float64)[:, None]
    weights = torch.where(total > 0, weights / total.clamp_min(1e-300), by_model).float()
    base = tables[0].float()
    rows = base.clone()
    for table, weight in zip(tables[1:], weights[1:], strict=True):
        rows += weight[:, None] * (table.float() - base)
    return rows


class RegMeanTensor:
    """A fused tensor as a file's writer reads it, a block at a time: solved at its first block, let go after its last."""

    def __init__(
        self, tensors: Sequence[StoredTensor], grams: Sequence[Grams], shares: Sequence[float], alpha: float
    ) -> None:  # fmt: skip
        self._tensors, self._grams, self._shares, self._alpha = tensors, grams, shares, alpha
        self._content: bytes | None = None

    def __call__(self, start: int, stop: int) -> bytes:
        """The bytes from `start` to `stop`."""
        if self._content is None:
            self._content = self._solved()
        block = self._content[start:stop]
        if stop == self._tensors[0].size:
            self._content = None
        return block

    def _solved(self) -> bytes:
        first = self._tensors[0]
        values = [values_of(tensor) for tensor in self._tensors]
        inputs = [grams[first.name] for grams in self._grams]
        solved = (
            row_mean(values, inputs, shares=self._shares)
            if inputs[0].dim() == 1
            else regression_mean(values, inputs, shares=self._shares, alpha=self._alpha)
        )
        return as_bytes(solved.to(values[0].dtype))


def regmean_of(
    tensors: Sequence[StoredTensor],
    grams: Sequence[Grams],
    *,
    shares: Sequence[float],
    alpha: float,
    embeddings: Embeddings,
) -> StoredTensor:
    """A tensor of the fused model: a linear layer's weight by `regression_mean`, any other by the weighted mean.

    Args:
        tensors: one of each model.
        grams: of each model.
        shares: of the models.
        alpha: see `regression_mean`.
        embeddings: whether rows of the embeddings are weighted by how often a model's text has them.
    """
    name = tensors[0].name
    unknown = not all(name in known for known in grams)
    if unknown or (embeddings == "mean" and name == grams[0].embeddings):
        return mean_of(tensors, shares)
    return replace(tensors[0], read=RegMeanTensor(tensors, grams, shares, alpha))
