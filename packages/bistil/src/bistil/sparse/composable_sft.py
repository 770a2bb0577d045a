"""Reads the files of composable-sft, which are pickles, without running what a pickle may say."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bistil.errors import SparseError
from bistil.sparse.difference import SparseFineTuning, SparseTensor

_FILE = "pytorch_diff.bin"
_PARTS = {"diffs", "abs", "body"}
_PREFIXES = ("bert.", "roberta.", "deberta.", "distilbert.", "model.")


def sparse_path(path: Path) -> Path:
    """The file of a sparse fine-tuning, where a folder of composable-sft's may be named instead."""
    return path / _FILE if path.is_dir() else path


def read_composable(path: Path) -> SparseFineTuning:
    """Read `pytorch_diff.bin`, or the folder it lies in.

    Such a file has `diffs`, differences by name, and `abs`, tensors of a head as they are (before 30 September 2021: `body`
    and `head`). A difference is a sparse tensor, or its size, the steps between places and the values; places are counted
    there along the first dimension first, and here along the last. What the base model was is not in the file. Differences
    of a pooler are left out, as poolers belong to heads here; `about` names them.

    Raises:
        SparseError: for a file that is missing, holds anything but tensors and numbers, or is laid out otherwise.
    """
    file = sparse_path(path)
    content = _load(file)
    if not isinstance(content, dict) or not content.keys() & _PARTS:
        raise SparseError(f"{file}: expected a composable-sft file with `diffs` and `abs`, got {_what(content)}; give another file.")  # fmt: skip
    differences = _named(file, content, "diffs", "body")
    head = _named(file, content, "abs", "head")
    body = {_bare(name): _sparse(file, name, stored) for name, stored in differences.items()}
    for name, tensor in head.items():
        if not isinstance(tensor, Tensor):
            raise SparseError(f"{file}: expected a tensor as {name!r}, got {type(tensor).__name__!r}; give a composable-sft file.")  # fmt: skip
        if _bare(name) != name and not _bare(name).startswith("pooler."):
            raise SparseError(f"{file}: it has the tensor {name!r} of the body as it is, not as a difference, and does not say to what base; make it with that tensor among the sparse ones.")  # fmt: skip
    left = sorted(name for name in body if name.startswith("pooler."))
    return SparseFineTuning(
        body={name: delta for name, delta in body.items() if name not in left},
        head={name: tensor.detach() for name, tensor in head.items()},
        about={"kind": "composable-sft", **({"left_out": left} if left else {})},
        name=str(path),
    )


def _named(file: Path, content: dict[str, Any], *keys: str) -> dict[str, Any]:
    """The first of these parts that is there."""
    part: Any = next((content[key] for key in keys if content.get(key) is not None), {})
    if not isinstance(part, dict):
        raise SparseError(f"{file}: expected tensors by name in its {keys[0]!r}, got {type(part).__name__!r}; give a composable-sft file.")  # fmt: skip
    return {str(name): tensor for name, tensor in part.items()}


def _what(content: Any) -> str:
    if not isinstance(content, dict):
        return repr(type(content).__name__)
    return "the entries " + ", ".join(sorted(map(repr, content))[:5]) if content else "nothing"


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
    steps = np.array([int(step) for step in stored["index_steps"]], dtype=np.int64)
    places = np.cumsum(steps)
    ascend = not len(steps) or (steps[0] >= 0 and (steps[1:] > 0).all())
    if (
        len(places) != len(stored["values"])
        or not ascend
        or (len(places) and places[-1] >= np.prod(shape))
    ):
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
