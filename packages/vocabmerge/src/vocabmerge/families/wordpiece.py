"""WordPiece (Schuster, Nakajima 2012; Wu et al. 2016): the longest piece that fits, from left to right."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vocabmerge.errors import VocabularyError
from vocabmerge.families.components import open_tokenizer
from vocabmerge.families.model import CalibrationData, TokenizerModel
from vocabmerge.families.pieces import (
    Key,
    WordClass,
    isolated_characters,
    placeholder,
    prefixed_key,
)
from vocabmerge.families.wordpiece_hiding import pieces_to_hide


class WordPiece(TokenizerModel):
    """Pieces inside words have a prefix, `##`; punctuation stands as words of its own."""

    type = "WordPiece"
    family = "wordpiece"
    isolates_punctuation = True
    loses_whole_words = True

    @cached_property
    def _stands_alone(self) -> Callable[[str], bool]:
        return isolated_characters(self.tokenizer)

    def key(self, piece: str) -> Key:
        """The canonical key of a piece; what text is cut around stands alone."""
        return prefixed_key(piece, self.prefix, self._stands_alone)

    def marked(self, text: str, place: WordClass) -> str:
        """A text with the prefix inside words; what stands alone has none."""
        return self.prefix + text if place == "internal" and text else text

    def segment(self, pieces: Sequence[str]) -> list[list[int]]:
        """The longest matches; the library cannot be asked for the inside of a word."""
        ids = dict(self.entries())
        return [segment_greedily(piece, ids, self.prefix) for piece in pieces]

    def rewritten(
        self, new_ids: NDArray[np.int64], pieces: Sequence[str], rename: Mapping[str, str]
    ) -> dict[str, Any]:
        """The model renumbered, which needs its unknown piece."""
        model = super().rewritten(new_ids, pieces, rename)
        if model["unk_token"] not in model["vocab"]:
            raise VocabularyError(
                f"{self.name}: the model needs its unknown piece {model['unk_token']!r}, keep it"
            )
        return model

    def united(
        self,
        models: Sequence[TokenizerModel],
        pieces: Sequence[str],
        *,
        unknown: str,
        scores: ArrayLike | None,
    ) -> dict[str, Any]:
        """All pieces; the longest word that any of the models still segments."""
        union = super().united(models, pieces, unknown=unknown, scores=scores)
        union["max_input_chars_per_word"] = max(
            model.json["max_input_chars_per_word"] for model in models
        )
        return union

    def calibrated(self, data: CalibrationData) -> dict[str, Any]:
        """The union without the pieces that take more words away from their teachers than they serve."""
        if len(data.teachers) == 1 or not data.words:
            return data.union
        texts = list(data.union["model"]["vocab"])

        def without(hidden: NDArray[np.bool_]) -> dict[str, Any]:
            vocab = {
                placeholder(row) if unseen else text: row
                for row, (text, unseen) in enumerate(zip(texts, hidden.tolist(), strict=True))
            }
            return {**data.union, "model": {**data.union["model"], "vocab": vocab}}

        # Specials and characters stay in sight: without them text would be unknown.
        hidden = pieces_to_hide(
            np.array([role == "normal" for role in data.roles]),
            lambda rows: open_tokenizer(without(rows), name="union"),
            data.words,
            watch=data.watch,
        )
        return without(hidden)


def segment_greedily(piece: str, ids: Mapping[str, int], prefix: str) -> list[int]:
    """WordPiece's longest match first, for a word's beginning or, where the piece has the prefix, its inside.

    Example:
        >>> segment_greedily("##abc", {"##a": 0, "##ab": 1, "##c": 2, "abc": 3}, "##")
        [1, 2]
    """
    inside = piece.startswith(prefix) and piece != prefix
    text = piece.removeprefix(prefix) if inside else piece
    matches: list[int] = []
    start = 0
    while start < len(text):
        for end in range(len(text), start, -1):
            number = ids.get(prefix + text[start:end] if inside or start else text[:end])
            if number is not None:
                break
        else:
            return []
        matches.append(number)
        start = end
    return matches
