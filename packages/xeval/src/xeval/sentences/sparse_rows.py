"""Vectors that are mostly zeros, such as those over a vocabulary: rows of SciPy's `csr_array`, from torch and back."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor


def stacked_rows(tensors: Sequence[Tensor]) -> Any:
    """All rows of sparse tensors `[n_i, D]` as one `csr_array` `[Σ n_i, D]`."""
    sparse = importlib.import_module("scipy.sparse")
    parts = []
    for tensor in tensors:
        entries = tensor.coalesce()
        places = tuple(entries.indices().numpy())
        parts.append(sparse.csr_array((entries.values().numpy(), places), shape=tuple(entries.shape)))  # fmt: skip
    return sparse.vstack(parts, format="csr")


def tensor_of(rows: Any) -> Tensor:
    """A sparse tensor of a `csr_array`."""
    import torch

    entries = rows.tocoo()
    places = torch.from_numpy(np.stack(entries.coords).astype(np.int64))
    values = torch.from_numpy(entries.data)
    return torch.sparse_coo_tensor(places, values, entries.shape, check_invariants=False).coalesce()


def rows_of_unit_length(rows: Any) -> Any:
    """Each row of a `csr_array` over its length; a row of zeros stays."""
    lengths = np.sqrt(rows.power(2).sum(axis=1))
    scaled = rows.copy()
    scaled.data = rows.data / np.repeat(np.where(lengths == 0, 1, lengths), np.diff(rows.indptr))
    return scaled


def dense(table: Any) -> NDArray[np.float32]:
    """A table of numbers, spelled out where it is sparse."""
    return np.asarray(table.toarray() if hasattr(table, "toarray") else table)
