"""Reads the files of composable-sft, which are pickles, without running what a pickle may say."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bistil.errors import SparseError
from bistil.sparse_file import SparseFineTuning, SparseTensor

_FILE = "pytorch_diff.bin"
_PREFIXES = ("bert.", "roberta.", "deberta.", "distilbert.", "model.")


def read_composable(path: Path) -> SparseFineTuning:
    """Read `pytorch_diff.bin`, or the folder it lies in.

    Two layouts are known: per tensor a sparse tensor, or its size, the steps between places and the values. Places are
    counted there along the first dimension first, and here along the last. What the base model was is not in the file.

    Raises:
        SparseError: for a file that is missing, holds anything but tensors and numbers, or is laid out otherwise.
    """
    file = path / _FILE if path.is_dir() else path
    content = _load(file)
    if not isinstance(content, dict) or not isinstance(content.get("body"), dict):
        raise SparseError(f"{file}: expected a composable-sft file with a body, got {type(content).__name__!r}; give another file.")  # fmt: skip
    body = {_bare(str(name)): _sparse(file, name, its) for name, its in content["body"].items()}
    head = {str(name): its for name, its in (content.get("head") or {}).items()}
    return SparseFineTuning(body=body, head=head, about={"kind": "composable-sft"}, name=str(path))


def _load(file: Path) -> Any:
    scalar = np._core.multiarray.scalar  # type: ignore[attr-defined]  # the function that numpy pickles its numbers by
    known: list[Any] = [
        (scalar, "numpy.core.multiarray.scalar"),
        (scalar, "numpy._core.multiarray.scalar"),
        np.dtype,
        type(np.dtype(np.int64)),
        type(np.dtype(np.int32)),
    ]
    try:
        with torch.serialization.safe_globals(known):
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise SparseError(
            f"{file}: it holds more than tensors and numbers, or is damaged, and is not loaded; "
            "give a file that composable-sft wrote."
        ) from error
    except (OSError, RuntimeError, EOFError) as error:
        raise SparseError(f"{file}: cannot be read ({str(error).splitlines()[0]}); fetch the file again.") from error  # fmt: skip


def _sparse(file: Path, name: object, stored: Any) -> SparseTensor:
    if isinstance(stored, Tensor) and stored.is_sparse:
        stored = stored.coalesce()
        shape = tuple(stored.shape)
        places = stored.indices().numpy()
        return _sorted(shape, np.ravel_multi_index(tuple(places), shape), stored.values())
    if not isinstance(stored, dict) or not {"size", "index_steps", "values"} <= stored.keys():
        raise SparseError(f"{file}: the tensor {name!r} is stored in a way that is not known; give a composable-sft file.")  # fmt: skip
    shape = tuple(int(n) for n in stored["size"])
    places = np.cumsum(np.array([int(step) for step in stored["index_steps"]], dtype=np.int64))
    if len(places) != len(stored["values"]) or (len(places) and places[-1] >= np.prod(shape)):
        raise SparseError(f"{file}: places and values of {name!r} do not fit its size {shape!r}; fetch the file again.")  # fmt: skip
    spread = np.unravel_index(places, shape, order="F")
    return _sorted(shape, np.ravel_multi_index(spread, shape), stored["values"])


def _sorted(shape: tuple[int, ...], indices: Any, values: Tensor) -> SparseTensor:
    order = np.argsort(indices, kind="stable")
    return SparseTensor(
        shape=shape,
        indices=np.asarray(indices, dtype=np.int64)[order],
        values=values[torch.from_numpy(order)],
    )


def _bare(name: str) -> str:
    """A tensor's name in the body, from its name in a model with a head."""
    for prefix in _PREFIXES:
        if name.startswith(prefix):
            return name.removeprefix(prefix)
    return name
