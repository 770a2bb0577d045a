"""Reads a tokenizer into its pieces, in id order, with what each one means."""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, overload

import numpy as np
import tokenizers
from numpy.typing import NDArray

from vocabmerge.errors import VocabularyError
from vocabmerge.families.components import open_tokenizer
from vocabmerge.families.model import TokenizerModel
from vocabmerge.families.pieces import Key, Role, encoded
from vocabmerge.families.registry import model_of
from vocabmerge.garbage_collection import collection_paused
from vocabmerge.tokenizer_file.library_form import library_form

SPECIAL_ROLES = ("unk", "cls", "sep", "mask", "pad", "bos", "eos")
_KNOWN_SPECIALS = {
    "unk": ("[UNK]", "<unk>", "<UNK>"),
    "cls": ("[CLS]", "<s>", "<cls>"),
    "sep": ("[SEP]", "</s>", "<sep>"),
    "mask": ("[MASK]", "<mask>"),
    "pad": ("[PAD]", "<pad>"),
    "bos": ("<s>", "<bos>", "<|begin_of_text|>", "<|endoftext|>"),
    "eos": ("</s>", "<eos>", "<|end_of_text|>", "<|endoftext|>"),
}
_DECISIVE = ("model", "normalizer", "pre_tokenizer", "added_tokens", "post_processor")


class Piece(NamedTuple):
    """One piece of a vocabulary."""

    id: int
    text: str
    key: Key
    role: Role
    score: float  # log-probability of a Unigram piece, NaN in other families
    rank: int  # rank of the first merge that makes a BPE piece, -1 where none does


@dataclass(frozen=True, kw_only=True, eq=False)
class Vocabulary:
    """The pieces of one tokenizer in id order; `V` is the largest id plus one, and holes in the ids are legal.

    Args:
        name: how messages and reports call it.
        tokenizer: the `tokenizer.json` in the library's form, see `library_form`; not to be written to.
        config: the parsed `tokenizer_config.json`, empty where there is none.
        model: the tokenizer's model, which knows how pieces are spelled, made and rewritten.
        pieces: raw strings [V], None in a hole.
        keys: canonical keys [V], None in a hole.
        roles: what each piece is [V].
        scores: float64 [V], Unigram log-probabilities, NaN elsewhere.
        ranks: int32 [V], first merge that makes the piece, -1 elsewhere.
        specials: the token of each special role that the tokenizer has.
    """

    name: str
    tokenizer: Mapping[str, Any] = field(repr=False)
    config: Mapping[str, Any] = field(repr=False)
    model: TokenizerModel = field(repr=False)
    pieces: Sequence[str | None] = field(repr=False)
    keys: Sequence[Key | None] = field(repr=False)
    roles: Sequence[Role] = field(repr=False)
    scores: NDArray[np.float64] = field(repr=False)
    ranks: NDArray[np.int32] = field(repr=False)
    specials: Mapping[str, str]

    def __len__(self) -> int:
        return len(self.pieces)

    def __getitem__(self, piece_id: int) -> Piece:
        text, key = self.pieces[piece_id], self.keys[piece_id]
        if text is None or key is None:
            raise VocabularyError(f"{self.name}: id {piece_id} is a hole, no piece has it")
        return Piece(
            piece_id,
            text,
            key,
            self.roles[piece_id],
            float(self.scores[piece_id]),
            int(self.ranks[piece_id]),
        )

    @property
    def family(self) -> str:
        """The kind of model and of word marker, such as `wordpiece`, `unigram` or `bpe-byte`."""
        return self.model.family

    @property
    def ids(self) -> Mapping[str, int]:
        """The id of each raw string."""
        return self.model.ids

    @cached_property
    def digest(self) -> str:
        """`tokenizer_digest` of this tokenizer."""
        with collection_paused():
            return _digest(self.model)

    def having(self, *roles: Role) -> NDArray[np.int64]:
        """The ids of all pieces that have one of the roles, ascending."""
        return np.array([i for i, role in enumerate(self.roles) if role in roles], dtype=np.int64)

    def special_id(self, role: str) -> int | None:
        """The id of the special token with this role (`unk`, `cls`, `sep`, `mask`, `pad`, `bos`, `eos`)."""
        token = self.specials.get(role)
        return None if token is None else self.ids.get(token)

    def segmenter(self) -> tokenizers.Tokenizer:
        """A fresh `tokenizers.Tokenizer`, without padding or truncation."""
        return open_tokenizer(self.tokenizer, name=self.name)


