"""A folder's tensors, read and written a few rows at a time, so that no model has to fit in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from vocabmerge.errors import VocabularyError
from vocabmerge.model_files import stored_tensors, weight_files

if TYPE_CHECKING:
    import torch

Rows = NDArray[np.int64]
_BLOCK = 2**22
_UNREADABLE = (OSError, RuntimeError, ValueError, AttributeError, EOFError, UnpicklingError)
_CODES = {
    **{f"torch.float{bits}": f"F{bits}" for bits in (16, 32, 64)},
    **{f"torch.int{bits}": f"I{bits}" for bits in (8, 16, 32, 64)},
    "torch.bfloat16": "BF16",
    "torch.uint8": "U8",
    "torch.bool": "BOOL",
}


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """A tensor in a file.

    Args:
        name: its name there.
        dtype: its type as safetensors writes it, such as `BF16`.
        shape: its shape [rows, …].
        size: how many bytes it has.
        read: gives its bytes from one offset to another.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    size: int
    read: Callable[[int, int], bytes]

    @property
    def numel(self) -> int:
        """How many values it has."""
        return int(np.prod(self.shape, dtype=np.int64))


@dataclass(frozen=True, kw_only=True)
class PlannedTensor:
    """A tensor to write.

    Args:
        stored: where its values are.
        rows: which of its rows to write, ascending, -1 for a row of zeros; None for the whole tensor.
    """

    stored: StoredTensor
    rows: Rows | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape in the file to write."""
        stored = self.stored.shape
        return stored if self.rows is None else (len(self.rows), *stored[1:])

    @property
    def numel(self) -> int:
        """How many values it will have."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def size(self) -> int:
        """How many bytes it will have."""
        return self.stored.size * self.numel // max(self.stored.numel, 1)

    def blocks(self) -> Iterator[bytes]:
        """Its bytes, a block at a time."""
        stored = self.stored
        if self.rows is None:
            for start in range(0, stored.size, _BLOCK):
                yield stored.read(start, min(start + _BLOCK, stored.size))
            return
        width = stored.size // stored.shape[0]
        rows = self.rows[self.rows >= 0]
        yield bytes(width * (len(self.rows) - len(rows)))
        step = max(1, _BLOCK // width)
        for first in range(0, stored.shape[0], step):
            last = min(first + step, stored.shape[0])
            wanted = rows[slice(*np.searchsorted(rows, [first, last]))]
            if len(wanted):
                block = np.frombuffer(stored.read(first * width, last * width), dtype=np.uint8)
                yield block.reshape(-1, width)[wanted - first].tobytes()


def read_tensors(folder: Path) -> tuple[tuple[StoredTensor, ...], dict[str, str]]:
    """The tensors of a folder's weights in the order of their bytes, and the metadata of its first file.

    Raises:
        VocabularyError: a file that is damaged, or that only running its code could read.
    """
    files = weight_files(folder)
    if files[0].suffix == ".safetensors":
        parts = [read_safetensors(file) for file in files]
        return tuple(tensor for tensors, _ in parts for tensor in tensors), parts[0][1]
    try:
        named = tuple(_loaded(name, tensor, files[0]) for name, tensor in stored_tensors(folder))
    except _UNREADABLE as error:
        raise _unreadable(files[0], error) from error
    return named, {"format": "pt"}


def read_safetensors(file: Path) -> tuple[tuple[StoredTensor, ...], dict[str, str]]:
    """The tensors of a safetensors file in the order of their bytes, and its metadata.

    Raises:
        VocabularyError: a damaged file.
    """
    try:
        with safe_open(file, framework="np"):  # checks the header, and the file's length by it
            pass
    except (OSError, SafetensorError) as error:
        raise VocabularyError(
            f"{file}: expected safetensors, cannot read it ({error}); fetch or save the model again"
        ) from error
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header: dict[str, Any] = json.loads(opened.read(length))
    metadata = header.pop("__metadata__", None) or {}
    entries = sorted(header.items(), key=lambda entry: tuple(entry[1]["data_offsets"]))
    return tuple(_in_file(file, 8 + length, name, entry) for name, entry in entries), metadata


def write_safetensors(
    file: Path, tensors: Sequence[PlannedTensor], metadata: Mapping[str, str]
) -> None:
    """Write tensors one after the other; the greatest element types first, so that each is aligned.

    Args:
        file: what to make.
        tensors: what to write, in order.
        metadata: what the file says of itself.
    """
    ordered = sorted(tensors, key=lambda planned: -planned.size // max(planned.numel, 1))
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for planned in ordered:
        header[planned.stored.name] = {
            "dtype": planned.stored.dtype,
            "shape": planned.shape,
            "data_offsets": [offset, offset + planned.size],
        }
        offset += planned.size
    encoded = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with file.open("wb") as opened:
        opened.write(len(encoded).to_bytes(8, "little") + encoded)
        for planned in ordered:
            opened.writelines(planned.blocks())


def side_shapes(file: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The name and shape of every tensor in a file of any kind beside a model's weights.

    Raises:
        VocabularyError: a file that is damaged, or that only running its code could read.
    """
    if file.suffix == ".safetensors":
        yield from ((tensor.name, tensor.shape) for tensor in read_safetensors(file)[0])
        return
    try:
        if file.suffix == ".npy":
            content: Any = np.load(file, mmap_mode="r")
        elif file.suffix == ".npz":
            with np.load(file) as opened:
                content = dict(opened)
        else:
            import torch

            content = torch.load(file, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise _unreadable(file, error) from error
    yield from _shapes_in(content, "")


def _shapes_in(content: Any, name: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    if hasattr(content, "shape"):
        yield name, tuple(content.shape)
    elif isinstance(content, Mapping):
        for key, value in content.items():
            yield from _shapes_in(value, f"{name}.{key}" if name else str(key))
    elif isinstance(content, (list, tuple)):
        for number, value in enumerate(content):
            yield from _shapes_in(value, f"{name}[{number}]")


def _in_file(file: Path, start: int, name: str, entry: Mapping[str, Any]) -> StoredTensor:
    first, last = entry["data_offsets"]
    return StoredTensor(
        name=name,
        dtype=entry["dtype"],
        shape=tuple(entry["shape"]),
        size=last - first,
        read=partial(_read_file, file, start + first),
    )


def _read_file(file: Path, offset: int, start: int, stop: int) -> bytes:
    with file.open("rb") as opened:
        opened.seek(offset + start)
        return opened.read(stop - start)


def _loaded(name: str, tensor: torch.Tensor, file: Path) -> StoredTensor:
    code = _CODES.get(str(tensor.dtype))
    if code is None:
        raise VocabularyError(f"{file}: {name} is of type {tensor.dtype}; save it as safetensors")
    return StoredTensor(
        name=name,
        dtype=code,
        shape=tuple(tensor.shape),
        size=tensor.numel() * tensor.element_size(),
        read=partial(_read_memory, tensor),
    )


def _read_memory(tensor: torch.Tensor, start: int, stop: int) -> bytes:
    import torch

    step = tensor.element_size()
    part = tensor.contiguous().view(-1)[start // step : -(-stop // step)]
    data = part.view(torch.uint8).numpy().tobytes()
    return data[start % step : start % step + stop - start]


def _unreadable(file: Path, error: Exception) -> VocabularyError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return VocabularyError(
        f"{file}: cannot be read without running code of it ({reason}); convert it to safetensors, or take it out "
        "of the folder"
    )
