"""How a trimmed vocabulary spells the pieces that it lost."""

import numpy as np
from numpy.typing import NDArray

from vocabmerge.maps import VocabularyMap
from vocabmerge.tokenizer_file.vocabulary import Vocabulary


def map_after_trim(
    before: Vocabulary, after: Vocabulary, new_ids: NDArray[np.int64]
) -> VocabularyMap:
    """Old id → new ids: itself where it stayed, else its spelling in kept pieces, else nothing.

    A dropped piece is spelled by the trimmed model itself, marker and all, so that a word-initial piece begins with
    a word-initial one. A spelling that needs the unknown token is none.
    """
    gone = np.flatnonzero(new_ids < 0)
    spelled = [before.roles[old] not in ("hole", "placeholder") for old in gone.tolist()]
    dropped = gone[np.array(spelled, dtype=bool)]
    spellings, counts = after.model.spellings([str(before.pieces[old]) for old in dropped.tolist()])
    lengths = (new_ids >= 0).astype(np.int64)
    lengths[dropped] = counts
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = np.empty(int(offsets[-1]), dtype=np.int32)
    kept = np.flatnonzero(new_ids >= 0)
    ids[offsets[kept]] = new_ids[kept]
    places = np.repeat(offsets[dropped] - (np.cumsum(counts) - counts), counts)
    ids[places + np.arange(len(places))] = spellings
    return VocabularyMap(
        offsets=offsets,
        ids=ids,
        student_size=len(after),
        teacher_digest=before.digest,
        student_digest=after.digest,
        teacher=before.name,
        student=after.name,
    )
