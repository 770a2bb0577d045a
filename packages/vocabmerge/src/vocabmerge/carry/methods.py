"""The methods of `carry`: each fills the tables of a new vocabulary and says where each row came from.

An anchor is a new piece that an old vocabulary has, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vocabmerge.carry.mixture import Mixture, matching_pursuit, mean_mixture, similarity_mixture
from vocabmerge.carry.pieces import segment_in_old_pieces
from vocabmerge.carry.procrustes import procrustes
from vocabmerge.carry.source import COMPUTED, COPIED, Method, NewTables, Source
from vocabmerge.errors import VocabularyError

if TYPE_CHECKING:
    import torch

FEWEST_ANCHORS = 2


def copy_anchors(new: NewTables) -> None:
    """Rows of the first source that has the piece."""
    _require_same_tables(new.sources)
    for source, match in zip(new.sources, new.matches, strict=True):
        anchors = np.flatnonzero((match >= 0) & (new.origin == 0))
        new.fill(anchors, _rows(source, match[anchors]), COPIED)


def mean_of_anchors(new: NewTables) -> None:
    """Anchors averaged over the sources that have them; the mean row for all else."""
    _average_anchors(new)
    rest = new.without_row()
    first = new.sources[0]
    size = len(first.vocabulary)
    mean = {
        name: table[:size].float().mean(dim=0).expand(len(rest), -1)
        for name, table in first.tables().items()
    }
    new.fill(rest, mean, COMPUTED)


def mean_of_subwords(new: NewTables) -> None:
    """Anchors averaged; another piece as the mean of the old pieces that make it up, in the first source that can."""
    _average_anchors(new)
    for source in new.sources:
        rest = new.without_row()
        rest = rest[
            [new.vocabulary.roles[int(i)] not in ("special", "placeholder", "hole") for i in rest]
        ]
        lists = segment_in_old_pieces(new.vocabulary, source.vocabulary, rest.tolist())
        segmented = np.array([bool(ids) for ids in lists], dtype=bool)
        if segmented.any():
            mixture = mean_mixture([ids for ids in lists if ids])
            new.fill(rest[segmented], _mixed(source, mixture), COMPUTED)


def focus(new: NewTables) -> None:
    """Anchors copied; another piece as a sparsemax-weighted sum of the anchors most similar to it (Dobler, de Melo 2023)."""
    import torch

    if new.auxiliary is None:
        raise VocabularyError(
            "focus needs auxiliary embeddings of the new pieces, got none; learn them from text of the new "
            "vocabulary's languages, which on the command line --language does"
        )
    auxiliary = np.asarray(new.auxiliary, dtype=np.float32)
    if auxiliary.ndim != 2 or len(auxiliary) != len(new.vocabulary):
        raise VocabularyError(
            f"expected auxiliary embeddings of {len(new.vocabulary)} pieces, got shape {auxiliary.shape}"
        )
    first, match = new.sources[0], new.matches[0]
    copied = np.flatnonzero(match >= 0)
    new.fill(copied, _rows(first, match[copied]), COPIED)
    known = np.abs(auxiliary).sum(axis=1) > 0
    anchors = np.flatnonzero((match >= 0) & known)
    rest = np.flatnonzero((match < 0) & known)
    if not len(rest):
        return
    _require_anchors(anchors, "focus", first)
    device = first.embedding.device
    mixture = similarity_mixture(
        torch.from_numpy(auxiliary[rest]).to(device),
        torch.from_numpy(auxiliary[anchors]).to(device),
        torch.from_numpy(match[anchors]),
    )
    new.fill(rest, _mixed(first, mixture), COMPUTED)


def omp_transplant(new: NewTables) -> None:
    """Anchors copied; another piece as a later source has it, rebuilt in the first source's space.

    A later source's row is a combination of at most k anchors shared with the first, by orthogonal matching pursuit;
    the new row is the same combination of the first source's rows (Goddard, Fernandes Neto 2025).
    """
    import torch

    first, match = new.sources[0], new.matches[0]
    copied = np.flatnonzero(match >= 0)
    new.fill(copied, _rows(first, match[copied]), COPIED)
    for donor, donor_match in zip(new.sources[1:], new.matches[1:], strict=True):
        rest = np.flatnonzero((donor_match >= 0) & (new.origin == 0))
        if not len(rest):
            continue
        shared = np.flatnonzero((match >= 0) & (donor_match >= 0))
        _require_anchors(shared, "omp", donor)
        mixture = matching_pursuit(
            donor.embedding.detach()[_index(donor_match[rest], donor)],
            donor.embedding.detach()[_index(donor_match[shared], donor)],
            torch.from_numpy(match[shared]),
            k=new.k,
        )
        new.fill(rest, _mixed(first, mixture), COMPUTED)


def mean_of_aligned(new: NewTables) -> None:
    """Every source turned onto the first by their shared anchors, then averaged where several have the piece."""
    first, first_match = new.sources[0], new.matches[0]
    sums = {name: table.float() * 0 for name, table in new.tables.items()}
    counts = {name: np.zeros(len(new.vocabulary), dtype=np.int64) for name in new.tables}
    for source, match in zip(new.sources, new.matches, strict=True):
        anchors = np.flatnonzero(match >= 0)
        shared = np.flatnonzero((match >= 0) & (first_match >= 0))
        tables = source.tables()
        for name, first_table in first.tables().items():
            if name not in tables:
                continue
            rows = tables[name][_index(match[anchors], source)].float()
            if source is not first:
                _require_anchors(shared, "procrustes", source)
                shared_rows = tables[name][_index(match[shared], source)].float()
                target_rows = first_table[_index(first_match[shared], first)].float()
                if name == "bias":  # one column has no direction to turn
                    rows = rows - shared_rows.mean(dim=0) + target_rows.mean(dim=0)
                else:
                    rows = procrustes(shared_rows, target_rows).apply(rows)
            sums[name][anchors] += rows.to(sums[name].device)
            counts[name][anchors] += 1
    for name, table in new.tables.items():
        filled = np.flatnonzero(counts[name])
        divisor = sums[name].new_tensor(counts[name][filled])[:, None]
        table[filled] = (sums[name][filled] / divisor).to(table.dtype)
    new.origin[counts["embedding"] > 0] = COMPUTED
    new.origin[(first_match >= 0) & (counts["embedding"] == 1)] = COPIED


METHODS: Mapping[str, Method] = {
    "copy": copy_anchors,
    "mean": mean_of_anchors,
    "subword": mean_of_subwords,
    "focus": focus,
    "omp": omp_transplant,
    "procrustes": mean_of_aligned,
}


def _average_anchors(new: NewTables) -> None:
    _require_same_tables(new.sources)
    sums = {name: table.float() * 0 for name, table in new.tables.items()}
    counts = np.zeros(len(new.vocabulary), dtype=np.int64)
    for source, match in zip(new.sources, new.matches, strict=True):
        anchors = np.flatnonzero(match >= 0)
        for name, rows in _rows(source, match[anchors]).items():
            if name in sums:
                sums[name][anchors] += rows.to(sums[name].device).float()
        counts[anchors] += 1
    filled = np.flatnonzero(counts)
    divisor = new.tables["embedding"].new_tensor(counts[filled]).float()[:, None]
    new.fill(filled, {name: table[filled] / divisor for name, table in sums.items()}, COPIED)
    new.origin[counts > 1] = COMPUTED


def _rows(source: Source, ids: NDArray[np.int64]) -> dict[str, torch.Tensor]:
    return {name: table[_index(ids, source)] for name, table in source.tables().items()}


def _mixed(source: Source, mixture: Mixture) -> dict[str, torch.Tensor]:
    return {name: mixture.apply(table) for name, table in source.tables().items()}


def _index(ids: NDArray[np.int64], source: Source) -> torch.Tensor:
    import torch

    return torch.from_numpy(ids).to(source.embedding.device)


def _require_same_tables(sources: Sequence[Source]) -> None:
    first = sources[0]
    for source in sources[1:]:
        if source.embedding.shape[1] != first.embedding.shape[1]:
            raise VocabularyError(
                f"{source.vocabulary.name} is {source.embedding.shape[1]} wide and {first.vocabulary.name} "
                f"{first.embedding.shape[1]}; rows of different spaces do not mix, take procrustes or omp"
            )
        missing = set(first.tables()) - set(source.tables())
        if missing:
            raise VocabularyError(
                f"{source.vocabulary.name} has no {' and no '.join(sorted(missing))}, which "
                f"{first.vocabulary.name} has; take procrustes, or carry from the others alone"
            )


def _require_anchors(anchors: NDArray[np.int64], method: str, source: Source) -> None:
    if len(anchors) < FEWEST_ANCHORS:
        raise VocabularyError(
            f"{method} needs at least {FEWEST_ANCHORS} pieces shared with {source.vocabulary.name}, got {len(anchors)}"
        )
