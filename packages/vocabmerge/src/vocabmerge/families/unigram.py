"""Unigram (Kudo 2018): of all segmentations of a text, the one with the greatest sum of log-probabilities."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import ArrayLike, NDArray

from vocabmerge.errors import VocabularyError
from vocabmerge.families.components import open_tokenizer
from vocabmerge.families.model import CalibrationData, TokenizerModel
from vocabmerge.families.unigram_scores import correct_scores
from vocabmerge.families.unigram_segmentation import segment_likeliest


class Unigram(TokenizerModel):
    """Pieces with log-probabilities; `▁` stands for a space."""

    type = "Unigram"
    family = "unigram"
    has_scores = True

    def entries(self) -> Sequence[tuple[str, int]]:
        """The model's pieces by their position; a repeated string has a position each time."""
        return [(entry[0], number) for number, entry in enumerate(self.json["vocab"])]

    @property
    def unknown(self) -> str | None:
        """The piece at the position that the model names."""
        number = self.json["unk_id"]
        return None if number is None else self.pieces[number]

    def scores(self) -> NDArray[np.float64]:
        """Log-probabilities [V]; tokens added beyond the model have none."""
        scores = super().scores()
        scores[: len(self.json["vocab"])] = [entry[1] for entry in self.json["vocab"]]
        return scores

    def vocabulary_to_digest(self) -> list[list[str]]:
        """Scores to nine digits: the library reads and writes them with an error in the last place."""
        return [[piece, f"{score:.9g}"] for piece, score in self.json["vocab"]]

    def segment(self, pieces: Sequence[str]) -> list[list[int]]:
        """The likeliest segmentations; with fallback bytes the library's own."""
        if self.json["byte_fallback"]:
            return super().segment(pieces)
        ids, lengths = self.spellings(pieces)
        return [row.tolist() for row in np.split(ids, np.cumsum(lengths)[:-1])] if pieces else []

    def spellings(self, pieces: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """The same, all in one array."""
        if self.json["byte_fallback"]:
            return super().spellings(pieces)
        return segment_likeliest(pieces, dict(self.entries()), self.scores())

    def indispensable(self) -> list[int]:
        """The lowest-scored piece, from which the library derives the cost of an unknown character."""
        return [int(np.nanargmin(self.scores()))]

    def rewritten(
        self, new_ids: NDArray[np.int64], pieces: Sequence[str], rename: Mapping[str, str]
    ) -> dict[str, Any]:
        """The model renumbered; placeholders get the lowest score."""
        before = self.scores()
        lowest = float(np.nanmin(before))
        scores = np.full(len(pieces), lowest)
        kept = new_ids >= 0
        scores[new_ids[kept]] = np.where(np.isnan(before[kept]), lowest, before[kept])
        model = self._settings()
        model["vocab"] = _entries(pieces, scores)
        unknown = self.json["unk_id"]
        if unknown is not None:
            if new_ids[unknown] < 0:
                raise VocabularyError(
                    f"{self.name}: the model needs its unknown piece {self.pieces[unknown]!r}, keep it"
                )
            model["unk_id"] = int(new_ids[unknown])
        return model

    def united(
        self,
        models: Sequence[TokenizerModel],
        pieces: Sequence[str],
        *,
        unknown: str,
        scores: ArrayLike | None,
    ) -> dict[str, Any]:
        """All pieces with their scores; bytes stand in for characters if they do in one of the models."""
        union = self._settings() | unigram_vocabulary(pieces, scores, unknown)
        union["byte_fallback"] = any(model.json.get("byte_fallback") for model in models)
        return union

    def calibrated(self, data: CalibrationData) -> dict[str, Any]:
        """The union with scores under which fewer words come out wrong; see `correct_scores`."""
        if not data.words:
            return data.union
        model = data.union["model"]
        scores = correct_scores(
            np.array([score for _, score in model["vocab"]]),
            open_with_scores(data.union),
            data.words,
            watch=data.watch,
        )
        vocab = _entries([piece for piece, _ in model["vocab"]], scores)
        return {**data.union, "model": {**model, "vocab": vocab}}


def mixed_union_model(pieces: Sequence[str], scores: ArrayLike, unknown: str) -> dict[str, Any]:
    """The JSON of a Unigram over the pieces of several families, spelled with `▁`.

    Args:
        pieces: the union's strings by row [S].
        scores: log-probability of each row [S].
        unknown: the union's unknown token.
    """
    return {
        "type": Unigram.type,
        **unigram_vocabulary(pieces, scores, unknown),
        "byte_fallback": have_all_bytes(pieces),
    }


def have_all_bytes(pieces: Sequence[str]) -> bool:
    """Whether characters without a piece can be spelled in the pieces of their bytes."""
    return {f"<0x{byte:02X}>" for byte in range(256)} <= set(pieces)


def unigram_vocabulary(
    pieces: Sequence[str], scores: ArrayLike | None, unknown: str
) -> dict[str, Any]:
    """The parts of a Unigram model that hold pieces."""
    return {"unk_id": pieces.index(unknown), "vocab": _entries(pieces, np.asarray(scores))}


def open_with_scores(
    union: Mapping[str, Any],
) -> Callable[[NDArray[np.float64]], tokenizers.Tokenizer]:
    """Opens a Unigram tokenizer with given scores [S], without added tokens; all but the model is opened once."""
    model = union["model"]
    pieces = [piece for piece, _ in model["vocab"]]
    empty = {**model, "vocab": [["?", 0.0]], "unk_id": 0}
    opened = open_tokenizer(
        {**union, "added_tokens": [], "post_processor": None, "model": empty}, name="union"
    )

    def with_scores(scores: NDArray[np.float64]) -> tokenizers.Tokenizer:
        opened.model = tokenizers.models.Unigram(
            list(zip(pieces, scores.tolist(), strict=True)),
            model["unk_id"],
            bool(model["byte_fallback"]),
        )
        return opened

    return with_scores


def _entries(pieces: Sequence[str], scores: NDArray[np.float64]) -> list[list[Any]]:
    return [[piece, score] for piece, score in zip(pieces, scores.tolist(), strict=True)]
