"""Batches of rows, padded, each of one group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from bistil.text.batches import Schedule
from bistil.text.row_files import Rows

if TYPE_CHECKING:
    from teacherzoo import Vectors


@dataclass(frozen=True, kw_only=True)
class RowGroup:
    """Rows that may share a batch: of one language and one prompt.

    Attributes:
        language: of the rows.
        rows: of text, or of translations.
        prompt_length: leading tokens that the prompt takes.
        sources: of translations, what they translate, row by row.
    """

    language: str
    rows: Rows
    prompt_length: int = 0
    sources: Rows | None = None

    @property
    def lengths(self) -> NDArray[np.int64]:
        """[N] tokens of each row; of pairs, of the longer side."""
        if self.sources is None:
            return self.rows.lengths
        return np.maximum(self.rows.lengths, self.sources.lengths)


class RowBatches(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Item i is batch i of the schedule, padded to its longest row.

    An item has `input_ids`, `attention_mask` [B, S], `language` and `prompt_length` []; `token_type_ids` [B, S] where rows
    have segments; of translation pairs also `source_input_ids` and `source_attention_mask` [B, S']; where the teacher's vectors
    were recorded `teacher_vectors` [B, D], of pairs those of the sources.

    Args:
        slots: group and rows of each.
        groups: by name.
        languages: whose numbers `language` is.
        pad: id that fills rows up.
        vectors: recorded of the teacher.
    """

    def __init__(
        self,
        slots: Schedule,
        groups: Mapping[str, RowGroup],
        languages: Sequence[str],
        *,
        pad: int,
        vectors: Vectors | None = None,
    ) -> None:
        self._slots, self._groups, self._pad, self._vectors = slots, groups, pad, vectors
        self._languages = list(languages)

    def __len__(self) -> int:
        return len(self._slots)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        name, numbers = self._slots[index]
        group = self._groups[name]
        batch = group.rows.padded(numbers, self._pad)
        if group.sources is not None:
            sources = group.sources.padded(numbers, self._pad)
            batch |= {f"source_{name}": tensor for name, tensor in sources.items()}
        batch["language"] = torch.tensor(self._languages.index(group.language))
        batch["prompt_length"] = torch.tensor(group.prompt_length)
        if self._vectors is not None:
            vectors = self._vectors.rows(self.digests(index)).astype(np.float32)
            batch["teacher_vectors"] = torch.from_numpy(vectors)
        return batch

    def digests(self, index: int) -> NDArray[np.uint8]:
        """[B, 16] of the rows of item `index`; of translation pairs, of the sources."""
        name, numbers = self._slots[index]
        group = self._groups[name]
        return (group.sources or group.rows).digests[numbers]
