"""Renumbers a tokenizer's pieces and re-syncs every other place that knows an id."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vocabmerge.errors import VocabularyError
from vocabmerge.families.canonical import parts
from vocabmerge.tokenizer_file.vocabulary import Vocabulary, merge_pairs


def rewrite_tokenizer(
    vocabulary: Vocabulary,
    new_ids: ArrayLike,
    *,
    size: int | None = None,
    rename: Mapping[str, str] | None = None,
    extra: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Give pieces new ids, drop those without one, and re-sync all that refers to them.

    The model itself keeps its family, normalizer and pre-tokenizer; its merges lose those that need a dropped piece.
    Every special and added token ends in the model's own vocabulary. Ids below `size` that nothing maps to are filled
    with placeholders that no text can match, so that length, largest id and embedding rows agree.

    Args:
        vocabulary: what to rewrite.
        new_ids: int [V], the new id of each piece, negative to drop it. Distinct where not negative.
        size: number of ids of the result; by default the largest new id plus one.
        rename: new strings of special tokens.
        extra: special tokens to add, with their ids; strings after `rename`.

    Returns:
        The parsed `tokenizer.json` of the result. The input is left alone.

    Raises:
        VocabularyError: ids clash or lie outside `size`, or a special token that the post-processor, padding or the
            model needs was dropped.

    Example:
        >>> from vocabmerge import parse_vocabulary
        >>> tiny = parse_vocabulary({"added_tokens": [], "model": {"type": "WordPiece", "unk_token": "a",
        ...     "continuing_subword_prefix": "##", "max_input_chars_per_word": 9, "vocab": {"a": 0, "b": 1, "c": 2}}},
        ...     name="tiny")
        >>> rewrite_tokenizer(tiny, [1, -1, 0])["model"]["vocab"]
        {'c': 0, 'a': 1}
    """
    renamed = dict(rename or {})
    pieces = _renumbered(vocabulary, new_ids, size, renamed, extra or {})
    made: dict[str, Any] = {
        key: copy.deepcopy(value)
        for key, value in vocabulary.tokenizer.items()
        if key not in ("model", "added_tokens")
    }
    model = {
        key: value
        for key, value in vocabulary.tokenizer["model"].items()
        if key not in ("vocab", "merges")
    }
    old = np.asarray(new_ids, dtype=np.int64)
    made["model"] = model
    if vocabulary.family == "unigram":
        model["vocab"] = _scored(vocabulary, old, pieces)
    else:
        model["vocab"] = {piece: number for number, piece in enumerate(pieces)}
    if "merges" in vocabulary.tokenizer["model"]:
        model["merges"] = _surviving_merges(vocabulary, old)
    made["added_tokens"] = _added_tokens(vocabulary, old, renamed, extra or {})
    _resync_unknown(vocabulary, made, old, renamed)
    resync(made, rename=renamed, name=vocabulary.name)
    return made


def resync(tokenizer: dict[str, Any], *, rename: Mapping[str, str], name: str) -> None:
    """Make every id outside the model agree with the model's vocabulary, by the tokens' strings, in place.

    Covers added tokens, the post-processors of BERT, RoBERTa and templates, alone or in a sequence, and padding.

    Args:
        tokenizer: a parsed `tokenizer.json` whose model holds every special token.
        rename: old strings of special tokens that are now called differently.
        name: of the tokenizer, for messages.

    Raises:
        VocabularyError: something refers to a token that the model no longer has.
    """
    vocab = tokenizer["model"]["vocab"]
    if isinstance(vocab, Mapping):
        ids = dict(vocab)
    else:
        ids = {entry[0]: number for number, entry in enumerate(vocab)}

    def located(token: str, where: str) -> tuple[str, int]:
        token = rename.get(token, token)
        if token not in ids:
            raise VocabularyError(
                f"{name}: the {where} needs {token!r}, which would be dropped; keep it, or remove it from the {where}"
            )
        return token, ids[token]

    for token in tokenizer.get("added_tokens") or ():
        token["content"], token["id"] = located(token["content"], "list of added tokens")
    for part in parts(tokenizer.get("post_processor")):
        if part["type"] in ("BertProcessing", "RobertaProcessing"):
            for end in ("cls", "sep"):
                part[end][:] = located(part[end][0], "post-processor")
        elif part["type"] == "TemplateProcessing":
            _resync_template(part, located)
    padding = tokenizer.get("padding")
    if padding:
        padding["pad_token"], padding["pad_id"] = located(padding["pad_token"], "padding")


def placeholder(number: int) -> str:
    """The piece that fills id `number`: it holds a space, which no normalized and split text does."""
    return f"[hole {number}]"


