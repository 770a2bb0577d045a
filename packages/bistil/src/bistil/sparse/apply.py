"""What sparse fine-tunings do to a model: put on, taken off exactly, added, subtracted, carried to a trimmed vocabulary."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bistil.encoders.body import body_digests, body_parameters
from bistil.errors import SparseError
from bistil.sparse.difference import SparseFineTuning, SparseTensor


@torch.no_grad()
def apply(model: nn.Module, *tunings: SparseFineTuning, check: bool = True) -> None:
    """θ ← θ + Σ φ: add differences to a model's body, for good (composition; Ansell et al. 2022, section 3).

    Heads are left alone. All are of the same base model, which is what `model` must be: every one is checked before any is added.

    Args:
        model: anything with the body.
        tunings: what to add, in this order.
        check: whether the model must have the base model's very weights; shapes are checked in any case.

    Raises:
        SparseError: naming what was made for another base model.

    Example:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> _ = nn.init.ones_(model.weight)
        >>> delta = SparseTensor(shape=(1, 2), indices=np.array([1]), values=torch.tensor([0.5]))
        >>> apply(model, SparseFineTuning(body={"weight": delta}))
        >>> model.weight.tolist()
        [[1.0, 1.5]]
    """
    _check_all(model, tunings, check)
    parameters = body_parameters(model)
    for tuning in tunings:
        for name, delta in tuning.body.items():
            _add(parameters[name], delta)


@contextlib.contextmanager
def applied(model: nn.Module, *tunings: SparseFineTuning, check: bool = True) -> Iterator[None]:
    """θ + Σ φ for the length of a block; then the touched entries are put back bit for bit.

    Args:
        model: see `apply`.
        tunings: see `apply`.
        check: see `apply`; digests take a second or so for a large model, so switch it off where it was done before.

    Raises:
        SparseError: see `apply`.

    Example:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> _ = nn.init.ones_(model.weight)
        >>> delta = SparseTensor(shape=(1, 2), indices=np.array([1]), values=torch.tensor([0.5]))
        >>> with applied(model, SparseFineTuning(body={"weight": delta})):
        ...     inside = model.weight.tolist()
        >>> inside, model.weight.tolist()
        ([[1.0, 1.5]], [[1.0, 1.0]])
    """
    _check_all(model, tunings, check)
    parameters = body_parameters(model)
    kept: list[tuple[Tensor, Tensor | None, Tensor]] = []
    try:
        with torch.no_grad():
            for tuning in tunings:
                for name, delta in tuning.body.items():
                    flat = _flat(parameters[name])
                    places, _ = delta.on(flat.device)
                    kept.append((flat, places, flat.clone() if places is None else flat[places]))
                    _add(parameters[name], delta)
        yield
    finally:
        with torch.no_grad():
            for flat, places, before in reversed(kept):
                if places is None:
                    flat.copy_(before)
                else:
                    flat[places] = before


def combine(*terms: tuple[SparseFineTuning, float], name: str = "combination") -> SparseFineTuning:
    """Σ factor · difference, as one sparse fine-tuning; the factor 1 adds, -1 subtracts.

    Entries that cancel to zero stay as zeros. Heads are not numbers to add: the only one is kept, of several none.

    Raises:
        SparseError: for differences to different base models.

    Example:
        >>> delta = SparseTensor(shape=(3,), indices=np.array([2]), values=torch.tensor([4.0]))
        >>> combine((SparseFineTuning(body={"w": delta}), -0.5)).body["w"].dense().tolist()
        [0.0, 0.0, -2.0]
    """
    if not terms:
        raise SparseError("There is nothing to combine; give at least one sparse fine-tuning.")
    known = [tuning for tuning, _ in terms if tuning.base]
    for tuning in known[1:]:
        _same_base(tuning.base, known[0].base, tuning.name, known[0].name)
    body: dict[str, SparseTensor] = {}
    for tuning, factor in terms:
        for tensor, delta in tuning.body.items():
            scaled = replace(delta, values=delta.values.float() * factor)
            body[tensor] = _sum(body[tensor], scaled, tensor) if tensor in body else scaled
    heads = [tuning.head for tuning, _ in terms if tuning.head]
    about = {
        "kind": "combination",
        "of": [{"factor": factor, **tuning.about} for tuning, factor in terms],
    }
    return SparseFineTuning(
        body=body,
        base=known[0].base if known else {},
        head=heads[0] if len(heads) == 1 else {},
        about=about,
        name=name,
    )


def reindex(
    tuning: SparseFineTuning, kept: NDArray[np.int64], *, embedding: str, rows: int | None = None
) -> SparseFineTuning:
    """The same differences for a model whose vocabulary was trimmed; what dropped pieces had is left out.

    Args:
        tuning: of the model before trimming.
        kept: old id of each new id [V_new], such as `vocabmerge`'s `Trim.kept` or `kept_ids`.
        embedding: name in the body of the tensor with a row per piece.
        rows: of the trimmed tensor, where it is padded beyond the vocabulary.

    Returns:
        Differences of the embedding [rows, H], row i being that of the old piece `kept[i]`, and of all else as they were; the
        embedding's digest is no longer part of the base.

    Raises:
        SparseError: for ids beyond the rows there were.

    Example:
        >>> delta = SparseTensor(shape=(3, 1), indices=np.array([0, 2]), values=torch.tensor([1.0, 3.0]))
        >>> tuning = SparseFineTuning(body={"words": delta})
        >>> reindex(tuning, np.array([2, 1]), embedding="words").body["words"].dense().tolist()
        [[3.0], [0.0]]
    """
    rows = len(kept) if rows is None else rows
    base = {name: digest for name, digest in tuning.base.items() if name != embedding}
    if embedding not in tuning.body:
        return replace(tuning, base=base)
    delta = tuning.body[embedding]
    if rows < len(kept) or (
        len(kept) and not 0 <= int(kept.min()) <= int(kept.max()) < delta.shape[0]
    ):
        raise SparseError(
            f"{tuning.name}: it was made for {delta.shape[0]} pieces, but the trimmed vocabulary keeps ids up to "
            f"{int(kept.max())} in {rows} rows; give the map of the vocabulary that it was made for."
        )
    if delta.indices is None:
        whole = delta.values.view(delta.shape)
        values = whole.new_zeros((rows, *delta.shape[1:]))
        values[: len(kept)] = whole[torch.from_numpy(kept)]
        carried = SparseTensor(shape=tuple(values.shape), indices=None, values=values.flatten())
        return replace(tuning, base=base, body={**tuning.body, embedding: carried})
    new = np.full(delta.shape[0], -1, dtype=np.int64)
    new[kept] = np.arange(len(kept))
    width = int(np.prod(delta.shape[1:]))
    row, column = np.divmod(delta.indices, width)
    stays = new[row] >= 0
    places = new[row[stays]] * width + column[stays]
    order = np.argsort(places, kind="stable")
    carried = SparseTensor(
        shape=(rows, *delta.shape[1:]),
        indices=places[order],
        values=delta.values[torch.from_numpy(np.flatnonzero(stays)[order])],
    )
    return replace(tuning, base=base, body={**tuning.body, embedding: carried})


def difference(
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    places: Mapping[str, NDArray[np.int64] | None],
) -> dict[str, SparseTensor]:
    """The difference `after - before`, float32, at some places of each tensor, or at all (None); tensors without a place are left out."""
    body = {}
    for name, indices in places.items():
        if indices is None or len(indices):
            chosen = slice(None) if indices is None else torch.from_numpy(indices)
            old, new = (_flat(tensors[name]).cpu()[chosen].float() for tensors in (before, after))
            body[name] = SparseTensor(
                shape=tuple(before[name].shape), indices=indices, values=new - old
            )
    return body


def check_base(
    model: nn.Module, tuning: SparseFineTuning, *, digests: Mapping[str, str] | None = None
) -> None:
    """Refuse a sparse fine-tuning of another base model than this.

    Tensors that the model has under another digest, name or shape are another model's. A vocabulary trimmed since then
    leaves all digests but the embedding's, which `reindex` takes away.

    Args:
        model: anything with the body.
        tuning: what is to be put on.
        digests: `body_digests` of the model, where they are known.

    Raises:
        SparseError: naming the file, the first tensor that differs and both digests.
    """
    _check_shapes(model, tuning)
    if tuning.base:
        known = body_digests(model) if digests is None else digests
        _same_base(tuning.base, known, tuning.name, "this model")


def _check_all(model: nn.Module, tunings: Sequence[SparseFineTuning], check: bool) -> None:
    digests = body_digests(model) if check and any(tuning.base for tuning in tunings) else {}
    for tuning in tunings:
        if check:
            check_base(model, tuning, digests=digests)
        else:
            _check_shapes(model, tuning)


def _check_shapes(model: nn.Module, tuning: SparseFineTuning) -> None:
    parameters = body_parameters(model)
    for name, delta in tuning.body.items():
        shape = tuple(parameters[name].shape) if name in parameters else None
        if shape != delta.shape:
            raise SparseError(
                f"{tuning.name}: it changes a tensor {name!r} of shape {delta.shape!r}, and this model has "
                f"{'none of that name' if shape is None else f'one of shape {shape!r}'}; "
                "it was made for another base model (or another vocabulary: `bistil compose --trimmed` carries it over)."
            )


def _same_base(made_for: Mapping[str, str], base: Mapping[str, str], name: str, what: str) -> None:
    for tensor in sorted(made_for.keys() & base.keys()):
        if made_for[tensor] != base[tensor]:
            raise SparseError(
                f"{name}: it was made for another base model than {what}: the tensor {tensor!r} has the digest "
                f"{base[tensor]!r}, expected {made_for[tensor]!r}; give the model it was made from."
            )


def _sum(first: SparseTensor, second: SparseTensor, name: str) -> SparseTensor:
    if first.shape != second.shape:
        raise SparseError(f"The tensor {name!r} has the shapes {first.shape!r} and {second.shape!r}; combine differences to one base model.")  # fmt: skip
    if first.indices is None or second.indices is None:
        dense = first.dense() + second.dense()
        return SparseTensor(shape=first.shape, indices=None, values=dense.flatten())
    indices, where = np.unique(np.concatenate([first.indices, second.indices]), return_inverse=True)
    values = torch.zeros(len(indices))
    values.index_add_(0, torch.from_numpy(where.ravel()), torch.cat([first.values, second.values]))
    return SparseTensor(shape=first.shape, indices=indices, values=values)


def _add(tensor: Tensor, delta: SparseTensor) -> None:
    flat = _flat(tensor)
    places, values = delta.on(flat.device)
    if places is None:
        flat.copy_(flat.float() + values.float())
    else:
        flat[places] = (flat[places].float() + values.float()).to(flat.dtype)


def _flat(tensor: Tensor) -> Tensor:
    return tensor.detach().view(-1)
