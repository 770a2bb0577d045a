"""WordLevel: whole words, looked up; what is not there is unknown."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vocabmerge.errors import VocabularyError
from vocabmerge.families.model import TokenizerModel
from vocabmerge.families.pieces import Key, WordClass, is_punctuation, prefixed_key


class WordLevel(TokenizerModel):
    """Every piece is a word, and punctuation marks are words of their own."""

    type = "WordLevel"
    family = "wordlevel"
    isolates_punctuation = True
    loses_whole_words = True

    def key(self, piece: str) -> Key:
        """The canonical key of a word; a punctuation mark stands alone."""
        return prefixed_key(piece, "", is_punctuation)

    def marked(self, text: str, place: WordClass) -> str | None:
        """The word; nothing stands inside one."""
        return None if place == "internal" else text

    def segment(self, pieces: Sequence[str]) -> list[list[int]]:
        """The word itself, or nothing."""
        return [[self.ids[piece]] if piece in self.ids else [] for piece in pieces]

    def rewritten(
        self, new_ids: NDArray[np.int64], pieces: Sequence[str], rename: Mapping[str, str]
    ) -> dict[str, Any]:
        """The model renumbered; text without the unknown word could not be segmented."""
        model = super().rewritten(new_ids, pieces, rename)
        if self.unknown in self.ids and model["unk_token"] not in model["vocab"]:
            raise VocabularyError(
                f"{self.name}: the model needs its unknown piece {model['unk_token']!r}, keep it"
            )
        return model