def _renumbered(
    vocabulary: Vocabulary,
    new_ids: ArrayLike,
    size: int | None,
    rename: Mapping[str, str],
    extra: Mapping[str, int],
) -> list[str]:
    ids = np.asarray(new_ids, dtype=np.int64)
    if ids.shape != (len(vocabulary),):
        raise VocabularyError(
            f"{vocabulary.name}: expected one new id for each of {len(vocabulary)} ids, got shape {ids.shape}"
        )
    kept = ids[ids >= 0]
    if size is None:
        size = max([*extra.values(), *([int(kept.max())] if len(kept) else []), -1]) + 1
    pieces: list[str | None] = [None] * size
    named = [
        (int(ids[old]), rename.get(piece, piece))
        for old, piece in enumerate(vocabulary.pieces)
        if piece is not None and ids[old] >= 0
    ]
    for number, piece in [*named, *((number, piece) for piece, number in extra.items())]:
        if number >= size or pieces[number] is not None:
            taken = pieces[number] if number < size else f"nothing, as there are {size} ids"
            raise VocabularyError(
                f"{vocabulary.name}: new id {number} of {piece!r} already has {taken!r}"
            )
        pieces[number] = piece
    filled = [placeholder(n) if piece is None else piece for n, piece in enumerate(pieces)]
    if len(set(filled)) < len(filled):
        twice = next(piece for n, piece in enumerate(filled) if piece in filled[:n])
        raise VocabularyError(f"{vocabulary.name}: two pieces would be called {twice!r}")
    return filled


def _scored(
    vocabulary: Vocabulary, new_ids: NDArray[np.int64], pieces: Sequence[str]
) -> list[list[Any]]:
    """Unigram entries; placeholders get the lowest score, from which the library derives the unknown's."""
    lowest = float(np.nanmin(vocabulary.scores))
    scores = np.full(len(pieces), lowest)
    kept = new_ids >= 0
    scores[new_ids[kept]] = np.where(
        np.isnan(vocabulary.scores[kept]), lowest, vocabulary.scores[kept]
    )
    return [[piece, score] for piece, score in zip(pieces, scores.tolist(), strict=True)]


def _surviving_merges(vocabulary: Vocabulary, new_ids: NDArray[np.int64]) -> list[list[str]]:
    model = vocabulary.tokenizer["model"]
    prefix = model.get("continuing_subword_prefix") or ""
    alive = {
        piece
        for piece, new in zip(vocabulary.pieces, new_ids.tolist(), strict=True)
        if piece is not None and new >= 0
    }
    return [
        pair
        for pair in merge_pairs(model)
        if pair[0] in alive and pair[1] in alive and pair[0] + pair[1].removeprefix(prefix) in alive
    ]


def _added_tokens(
    vocabulary: Vocabulary,
    new_ids: NDArray[np.int64],
    rename: Mapping[str, str],
    extra: Mapping[str, int],
) -> list[dict[str, Any]]:
    """The added tokens that stay, ascending by id, still under their old strings where `resync` will rename them."""
    staying = [
        (int(new_ids[token["id"]]), dict(token))
        for token in vocabulary.tokenizer.get("added_tokens") or ()
        if new_ids[token["id"]] >= 0
    ]
    known = {rename.get(token["content"], token["content"]) for _, token in staying}
    staying += [
        (number, special_token(token, number))
        for token, number in extra.items()
        if token not in known
    ]
    return [token for _, token in sorted(staying, key=lambda pair: pair[0])]


def special_token(content: str, number: int) -> dict[str, Any]:
    """The entry of a special token among the added tokens; a mask swallows the space before it, as RoBERTa's does."""
    return {
        "id": number,
        "content": content,
        "single_word": False,
        "lstrip": content == "<mask>",
        "rstrip": False,
        "normalized": False,
        "special": True,
    }


def _resync_unknown(
    vocabulary: Vocabulary,
    made: dict[str, Any],
    new_ids: NDArray[np.int64],
    rename: Mapping[str, str],
) -> None:
    model = made["model"]
    unknown = model.get("unk_id")
    if unknown is not None:
        if new_ids[unknown] < 0:
            raise VocabularyError(
                f"{vocabulary.name}: the model needs its unknown piece {vocabulary.pieces[unknown]!r}, keep it"
            )
        model["unk_id"] = int(new_ids[unknown])
    token = model.get("unk_token")
    if token is not None:
        token = rename.get(token, token)
        if token not in model["vocab"] and vocabulary.family == "wordpiece":
            raise VocabularyError(
                f"{vocabulary.name}: the model needs its unknown piece {token!r}, keep it"
            )
        model["unk_token"] = token


def _resync_template(part: Mapping[str, Any], located: Any) -> None:
    tokens = part["special_tokens"]
    entries = [
        {
            "id": located(entry["id"], "post-processor")[0],
            "ids": [located(token, "post-processor")[1] for token in entry["tokens"]],
            "tokens": [located(token, "post-processor")[0] for token in entry["tokens"]],
        }
        for entry in (tokens.values() if isinstance(tokens, Mapping) else tokens)
    ]
    for sequence in ("single", "pair"):
        for step in part[sequence]:
            if "SpecialToken" in step:
                step["SpecialToken"]["id"] = located(step["SpecialToken"]["id"], "post-processor")[
                    0
                ]
    if isinstance(tokens, dict):
        tokens.clear()
        tokens.update({entry["id"]: entry for entry in entries})
