"""An old model's vocabulary with its tables, and the new vocabulary's tables, to be filled from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vocabmerge.errors import VocabularyError
from vocabmerge.tokenizer_file.vocabulary import Vocabulary

if TYPE_CHECKING:
    import torch

Origin = Literal["random", "copied", "computed"]
ORIGINS: tuple[Origin, ...] = ("random", "copied", "computed")
RANDOM, COPIED, COMPUTED = range(3)


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """One old model's vocabulary and the tables that have a row for each of its pieces.

    Args:
        vocabulary: its pieces [V].
        embedding: input rows [at least V, E].
        head: output rows [at least V, E], None where there is no head or it is tied.
        bias: head bias [at least V], None where there is none.
    """

    vocabulary: Vocabulary
    embedding: torch.Tensor = field(repr=False)
    head: torch.Tensor | None = field(default=None, repr=False)
    bias: torch.Tensor | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for name, table in self.tables().items():
            if len(table) < len(self.vocabulary):
                raise VocabularyError(
                    f"{self.vocabulary.name}: its {name} has {len(table)} rows for {len(self.vocabulary)} ids; rows "
                    "beyond the vocabulary are legal, missing ones are not"
                )

    def tables(self) -> dict[str, torch.Tensor]:
        """The tables that there are, each [V, E]; a bias is [V, 1]."""
        named = {"embedding": self.embedding, "head": self.head, "bias": self.bias}
        return {
            name: table.detach() if table.dim() == 2 else table.detach()[:, None]
            for name, table in named.items()
            if table is not None
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class NewTables:
    """What every method is given: the tables to fill, and what to fill them from.

    Args:
        vocabulary: the new one.
        sources: the old models; the first one's space is the result's.
        matches: per source, the old id of each new piece [V_new], -1 where it lacks it.
        tables: the tables to fill, random so far [V_new, E].
        origin: index into ORIGINS, to be filled along [V_new].
        auxiliary: for `focus`, embeddings of the new pieces [V_new, D].
        k: for `omp`, the number of anchors in a combination.
    """

    vocabulary: Vocabulary
    sources: Sequence[Source]
    matches: Sequence[NDArray[np.int64]]
    tables: dict[str, torch.Tensor]
    origin: NDArray[np.int8]
    auxiliary: ArrayLike | None
    k: int

    def without_row(self) -> NDArray[np.int64]:
        """The new pieces that no source has filled yet."""
        return np.flatnonzero(self.origin == RANDOM)

    def fill(
        self, pieces: NDArray[np.int64], rows: Mapping[str, torch.Tensor], origin: int
    ) -> None:
        """Put rows [N, E] of each table into the place of N new pieces, and say where they come from."""
        for name, table in self.tables.items():
            if name in rows:
                table[pieces] = rows[name].to(table.device, table.dtype)
        self.origin[pieces] = origin


Method = Callable[[NewTables], None]
