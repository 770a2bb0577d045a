"""How a tokenizer spells a piece that it does not have."""

from collections.abc import Mapping
from typing import Any

import tokenizers


def spell(piece: str, tokenizer: Mapping[str, Any], opened: tokenizers.Tokenizer) -> list[int]:
    """The ids that stand for a piece in the place in a word where it stood.

    Args:
        piece: in the tokenizer's own spelling, with its word marker.
        tokenizer: the parsed `tokenizer.json`.
        opened: the same, opened.

    Returns:
        The ids; none where a part of the piece is unknown to the tokenizer.
    """
    model = tokenizer["model"]
    if model["type"] == "WordPiece":
        return _longest_matches(piece, model)
    vocab = model["vocab"]
    unknown = model.get("unk_id")
    if isinstance(vocab, Mapping):
        unknown = vocab.get(model.get("unk_token"))
    ids = [token.id for token in opened.model.tokenize(piece)]
    return [] if unknown in ids else ids


def _longest_matches(piece: str, model: Mapping[str, Any]) -> list[int]:
    """WordPiece's rule, also for a piece that continues a word, which the library cannot be asked for."""
    prefix, vocab = model["continuing_subword_prefix"], model["vocab"]
    inside = piece.startswith(prefix) and len(piece) > len(prefix)
    rest = piece[len(prefix) :] if inside else piece
    ids = []
    while rest:
        for end in range(len(rest), 0, -1):
            found = vocab.get((prefix if inside else "") + rest[:end])
            if found is not None:
                break
        else:
            return []
        ids.append(found)
        rest, inside = rest[end:], True
    return ids
