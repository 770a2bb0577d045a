"""How a trimmed vocabulary spells the pieces that it lost."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from vocabmerge.families.spelling import has_marks, spell_by_merges, spell_greedily, spell_likeliest
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
    spelled = _spell_all([str(before.pieces[old]) for old in dropped], after)
    for old, spelling in zip(dropped, spelled, strict=True):
        rows[old] = spelling
    return map_of_lists(
        rows,
        student_size=len(after),
        teacher_digest=before.digest,
        student_digest=after.digest,
        teacher=before.name,
        student=after.name,
    )


def _spell_all(pieces: list[str], after: Vocabulary) -> list[list[int]]:
    model = after.tokenizer["model"]
    if after.family == "wordpiece":
        prefix = model.get("continuing_subword_prefix", "##")
        return [spell_greedily(piece, after.ids, prefix) for piece in pieces]
    if after.family == "unigram" and not model.get("byte_fallback"):
        return spell_likeliest(pieces, after.ids, after.scores.tolist())
    if has_marks(model):
        return spell_by_merges(pieces, model)
    unknown = after.special_id("unk")
    bare = Tokenizer(after.segmenter().model)  # no splitting: a piece goes to the model as it is
    found = [encoding.ids for encoding in bare.encode_batch_fast(pieces, add_special_tokens=False)]
    return [[] if unknown in ids else ids for ids in found]
