"""What every other room asks of a tokenizer's model; one class per model type answers, in a file of this folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, ClassVar

import numpy as np
import tokenizers
from numpy.typing import ArrayLike, NDArray

from vocabmerge.families.components import open_tokenizer
from vocabmerge.families.pieces import (
    Key,
    Role,
    WordClass,
    byte_value,
    is_placeholder,
    metaspace_key,
    metaspace_marked,
)
from vocabmerge.families.union_words import SegmentedWords
from vocabmerge.progress import ProgressCallback, no_progress

_BEGINNINGS = ("<", "[", "madeupword")
"""What a byte or a placeholder begins with."""


class TokenizerModel:
    """The model of one tokenizer, and all in which model types differ.

    A new model type is one file in this folder: a subclass that states `type` and overrides what is not so here. The
    methods below are those of a model whose pieces are spelled with `▁` and which has neither scores nor merges.

    Args:
        tokenizer: a parsed `tokenizer.json` in the library's form; not written to.
        name: how messages call the tokenizer.
    """

    type: ClassVar[str]
    """`model.type` in the file."""
    family: str
    """What reports call it."""
    has_scores: ClassVar[bool] = False
    """Whether pieces have log-probabilities, which a union needs for all its rows."""
    has_fallback_bytes: bool = True
    """Whether a byte piece is no letter: it stands for a byte of a character that has no piece."""
    isolates_punctuation: ClassVar[bool] = False
    """Whether its words were learnt from text with punctuation apart from them."""
    loses_whole_words: ClassVar[bool] = False
    """Whether a character without a piece makes its whole word unknown."""
    spells_text: ClassVar[bool] = True
    """Whether the string of a piece is its text, but for marks, and not an alphabet of bytes."""
    marks_word_starts: bool = True
    """Whether a piece tells that it begins a word."""

    def __init__(self, tokenizer: Mapping[str, Any], *, name: str) -> None:
        self.tokenizer = tokenizer
        self.json: Mapping[str, Any] = tokenizer["model"]
        self.name = name
        self.prefix: str = self.json.get("continuing_subword_prefix") or ""
        self.suffix: str = self.json.get("end_of_word_suffix") or ""

    @classmethod
    def read(cls, tokenizer: Mapping[str, Any], *, name: str) -> TokenizerModel:
        """The model of a tokenizer whose `model.type` is this class's."""
        return cls(tokenizer, name=name)

    def entries(self) -> Sequence[tuple[str, int]]:
        """The model's own pieces with their ids, without tokens that were added to it."""
        return list(self.json["vocab"].items())

    @cached_property
    def pieces(self) -> list[str | None]:
        """Raw strings by id [V], added tokens among them; None in a hole."""
        added = [(token["content"], token["id"]) for token in self.tokenizer["added_tokens"]]
        numbered = [*self.entries(), *added]
        pieces: list[str | None] = [None] * (
            max((number for _, number in numbered), default=-1) + 1
        )
        for piece, number in numbered:
            pieces[number] = piece
        return pieces

    @cached_property
    def ids(self) -> dict[str, int]:
        """The id of each raw string."""
        return {piece: number for number, piece in enumerate(self.pieces) if piece is not None}

    @property
    def unknown(self) -> str | None:
        """The piece that stands for what has none."""
        return self.json.get("unk_token")

    @property
    def merges(self) -> Sequence[Sequence[str]]:
        """Pairs of pieces that are joined, in order of rank."""
        return ()

    def scores(self) -> NDArray[np.float64]:
        """Log-probabilities [V], NaN where there is none."""
        return np.full(len(self.pieces), np.nan)

    def ranks(self) -> NDArray[np.int32]:
        """The rank of the first merge that makes each piece [V], -1 where none does."""
        return np.full(len(self.pieces), -1, dtype=np.int32)

    def vocabulary_to_digest(self) -> Any:
        """The model's vocabulary as digests take it."""
        return self.json["vocab"]

    def key(self, piece: str) -> Key:
        """The canonical key of a piece."""
        return metaspace_key(piece)

    @cached_property
    def longest_character(self) -> int:
        """How long the string of a single character is at most, with its marks."""
        return 1 + max(1, len(self.prefix)) + len(self.suffix)

    def role(self, piece: str) -> Role:
        """What a piece is that was neither added nor named as special."""
        if len(piece) > self.longest_character and not piece.startswith(_BEGINNINGS):
            return "normal"  # as nearly all are; what follows takes longer to tell
        if self.is_byte(piece):
            return "byte"
        if is_placeholder(piece):
            return "placeholder"
        # A character at the end of a word is one all the same.
        text = self.key(piece)[1].removesuffix(self.suffix.encode())
        if len(text) <= 4:
            try:
                return "character" if len(text.decode("utf-8")) <= 1 else "normal"
            except UnicodeDecodeError:
                return "normal"
        return "normal"

    def is_byte(self, piece: str) -> bool:
        """Whether a piece stands for one byte."""
        return bool(self.json.get("byte_fallback")) and byte_value(piece) is not None

    def piece_of(self, key: Key, normalize: Callable[[str], str] = str) -> str | None:
        """The string that a piece with this key has in this vocabulary, the inverse of `key`.

        Args:
            key: the canonical key; an isolated piece is spelled without a mark.
            normalize: what the tokenizer makes of text before the model sees it.

        Returns:
            The string, None where the key cannot be said: its bytes are no text.
        """
        try:
            return self.marked(normalize(key[1].decode("utf-8")), key[0])
        except UnicodeDecodeError:
            return None

    def marked(self, text: str, place: WordClass) -> str | None:
        """A text with the mark of its place in a word; None where no piece stands there."""
        return metaspace_marked(text, place)

    def segment(self, pieces: Sequence[str]) -> list[list[int]]:
        """How the model segments pieces that it may not have, each in its own place in a word.

        Args:
            pieces: in this vocabulary's spelling, with marks.

        Returns:
            The ids of each; none where a part of it is unknown.
        """
        unknown = None if self.unknown is None else self.ids.get(self.unknown)
        # Without normalizer and pre-tokenizer a piece goes to the model as it is.
        bare = tokenizers.Tokenizer(open_tokenizer(self.tokenizer, name=self.name).model)
        encodings = bare.encode_batch_fast(list(pieces), add_special_tokens=False)
        return [[] if unknown in encoding.ids else encoding.ids for encoding in encodings]

    def spellings(self, pieces: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """The segmentations of many pieces, see `segment`: all ids one after the other [T], and how many each has [N]."""
        rows = self.segment(pieces)
        ids = np.fromiter(chain.from_iterable(rows), dtype=np.int32)
        return ids, np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))

    def merge_ids(self) -> NDArray[np.int64]:
        """The ids (left, right, result) of every merge whose three pieces exist, in order of rank [M, 3]."""
        return np.empty((0, 3), dtype=np.int64)

    def indispensable(self) -> list[int]:
        """Ids without which the rest would be segmented otherwise."""
        return []

    def rewritten(
        self, new_ids: NDArray[np.int64], pieces: Sequence[str], rename: Mapping[str, str]
    ) -> dict[str, Any]:
        """The model's JSON with its pieces renumbered.

        Args:
            new_ids: the new id of each piece [V], negative where it goes.
            pieces: the new strings by id.
            rename: new strings of special tokens.

        Raises:
            VocabularyError: a piece went that the model cannot be without.
        """
        model = self._settings()
        model["vocab"] = {piece: number for number, piece in enumerate(pieces)}
        if self.unknown is not None:
            model["unk_token"] = rename.get(self.unknown, self.unknown)
        return model

    def united(
        self,
        models: Sequence[TokenizerModel],
        pieces: Sequence[str],
        *,
        unknown: str,
        scores: ArrayLike | None,
    ) -> dict[str, Any]:
        """The JSON of the union of models of this style, before calibration.

        Args:
            models: this one first.
            pieces: the union's strings by row [S].
            unknown: the union's unknown token.
            scores: log-probability of each row [S], for models that have such.
        """
        model = self._settings()
        model["vocab"] = {piece: row for row, piece in enumerate(pieces)}
        if model.get("unk_token") is not None:
            model["unk_token"] = unknown
        return model

    def calibrated(self, data: CalibrationData) -> dict[str, Any]:
        """A union of this family, fitted to words as their languages' teachers segment them."""
        return data.union

    @property
    def style(self) -> tuple[str, str, str]:
        """Models of one style spell their pieces alike, so that their union can stay what they are."""
        return self.family, self.prefix, self.suffix

    def _settings(self) -> dict[str, Any]:
        return {key: value for key, value in self.json.items() if key not in ("vocab", "merges")}


@dataclass(frozen=True, kw_only=True)
class CalibrationData:
    """What a union can be fitted to.

    Args:
        union: the union's `tokenizer.json` before calibration.
        roles: what each of its rows is [S].
        teachers: the models that it unites.
        teacher_of: language → position of its teacher.
        words: language → its words as its teacher segments them.
        watch: told the rounds done.
    """

    union: dict[str, Any]
    roles: Sequence[Role]
    teachers: Sequence[TokenizerModel]
    teacher_of: Mapping[str, int]
    words: Mapping[str, SegmentedWords]
    watch: ProgressCallback = no_progress
