"""Recorded vectors: their shards on disk, and looking them up by content."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from teacherzoo.atomic_write import written_whole
from teacherzoo.errors import SignalsError
from teacherzoo.text.corpora import DIGEST_BYTES

MANIFEST = "vectors.json"
PRECISIONS = ("float16", "float32")
_FORMAT = 1
_NAME = np.dtype(f"V{DIGEST_BYTES}")


class Vectors:
    """A folder of recorded vectors.

    Args:
        folder: as `record_vectors` wrote it.

    Raises:
        SignalsError: for a folder without a manifest, of another format, or with a shard missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        file = self.folder / MANIFEST
        try:
            manifest: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SignalsError(
                f"{folder}: expected a folder of recorded vectors, but {MANIFEST} cannot be read; "
                "record them by `teacherzoo vectors`."
            ) from error
        if manifest.get("format") != _FORMAT:
            raise SignalsError(
                f"{file}: expected format {_FORMAT}, got {manifest.get('format')!r}; record the vectors again."
            )
        self.teacher: str = manifest["teacher"]
        self.length: int = manifest["length"]
        self.prompts: tuple[str, ...] = tuple(manifest["prompts"])
        self._counts: list[int] = manifest["shards"]

    @property
    def dimension(self) -> int:
        """D."""
        return int(self._table[1].shape[1])

    def __len__(self) -> int:
        return sum(self._counts)

    def require(self, *, teacher: str, length: int, prompts: Sequence[str]) -> None:
        """Refuse vectors that a teacher with these inputs would not give.

        Args:
            teacher: digest of its files.
            length: the most tokens of a line.
            prompts: that lines will have.

        Raises:
            SignalsError: saying what differs.
        """
        if teacher != self.teacher:
            raise SignalsError(
                f"{self.folder}: these vectors are of another teacher (digest {self.teacher}, got {teacher}); record them again."
            )
        if length != self.length:
            raise SignalsError(
                f"{self.folder}: these vectors are of lines cut at {self.length} tokens, not at {length}; use the same length."
            )
        if missing := [prompt for prompt in prompts if prompt not in self.prompts]:
            raise SignalsError(
                f"{self.folder}: these vectors are of the prompts {list(self.prompts)!r}, not of {missing[0]!r}; record them again."
            )

    def rows(self, digests: NDArray[np.uint8]) -> NDArray[np.floating[Any]]:
        """The vectors [N, D] of digests [N, 16] of prompt and line.

        Raises:
            SignalsError: where one was not recorded.
        """
        names, vectors = self._table
        wanted = np.ascontiguousarray(digests).view(_NAME).ravel()
        places = np.searchsorted(names, wanted).clip(max=len(names) - 1)
        absent = names[places] != wanted
        if absent.any():
            raise SignalsError(
                f"{self.folder}: {int(absent.sum())} of {len(wanted)} lines were not recorded; record the vectors of this very text."
            )
        return vectors[places]

    @cached_property
    def _table(self) -> tuple[NDArray[np.void], NDArray[np.floating[Any]]]:
        """Digests in order, and the vector of each."""
        parts = [self._shard(number, count) for number, count in enumerate(self._counts)]
        names = np.concatenate([part[0] for part in parts])
        vectors = np.concatenate([part[1] for part in parts])
        order = np.argsort(names, kind="stable")
        return names[order], vectors[order]

    def _shard(self, number: int, count: int) -> tuple[NDArray[np.void], NDArray[np.floating[Any]]]:
        file = self.folder / shard_name(number)
        try:
            table = pq.read_table(file)
        except (OSError, pa.ArrowException) as error:
            raise SignalsError(f"{file}: cannot be read; record the vectors again.") from error
        if len(table) != count:
            raise SignalsError(
                f"{file}: expected {count} rows, found {len(table)}; record the vectors again."
            )
        names = np.frombuffer(b"".join(table["digest"].to_pylist()), dtype=_NAME)
        vectors = table["vector"].combine_chunks()
        return names, vectors.flatten().to_numpy(zero_copy_only=False).reshape(count, -1)


def shard_name(number: int) -> str:
    """The file of a shard."""
    return f"vectors-{number:05}.parquet"


def write_shard(file: Path, digests: Sequence[bytes], vectors: NDArray[np.floating[Any]]) -> None:
    """Write a shard whole or not at all.

    Args:
        file: to be written.
        digests: [N] of 16 bytes.
        vectors: [N, D].
    """
    values = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    names = pa.array(digests, pa.binary(DIGEST_BYTES))
    with written_whole(file) as part:
        pq.write_table(pa.table({"digest": names, "vector": values}), part, compression="zstd")
