"""Which pieces of a teacher are words, and how the student spells these in a language.

It is X-Token's sparse projection between vocabularies (Sreenivas et al. 2026, string rules) for masks of whole words: a piece
that is a word of the teacher is projected onto the sequence of pieces in which the student reads that word.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LONGEST = 8  # pieces of the student in a word; longer ones are no candidates
_TOGETHER = 4096


@dataclass(frozen=True, kw_only=True)
class WordSpellings:
    """A teacher's ids as words of the student.

    Attributes:
        ids: [V, L] the student's pieces, -1 behind the last.
        sizes: [V] how many; 0 for what is no word, or none that the student can spell.
    """

    ids: NDArray[np.int32]
    sizes: NDArray[np.int32]


def spell_words(teacher: Any, student: Any, *, special: Sequence[int]) -> WordSpellings:
    """Spell every word that a teacher has as one piece.

    A piece is a word if the teacher, given its text behind a space, cuts that into this piece alone.

    Args:
        teacher: its `tokenizers.Tokenizer`.
        student: the tokenizer by which the student reads the language.
        special: the teacher's ids that are no text.
    """
    size = 1 + max(teacher.get_vocab(with_added_tokens=True).values(), default=-1)
    ids = np.full((size, _LONGEST), -1, dtype=np.int32)
    sizes = np.zeros(size, dtype=np.int32)
    unknown = _unknown_id(student)
    ordinary = np.setdiff1d(np.arange(size), np.array(special)).tolist()
    for start in range(0, len(ordinary), _TOGETHER):
        numbers = ordinary[start : start + _TOGETHER]
        texts = [" " + teacher.decode([n], skip_special_tokens=False).strip() for n in numbers]
        again = teacher.encode_batch(texts, add_special_tokens=False)
        spelled = student.encode_batch(texts, add_special_tokens=False)
        for number, encoding, spelling in zip(numbers, again, spelled, strict=True):
            pieces = spelling.ids
            is_word = encoding.ids == [number]
            if is_word and 0 < len(pieces) <= _LONGEST and unknown not in pieces:
                ids[number, : len(pieces)] = pieces
                sizes[number] = len(pieces)
    return WordSpellings(ids=ids, sizes=sizes)


def _unknown_id(tokenizer: Any) -> int | None:
    for token in ("[UNK]", "<unk>"):
        if (number := tokenizer.token_to_id(token)) is not None:
            return int(number)
    return None
