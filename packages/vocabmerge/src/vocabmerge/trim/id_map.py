"""How a trimmed vocabulary spells the pieces that it lost."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vocabmerge.maps import VocabularyMap, map_of_lists
from vocabmerge.tokenizer_file.vocabulary import Vocabulary


def map_after_trim(
    before: Vocabulary, after: Vocabulary, new_ids: NDArray[np.int64]
) -> VocabularyMap:
    """Old id → new ids: itself where it stayed, else its spelling in kept pieces, else nothing.

    A dropped piece is spelled by the trimmed model itself, marker and all, so that a word-initial piece begins with
    a word-initial one. A spelling that needs the unknown token is none.
    """
    dropped = [
        old
        for old in np.flatnonzero(new_ids < 0).tolist()
        if before.roles[old] not in ("hole", "placeholder")
    ]
    rows: list[Sequence[int]] = [(new,) if new >= 0 else () for new in new_ids.tolist()]
    segmented = after.model.segment([str(before.pieces[old]) for old in dropped])
    for old, ids in zip(dropped, segmented, strict=True):
        rows[old] = ids
    return map_of_lists(
        rows,
        student_size=len(after),
        teacher_digest=before.digest,
        student_digest=after.digest,
        teacher=before.name,
        student=after.name,
    )
