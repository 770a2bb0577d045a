"""An old model's vocabulary with its tables, and the job of filling a new vocabulary's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

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
        found = {"embedding": self.embedding, "head": self.head, "bias": self.bias}
        return {
            name: table.detach() if table.dim() == 2 else table.detach()[:, None]
            for name, table in found.items()
            if table is not None
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """What every method is given.

    Args:
        new: the new vocabulary.
        sources: the old models; the first one's space is the result's.
        match: per source, the old id of each new piece [V_new], -1 where it lacks it.
        tables: the tables to fill, random so far [V_new, E].
        origin: index into ORIGINS, to be filled along [V_new].
        options: of the method.
    """

    new: Vocabulary
    sources: Sequence[Source]
    match: Sequence[NDArray[np.int64]]
    tables: dict[str, torch.Tensor]
    origin: NDArray[np.int8]
    options: Mapping[str, Any]


Fill = Callable[[Task], None]
