"""Which of a model's pieces another model, with a trimmed vocabulary, still has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bistil.errors import SparseError
from bistil.sparse.apply import reindex
from bistil.sparse.difference import SparseFineTuning
from teacherzoo.encoders.kinds import transformer_folder
from teacherzoo.encoders.teachers import teacher_folder
from vocabmerge import read_vocabulary


def kept_ids(trimmed: str | Path, whole: str | Path) -> NDArray[np.int64]:
    """The whole vocabulary's id of each id of the trimmed one: a trim changes no piece, so pieces are met by their spelling.

    Args:
        trimmed: a model folder, a tokenizer, or a Hub name.
        whole: what it was trimmed from.

    Raises:
        SparseError: naming a piece that the whole vocabulary lacks.
    """
    before, after = (
        read_vocabulary(
            transformer_folder(Path(model) if Path(model).exists() else teacher_folder(model))
        )
        for model in (whole, trimmed)
    )
    ids = before.ids
    strange = [str(piece) for piece in after.pieces if str(piece) not in ids]
    if strange or before.family != after.family:
        raise SparseError(
            f"{trimmed}: its vocabulary is not that of {whole} with pieces left out "
            f"({f'{strange[0]!r} is not there' if strange else f'{after.family} is not {before.family}'}); "
            "give the model that it was extracted from."
        )
    return np.array([ids[str(piece)] for piece in after.pieces], dtype=np.int64)


def carry_over(tuning: SparseFineTuning, model: Any, kept: NDArray[np.int64]) -> SparseFineTuning:
    """`reindex` for a model with a trimmed vocabulary, whose rows may be padded."""
    from bistil.encoders.body import embedding_name

    rows = int(model.get_input_embeddings().weight.shape[0])
    return reindex(tuning, kept, embedding=embedding_name(model), rows=rows)
