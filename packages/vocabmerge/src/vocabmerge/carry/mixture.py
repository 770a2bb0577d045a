"""New rows as weighted sums of old ones, and three ways to find the weights.

Nothing here holds a matrix of all new by all old pieces: rows are worked on in chunks of a byte budget.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

BYTES_AT_ONCE = 256 * 2**20
"""What a chunk's largest intermediate may take."""


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """For each of N new rows, the old rows that it is made of, and their weights.

    Args:
        ids: int64 [N, K], old rows.
        weights: float32 [N, K], 0 where fewer than K are needed.
    """

    ids: torch.Tensor
    weights: torch.Tensor

    def apply(self, old: torch.Tensor) -> torch.Tensor:
        """The new rows [N, E] of a table of old rows [V, E], summed in fp32, in the table's precision."""
        from torch.nn.functional import embedding_bag

        rows = embedding_bag(
            self.ids.to(old.device),
            old.float(),
            mode="sum",
            per_sample_weights=self.weights.to(old.device, old.float().dtype),
        )
        return rows.to(old.dtype)


def mean_mixture(lists: Sequence[Sequence[int]]) -> Mixture:
    """The mean of the listed rows; each list names at least one.

    Example:
        >>> mean_mixture([[3], [0, 1]]).weights.tolist()
        [[1.0, 0.0], [0.5, 0.5]]
    """
    import torch

    longest = max((len(ids) for ids in lists), default=1)
    ids = torch.zeros(len(lists), longest, dtype=torch.int64)
    weights = torch.zeros(len(lists), longest)
    for row, listed in enumerate(lists):
        ids[row, : len(listed)] = torch.as_tensor(listed)
        weights[row, : len(listed)] = 1 / len(listed)
    return Mixture(ids=ids, weights=weights)


def similarity_mixture(
    queries: torch.Tensor, anchors: torch.Tensor, anchor_ids: torch.Tensor
) -> Mixture:
    """FOCUS's weights: sparsemax over the cosine similarities of each query to all anchors (Dobler, de Melo 2023).

    The new row is `Σ_a sparsemax(cos(query, anchors))_a · old row of a`.

    Args:
        queries: auxiliary embeddings of the new pieces [N, D].
        anchors: auxiliary embeddings of the anchors [M, D], in the same space.
        anchor_ids: old row of each anchor [M].
    """
    import torch
    from torch.nn.functional import normalize

    keys = normalize(anchors.float(), dim=1)
    ids, weights = [], []
    for chunk in _chunks(queries, 4 * len(anchors)):
        similar = normalize(chunk.float(), dim=1) @ keys.T
        values, places = _sparsemax(similar)
        ids.append(anchor_ids.to(places.device)[places])
        weights.append(values)
    widest = max((part.shape[1] for part in ids), default=1)
    pad = torch.nn.functional.pad
    return Mixture(
        ids=torch.cat([pad(part, (0, widest - part.shape[1])) for part in ids]),
        weights=torch.cat([pad(part, (0, widest - part.shape[1])) for part in weights]),
    )


def matching_pursuit(
    targets: torch.Tensor, atoms: torch.Tensor, atom_ids: torch.Tensor, *, k: int = 64
) -> Mixture:
    """Orthogonal matching pursuit (Pati, Rezaiifar, Krishnaprasad 1993): each target from at most k atoms, one a step.

    A step takes the atom that is most aligned with what is left, and refits all taken atoms: targets are projected on
    an orthonormal basis of the taken atoms (Gram-Schmidt, twice for stability), so that a step for a chunk of
    targets is one matrix product with all atoms.

    Args:
        targets: what to express [N, D].
        atoms: what to express it in [M, D].
        atom_ids: old row of each atom [M].
        k: number of atoms for each target; at most M and D are used.
    """
    import torch
    from torch.nn.functional import normalize

    k = min(k, *atoms.shape)
    atoms = atoms.float()
    directions = normalize(atoms, dim=1)
    ids, weights = [], []
    for chunk in _chunks(targets, 4 * (2 * len(atoms) + 2 * k * atoms.shape[1])):
        places, values = _pursue(chunk.float(), atoms, directions, k)
        ids.append(atom_ids.to(places.device)[places])
        weights.append(values)
    return Mixture(ids=torch.cat(ids), weights=torch.cat(weights))


def _pursue(
    targets: torch.Tensor, atoms: torch.Tensor, directions: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    n, width = targets.shape
    rows = torch.arange(n, device=targets.device)
    taken = torch.zeros(n, len(atoms), dtype=torch.bool, device=targets.device)
    basis = targets.new_zeros(n, k, width)
    triangle = torch.eye(k, device=targets.device).repeat(n, 1, 1)
    places = torch.zeros(n, k, dtype=torch.int64, device=targets.device)
    left = targets.clone()
    for step in range(k):
        aligned = (left @ directions.T).abs_().masked_fill_(taken, -1)
        best = aligned.argmax(dim=1)
        taken[rows, best] = True
        places[:, step] = best
        atom = fresh = atoms[best]
        for _ in range(2):
            along = torch.einsum("nkd,nd->nk", basis[:, :step], fresh)
            triangle[:, :step, step] += along
            fresh = fresh - torch.einsum("nkd,nk->nd", basis[:, :step], along)
        length = fresh.norm(dim=1)
        useful = length > 1e-5 * atom.norm(dim=1)  # else it lies in the span of those taken
        basis[:, step] = torch.where(useful, 1 / length, 0.0)[:, None] * fresh
        triangle[:, step, step] = torch.where(useful, length, 1.0)
        share = (basis[:, step] * left).sum(dim=1, keepdim=True)
        left = left - share * basis[:, step]
    onto = torch.einsum("nkd,nd->nk", basis, targets)
    weights = torch.linalg.solve_triangular(triangle, onto[:, :, None], upper=True)[:, :, 0]
    return places, weights


def _sparsemax(scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Non-zero weights [N, K] and their places (Martins, Astudillo 2016), from as few of the top scores as decide it."""
    import torch

    width = min(64, scores.shape[1])
    while True:
        top, places = scores.topk(width, dim=1)
        count = torch.arange(1, width + 1, device=scores.device)
        inside = 1 + count * top > top.cumsum(dim=1)
        support = inside.sum(dim=1, keepdim=True)
        if width == scores.shape[1] or int(support.max()) < width:
            break
        width = min(4 * width, scores.shape[1])
    threshold = (top.cumsum(dim=1).gather(1, support - 1) - 1) / support
    widest = int(support.max())
    return (top - threshold).clamp(min=0)[:, :widest], places[:, :widest]


def _chunks(rows: torch.Tensor, bytes_each: int) -> Iterator[torch.Tensor]:
    return iter(rows.split(max(1, BYTES_AT_ONCE // max(bytes_each, 1)))) if len(rows) else iter(())
