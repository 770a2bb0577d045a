"""Rows of token ids of different lengths: in memory, and as files that are mapped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from teacherzoo.text.corpora import DIGEST_BYTES, document_digest

_IDS, _TYPES, _ENDS, _DIGESTS = "ids.int32", "types.int8", "ends.int64", "digests"


@dataclass(frozen=True)
class Rows:
    """Rows of different lengths, behind one another.

    Attributes:
        ids: of all tokens.
        ends: [N] where each row ends.
        digests: [N, 16] of prompt and text, see `row_digest`.
        types: of all tokens, their segments; None where a row is of one segment.
    """

    ids: NDArray[np.int32]
    ends: NDArray[np.int64]
    digests: NDArray[np.uint8]
    types: NDArray[np.int8] | None = None

    def __len__(self) -> int:
        return len(self.ends)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """[N] tokens of each row."""
        return np.diff(self.ends, prepend=0)

    def padded(self, numbers: Sequence[int] | NDArray[np.int64], pad: int) -> dict[str, torch.Tensor]:  # fmt: skip
        """These rows: `input_ids` and `attention_mask` [B, S], and `token_type_ids` where rows have segments."""
        lengths = self.lengths[numbers]
        mask = np.arange(lengths.max()) < lengths[:, None]
        places = [np.arange(self.ends[number] - self.lengths[number], self.ends[number]) for number in numbers]  # fmt: skip
        flat = np.concatenate(places)
        batch = {"input_ids": np.full(mask.shape, pad, dtype=np.int64), "attention_mask": mask.astype(np.int64)}  # fmt: skip
        batch["input_ids"][mask] = self.ids[flat]
        if self.types is not None:
            batch["token_type_ids"] = np.zeros(mask.shape, dtype=np.int64)
            batch["token_type_ids"][mask] = self.types[flat]
        return {name: torch.from_numpy(array) for name, array in batch.items()}


def row_digest(text: str, second: str | None = None) -> bytes:
    """The name of a row by content: of prompt and text, and of a second segment behind a tabulator."""
    return document_digest(text if second is None else f"{text}\t{second}")


class RowWriter:
    """Writes rows into a folder as they are encoded, to be read by `read_rows` once it is closed."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._folder, self._end = folder, 0
        self._streams = {name: (folder / name).open("wb") for name in (_IDS, _ENDS, _DIGESTS)}

    def add(self, encoded: Any, first: Sequence[str], second: Sequence[str] | None) -> None:
        """These rows, in this order: what the tokenizer made of them, and their texts, for the digests."""
        rows = [np.array(ids, dtype=np.int32) for ids in encoded["input_ids"]]
        ends = self._end + np.cumsum([len(row) for row in rows], dtype=np.int64)
        self._end = int(ends[-1])
        self._streams[_IDS].write(np.concatenate(rows).tobytes())
        self._streams[_ENDS].write(ends.tobytes())
        texts = zip(first) if second is None else zip(first, second, strict=True)
        self._streams[_DIGESTS].write(b"".join(row_digest(*text) for text in texts))
        if "token_type_ids" in encoded:
            types = np.concatenate([np.array(kinds, dtype=np.int8) for kinds in encoded["token_type_ids"]])  # fmt: skip
            if _TYPES not in self._streams:
                self._streams[_TYPES] = (self._folder / _TYPES).open("wb")
            self._streams[_TYPES].write(types.tobytes())

    def close(self) -> None:
        """End the files."""
        for stream in self._streams.values():
            stream.close()


def read_rows(folder: Path) -> Rows:
    """What a `RowWriter` wrote there, mapped."""
    ends = np.fromfile(folder / _ENDS, dtype=np.int64)
    digests = _mapped(folder / _DIGESTS, np.uint8).reshape(-1, DIGEST_BYTES)
    types = _mapped(folder / _TYPES, np.int8) if (folder / _TYPES).exists() else None
    return Rows(_mapped(folder / _IDS, np.int32), ends, digests, types)


def _mapped(file: Path, dtype: Any) -> NDArray[Any]:
    if not file.stat().st_size:  # no file of nothing can be mapped
        return np.empty(0, dtype=dtype)
    return np.memmap(file, dtype=dtype, mode="r")
