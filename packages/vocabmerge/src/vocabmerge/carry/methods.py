"""The methods of `carry`: each fills the tables of a task and says where each row came from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vocabmerge.carry.mixture import Mixture, matching_pursuit, mean_mixture, similarity_mixture
from vocabmerge.carry.pieces import segment_in_old_pieces
from vocabmerge.carry.procrustes import procrustes
from vocabmerge.carry.source import COMPUTED, COPIED, Fill, Source, Task
from vocabmerge.errors import VocabularyError

if TYPE_CHECKING:
    import torch

FEWEST_ANCHORS = 2


def copy_anchors(task: Task) -> None:
    """Rows of the first source that has the piece."""
    _same_widths(task)
    for source, match in zip(task.sources, task.match, strict=True):
        todo = np.flatnonzero((match >= 0) & (task.origin == 0))
        _put(task, todo, _rows(source, match[todo]), COPIED)


def average_anchors(task: Task) -> None:
    """Anchors averaged over the sources that have them; the mean row for all else."""
    _average(task)
    todo = np.flatnonzero(task.origin == 0)
    first = task.sources[0]
    size = len(first.vocabulary)
    mean = {
        name: table[:size].float().mean(dim=0).expand(len(todo), -1)
        for name, table in first.tables().items()
    }
    _put(task, todo, mean, COMPUTED)


def spell_in_old_pieces(task: Task) -> None:
    """Anchors averaged; another piece as the mean of its spelling in the first source that can spell it."""
    _average(task)
    for source in task.sources:
        todo = np.flatnonzero(task.origin == 0)
        spellable = [task.new.roles[int(i)] not in ("special", "placeholder", "hole") for i in todo]
        todo = todo[spellable]
        lists = segment_in_old_pieces(task.new, source.vocabulary, todo.tolist())
        spelled = np.array([bool(ids) for ids in lists], dtype=bool)
        if spelled.any():
            mixture = mean_mixture([ids for ids in lists if ids])
            _put(task, todo[spelled], _mixed(source, mixture), COMPUTED)


def mix_similar_anchors(task: Task) -> None:
    """FOCUS: anchors copied, another piece as a sparsemax-weighted sum of the anchors most similar to it."""
    import torch

    if task.options["auxiliary"] is None:
        raise VocabularyError(
            "focus needs auxiliary embeddings of the new pieces, got none; learn them from text of the new "
            "vocabulary's languages, which on the command line --corpus does"
        )
    auxiliary = np.asarray(task.options["auxiliary"], dtype=np.float32)
    if auxiliary.ndim != 2 or len(auxiliary) != len(task.new):
        raise VocabularyError(
            f"expected auxiliary embeddings of {len(task.new)} pieces, got shape {auxiliary.shape}"
        )
    first, match = task.sources[0], task.match[0]
    copied = np.flatnonzero(match >= 0)
    _put(task, copied, _rows(first, match[copied]), COPIED)
    known = np.abs(auxiliary).sum(axis=1) > 0
    anchors = np.flatnonzero((match >= 0) & known)
    todo = np.flatnonzero((match < 0) & known)
    if not len(todo):
        return
    _enough(anchors, "focus", first)
    device = first.embedding.device
    mixture = similarity_mixture(
        torch.from_numpy(auxiliary[todo]).to(device),
        torch.from_numpy(auxiliary[anchors]).to(device),
        torch.from_numpy(match[anchors]),
    )
    _put(task, todo, _mixed(first, mixture), COMPUTED)


def pursue_through_another(task: Task) -> None:
    """OMP transplant: a later source's row, as a combination of shared anchors, rebuilt from the first's rows."""
    import torch

    first, match = task.sources[0], task.match[0]
    copied = np.flatnonzero(match >= 0)
    _put(task, copied, _rows(first, match[copied]), COPIED)
    for donor, of_donor in zip(task.sources[1:], task.match[1:], strict=True):
        todo = np.flatnonzero((of_donor >= 0) & (task.origin == 0))
        if not len(todo):
            continue
        shared = np.flatnonzero((match >= 0) & (of_donor >= 0))
        _enough(shared, "omp", donor)
        mixture = matching_pursuit(
            donor.embedding.detach()[_index(of_donor[todo], donor)],
            donor.embedding.detach()[_index(of_donor[shared], donor)],
            torch.from_numpy(match[shared]),
            k=task.options["k"],
        )
        _put(task, todo, _mixed(first, mixture), COMPUTED)


def average_aligned(task: Task) -> None:
    """Every source turned onto the first by their shared anchors, then averaged where several have the piece."""
    first, match = task.sources[0], task.match[0]
    sums = {name: table.float() * 0 for name, table in task.tables.items()}
    seen = {name: np.zeros(len(task.new), dtype=np.int64) for name in task.tables}
    for source, of_source in zip(task.sources, task.match, strict=True):
        have = np.flatnonzero(of_source >= 0)
        shared = np.flatnonzero((of_source >= 0) & (match >= 0))
        theirs = source.tables()
        for name, target in first.tables().items():
            if name not in theirs:
                continue
            rows = theirs[name][_index(of_source[have], source)].float()
            if source is not first:
                _enough(shared, "procrustes", source)
                anchors = theirs[name][_index(of_source[shared], source)].float()
                goal = target[_index(match[shared], first)].float()
                if name == "bias":  # one column has no direction to turn
                    rows = rows - anchors.mean(dim=0) + goal.mean(dim=0)
                else:
                    rows = procrustes(anchors, goal).of(rows)
            sums[name][have] += rows.to(sums[name].device)
            seen[name][have] += 1
    for name, table in task.tables.items():
        have = np.flatnonzero(seen[name])
        counts = sums[name].new_tensor(seen[name][have])[:, None]
        table[have] = (sums[name][have] / counts).to(table.dtype)
    only_first = (match >= 0) & (seen["embedding"] == 1)
    task.origin[seen["embedding"] > 0] = COMPUTED
    task.origin[only_first] = COPIED


METHODS: Mapping[str, Fill] = {
    "copy": copy_anchors,
    "mean": average_anchors,
    "subword": spell_in_old_pieces,
    "focus": mix_similar_anchors,
    "omp": pursue_through_another,
    "procrustes": average_aligned,
}


def _average(task: Task) -> None:
    _same_widths(task)
    sums = {name: table.float() * 0 for name, table in task.tables.items()}
    seen = np.zeros(len(task.new), dtype=np.int64)
    for source, match in zip(task.sources, task.match, strict=True):
        have = np.flatnonzero(match >= 0)
        for name, rows in _rows(source, match[have]).items():
            if name in sums:
                sums[name][have] += rows.to(sums[name].device).float()
        seen[have] += 1
    have = np.flatnonzero(seen)
    counts = task.tables["embedding"].new_tensor(seen[have]).float()[:, None]
    _put(task, have, {name: table[have] / counts for name, table in sums.items()}, COPIED)
    task.origin[seen > 1] = COMPUTED


def _put(
    task: Task, pieces: NDArray[np.int64], rows: Mapping[str, torch.Tensor], origin: int
) -> None:
    for name, table in task.tables.items():
        if name in rows:
            table[pieces] = rows[name].to(table.device, table.dtype)
    task.origin[pieces] = origin


def _rows(source: Source, ids: NDArray[np.int64]) -> dict[str, torch.Tensor]:
    return {name: table[_index(ids, source)] for name, table in source.tables().items()}


def _mixed(source: Source, mixture: Mixture) -> dict[str, torch.Tensor]:
    return {name: mixture.of(table) for name, table in source.tables().items()}


def _index(ids: NDArray[np.int64], source: Source) -> torch.Tensor:
    import torch

    return torch.from_numpy(ids).to(source.embedding.device)


def _same_widths(task: Task) -> None:
    first = task.sources[0]
    for source in task.sources[1:]:
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


def _enough(anchors: NDArray[np.int64], method: str, source: Source) -> None:
    if len(anchors) < FEWEST_ANCHORS:
        raise VocabularyError(
            f"{method} needs at least {FEWEST_ANCHORS} pieces shared with {source.vocabulary.name}, got {len(anchors)}"
        )
