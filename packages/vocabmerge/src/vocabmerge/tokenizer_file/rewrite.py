"""Renumbers a tokenizer's pieces and re-syncs every other place that knows an id."""

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vocabmerge.errors import VocabularyError
from vocabmerge.families.components import unfolded
from vocabmerge.families.pieces import placeholder
from vocabmerge.families.registry import model_of
from vocabmerge.tokenizer_file.vocabulary import Vocabulary


def rewrite_tokenizer(
    vocabulary: Vocabulary,
    new_ids: ArrayLike,
    *,
    size: int | None = None,
    rename: Mapping[str, str] | None = None,
    extra: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Give pieces new ids, drop those without one, and re-sync all that refers to them.

    Piece `old` gets the id `new_ids[old]`: in the model, among the added tokens, in post-processor and padding.

    The model itself keeps its family, normalizer and pre-tokenizer; its merges lose those that need a dropped piece.
    Added tokens that the model lacks stay outside of it where they have the last ids, in their order, as the library numbers
    such tokens. Every other special and added token ends in the model's own vocabulary, by which text can reach it that the
    library does not take for the token: other letters that are normalized to it, or a part of a word. Ids below `size` that nothing maps to are filled
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
    ids = np.array(new_ids, dtype=np.int64)
    pieces = _renumbered(vocabulary, ids, size, renamed, extra or {})
    rewritten: dict[str, Any] = {
        key: copy.deepcopy(value)
        for key, value in vocabulary.tokenizer.items()
        if key not in ("model", "added_tokens")
    }
    rewritten["added_tokens"] = _added_tokens(vocabulary, ids, renamed, extra or {})
    outside = _outside_the_model(vocabulary, ids, len(pieces))
    behind = {pieces[number]: number for number in ids[outside].tolist()}
    ids[outside] = -1
    inside = pieces[: len(pieces) - len(outside)]
    rewritten["model"] = vocabulary.model.rewritten(ids, inside, renamed)
    resync(rewritten, rename=renamed, name=vocabulary.name, behind=behind)
    return rewritten


def resync(
    tokenizer: dict[str, Any], *, rename: Mapping[str, str], name: str, behind: Mapping[str, int]
) -> None:
    """Make every id outside the model agree with the model's vocabulary, by the tokens' strings, in place.

    Covers added tokens, the post-processors of BERT, RoBERTa and templates, alone or in a sequence, and padding.

    Args:
        tokenizer: a parsed `tokenizer.json`.
        rename: old strings of special tokens that are now called differently.
        name: of the tokenizer, for messages.
        behind: ids of added tokens that its model does not hold.

    Raises:
        VocabularyError: something refers to a token that is no longer there.
    """
    ids = {**dict(model_of(tokenizer, name=name).entries()), **behind}

    def located(token: str, where: str) -> tuple[str, int]:
        token = rename.get(token, token)
        if token not in ids:
            raise VocabularyError(
                f"{name}: the {where} needs {token!r}, which would be dropped; keep it, or remove it from the {where}"
            )
        return token, ids[token]

    for token in tokenizer.get("added_tokens") or ():
        token["content"], token["id"] = located(token["content"], "list of added tokens")
    for part in unfolded(tokenizer.get("post_processor")):
        if part["type"] in ("BertProcessing", "RobertaProcessing"):
            for end in ("cls", "sep"):
                part[end][:] = located(part[end][0], "post-processor")
        elif part["type"] == "TemplateProcessing":
            _resync_template(part, located)
    padding = tokenizer.get("padding")
    if padding:
        padding["pad_token"], padding["pad_id"] = located(padding["pad_token"], "padding")


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


def tokens_outside_the_model(vocabulary: Vocabulary) -> list[Mapping[str, Any]]:
    """The added tokens that are no pieces of the model, so that text reaches them only where the library finds them."""
    entries = {piece for piece, _ in vocabulary.model.entries()}
    return [token for token in vocabulary.tokenizer["added_tokens"] if token["content"] not in entries]  # fmt: skip


def _outside_the_model(vocabulary: Vocabulary, new_ids: NDArray[np.int64], size: int) -> list[int]:
    """Old ids of the added tokens that can stay outside of the model, in their new order; none unless all can."""
    tokens = {int(token["id"]): token for token in tokens_outside_the_model(vocabulary)}
    outside = sorted((old for old in tokens if new_ids[old] >= 0), key=new_ids.__getitem__)
    last = list(range(size - len(outside), size))
    needed = vocabulary.model.unknown in (vocabulary.pieces[old] for old in outside)
    if new_ids[outside].tolist() == last and not needed:
        return outside
    for old in outside:
        if tokens[old]["single_word"]:  # as a piece it would be found in words, too
            raise VocabularyError(
                f"{vocabulary.name}: its added token {tokens[old]['content']!r} stands for whole words alone (single_word), which "
                "it would not as a piece of the model, and that it has to be where it has not one of the last ids; add it without "
                "single_word, or take it out"
            )
    return []


def _added_tokens(
    vocabulary: Vocabulary,
    new_ids: NDArray[np.int64],
    rename: Mapping[str, str],
    extra: Mapping[str, int],
) -> list[dict[str, Any]]:
    """The added tokens that stay, ascending by id, still under their old strings where `resync` will rename them."""
    staying = [
        (int(new_ids[token["id"]]), dict(token))
        for token in vocabulary.tokenizer["added_tokens"]
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
