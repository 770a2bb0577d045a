"""The file of a sparse fine-tuning: safetensors with gap-coded indices, values, and a dense head."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bistil.encoders.body import tensor_bytes
from bistil.errors import SparseError
from bistil.sparse.composable_sft import read_composable
from bistil.sparse.difference import SparseFineTuning, SparseTensor
from bistil.sparse.gap_coding import decode_gaps, encode_gaps
from teacherzoo.atomic_write import written_whole

FORMAT = "sparse-fine-tuning/1"
FORMAT_WITH_DENSE = (
    "sparse-fine-tuning/2"  # some tensors change in every entry, and have values without gaps
)
_HEADER = "sparse_fine_tuning"


def write_sparse(
    tuning: SparseFineTuning, path: Path, *, values: torch.dtype = torch.bfloat16
) -> None:
    """Write a sparse fine-tuning, under a temporary name first.

    A tensor that changes in every entry is written without places; such a file is of a second format, which bistil reads
    from the version on that writes it.

    Args:
        tuning: what to write.
        path: the file.
        values: number format of the differences; a head is written as it is.

    Example:
        >>> import tempfile
        >>> delta = SparseTensor(shape=(2, 3), indices=np.array([1, 5]), values=torch.tensor([0.5, -0.25]))
        >>> file = Path(tempfile.mkdtemp()) / "sw.safetensors"
        >>> write_sparse(SparseFineTuning(body={"layer.weight": delta}), file)
        >>> read_sparse(file).body["layer.weight"].dense()[1].tolist()
        [0.0, 0.0, -0.25]
    """
    from safetensors.torch import save_file

    tensors, format_ = {}, FORMAT
    for name, delta in sorted(tuning.body.items()):
        if delta.indices is None or len(delta.values) == delta.size:
            format_ = FORMAT_WITH_DENSE
        else:
            tensors[f"gaps/{name}"] = torch.from_numpy(encode_gaps(delta.indices))
        tensors[f"values/{name}"] = delta.values.to(values).contiguous()
    for name, tensor in sorted(tuning.head.items()):
        tensors[f"head/{name}"] = tensor.detach().cpu().contiguous()
    header = {
        "format": format_,
        "base": dict(tuning.base),
        "base_digest": tuning.base_digest,
        "shapes": {name: list(delta.shape) for name, delta in tuning.body.items()},
        "count": tuning.count,
        "about": dict(tuning.about),
        "checksum": _checksum(tensors),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as part:
        # One entry: safetensors writes several in an order that changes from run to run.
        save_file(tensors, part, metadata={_HEADER: json.dumps(header, sort_keys=True)})


def read_sparse(path: Path) -> SparseFineTuning:
    """Read a sparse fine-tuning: our file, or the folder or `pytorch_diff.bin` that composable-sft wrote.

    Args:
        path: of the file or folder.

    Returns:
        Per tensor of the body the places [K] that change, ascending, and what is added there [K].

    Raises:
        SparseError: naming the file, for one that is missing, damaged, or something else.

    Example:
        See `write_sparse`.
    """
    if path.is_dir() or (path.suffix == ".bin" and not _begins_as_safetensors(path)):
        return read_composable(path)
    header, tensors = _open(path)
    if header.get("checksum") != _checksum(tensors):
        raise SparseError(f"{path}: the checksum does not fit the content; fetch or make the file again.")  # fmt: skip
    body = {}
    for name, shape in header["shapes"].items():
        size = count = int(np.prod(shape))
        values, indices = tensors[f"values/{name}"], None
        if f"gaps/{name}" in tensors:
            coded = tensors[f"gaps/{name}"].numpy()
            indices = decode_gaps(coded, size=size, where=f"{path}, {name}")
            count = len(indices)
        if count != len(values):
            raise SparseError(f"{path}, {name}: {count} places but {len(values)} values; make the file again.")  # fmt: skip
        body[name] = SparseTensor(shape=tuple(shape), indices=indices, values=values)
    head = {name.removeprefix("head/"): tensor for name, tensor in tensors.items() if name.startswith("head/")}  # fmt: skip
    return SparseFineTuning(
        body=body, base=header["base"], head=head, about=header["about"], name=str(path)
    )


def _begins_as_safetensors(path: Path) -> bool:
    """Whether a JSON header follows the eight bytes of its length, whatever the file is called."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        return file.read(9)[8:] == b"{"
    return False


def _open(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get(_HEADER, "{}"))
            if header.get("format") not in (FORMAT, FORMAT_WITH_DENSE):
                raise SparseError(
                    f"{path}: expected a file of format {FORMAT!r} or {FORMAT_WITH_DENSE!r}, got {header.get('format')!r}; "
                    "give a file that `bistil sft` wrote, or a composable-sft folder."
                )
            return header, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
    except (OSError, SafetensorError, ValueError) as error:
        if isinstance(error, SparseError):
            raise
        raise SparseError(f"{path}: cannot be read ({str(error).splitlines()[0]}); fetch or make the file again.") from error  # fmt: skip


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode() + b"\0" + str(tensor.dtype).encode() + b"\0")
        digest.update(tensor_bytes(tensor))
    return digest.hexdigest()