class _Keys(Sequence[Key | None]):
    """The key of every piece, read off it when it is asked for: most users ask for few.

    Args:
        model: whose pieces.
        isolated: texts of special and added tokens, whose keys say so.
    """

    def __init__(self, model: TokenizerModel, isolated: Collection[str]) -> None:
        self._model = model
        self._isolated = isolated

    def __len__(self) -> int:
        return len(self._model.pieces)

    @overload
    def __getitem__(self, number: int) -> Key | None: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[Key | None]: ...
    def __getitem__(self, number: int | slice) -> Key | Sequence[Key | None] | None:
        if isinstance(number, slice):
            return self._all[number]
        return self._key(self._model.pieces[number])

    def __iter__(self) -> Iterator[Key | None]:
        return iter(self._all)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self._all == list(other)

    __hash__ = None  # type: ignore[assignment]  # as a list's

    @cached_property
    def _all(self) -> list[Key | None]:
        return [self._key(piece) for piece in self._model.pieces]

    def _key(self, piece: str | None) -> Key | None:
        if piece is None:
            return None
        return ("isolated", encoded(piece)) if piece in self._isolated else self._model.key(piece)


def parse_vocabulary(
    tokenizer: Mapping[str, Any] | str, *, name: str, config: Mapping[str, Any] | None = None
) -> Vocabulary:
    """Read the pieces off a `tokenizer.json`.

    Args:
        tokenizer: the parsed file, or its text.
        name: how messages and reports call it.
        config: the parsed `tokenizer_config.json`, which names the special tokens' roles.

    Returns:
        The vocabulary.

    Raises:
        VocabularyError: the JSON is no tokenizer, or of a family that is not read here.

    Example:
        >>> tokenizer = {"added_tokens": [], "model": {"type": "WordPiece", "vocab": {"a": 0, "##b": 1},
        ...     "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100}}
        >>> parse_vocabulary(tokenizer, name="tiny")[1].key
        ('internal', b'b')
    """
    return vocabulary_of(library_form(tokenizer, name=name), name=name, config=config)


def vocabulary_of(
    tokenizer: Mapping[str, Any], *, name: str, config: Mapping[str, Any] | None = None
) -> Vocabulary:
    """Read the pieces off a tokenizer in the library's form; see `parse_vocabulary`."""
    model = model_of(tokenizer, name=name)
    added = {token["content"]: token for token in tokenizer.get("added_tokens") or ()}
    specials = _special_tokens(model, config or {})
    isolated: dict[str, Role] = {
        text: "special" if token.get("special") else "added" for text, token in added.items()
    }
    isolated.update(dict.fromkeys(specials.values(), "special"))
    roles: list[Role] = [
        "hole" if piece is None else isolated.get(piece) or model.role(piece)
        for piece in model.pieces
    ]
    return Vocabulary(
        name=name,
        tokenizer=tokenizer,
        config=config or {},
        model=model,
        pieces=model.pieces,
        keys=_Keys(model, isolated),
        roles=roles,
        scores=model.scores(),
        ranks=model.ranks(),
        specials=specials,
    )


def tokenizer_digest(tokenizer: Mapping[str, Any]) -> str:
    """SHA-256, in hexadecimal, of everything in a parsed `tokenizer.json` that decides segmentation and ids.

    Key order, decoder, padding and truncation do not count, nor what the library itself takes for the same: a missing
    `model.type`, defaults that are spelled out or left out, older spellings.

    Args:
        tokenizer: the parsed file.

    Raises:
        VocabularyError: the library cannot open it.

    Example:
        >>> one = {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, "decoder": None}
        >>> two = {"decoder": {"type": "Fuse"}, "model": {"vocab": {"a": 0}, "merges": [], "dropout": None}}
        >>> tokenizer_digest(one) == tokenizer_digest(two)
        True
    """
    name = "the tokenizer"
    return _digest(model_of(library_form(tokenizer, name=name), name=name))


def _digest(model: TokenizerModel) -> str:
    parts: dict[str, Any] = {part: model.tokenizer.get(part) for part in _DECISIVE}
    parts["model"] = {key: value for key, value in parts["model"].items() if key != "vocab"}
    decisive = {part: _without_defaults(content) for part, content in parts.items()}
    decisive["model"]["vocab"] = model.vocabulary_to_digest()
    text = json.dumps(decisive, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _special_tokens(model: TokenizerModel, config: Mapping[str, Any]) -> dict[str, str]:
    present = model.ids
    special = {token["content"] for token in model.tokenizer["added_tokens"] if token["special"]}
    specials: dict[str, str] = {}
    if model.unknown in present:
        specials["unk"] = str(model.unknown)
    for role in SPECIAL_ROLES:
        named = config.get(f"{role}_token")
        named = named.get("content") if isinstance(named, Mapping) else named
        if named in present:
            specials.setdefault(role, str(named))
            continue
        known = [token for token in _KNOWN_SPECIALS[role] if token in special]
        if known:
            specials.setdefault(role, known[0])
    return specials


def _without_defaults(value: Any) -> Any:
    """Without null and false, which in the library's form never mean anything else than being left out.

    So a field that a later version of the library adds, off by default, leaves digests alone.
    """
    if isinstance(value, Mapping):
        return {
            key: _without_defaults(inner)
            for key, inner in value.items()
            if inner is not None and inner is not False
        }
    return [_without_defaults(inner) for inner in value] if isinstance(value, list) else value
