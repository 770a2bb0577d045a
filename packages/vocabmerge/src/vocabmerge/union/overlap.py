"""Which pieces vocabularies have in common, by canonical key and, for contrast, by raw string."""

from collections.abc import Sequence
from typing import Any

from vocabmerge.families.canonical import Key
from vocabmerge.tokenizer_file.vocabulary import Vocabulary


def overlap(vocabularies: Sequence[Vocabulary]) -> dict[str, Any]:
    """Count the pieces that each pair of vocabularies shares; special and added tokens and placeholders do not count.

    An isolated piece of one vocabulary (punctuation under BERT's rules) meets the word-internal piece of another, and
    only where there is none the word-initial one.

    Args:
        vocabularies: two or more.

    Returns:
        `names`, `sizes`, `shared` and `raw` (matrices of counts), and `jaccard` (shared over united).

    Example:
        >>> tiny = parse_vocabulary({"added_tokens": [], "model": {"type": "WordPiece", "unk_token": "a",
        ...     "continuing_subword_prefix": "##", "max_input_chars_per_word": 9, "vocab": {"a": 0, "##b": 1}}},
        ...     name="tiny")
        >>> overlap([tiny, tiny])["shared"]
        [[2, 2], [2, 2]]
    """
    keys = [_keys(one) for one in vocabularies]
    raw = [_raw(one) for one in vocabularies]
    shared = [[_shared(one, other) for other in keys] for one in keys]
    return {
        "names": [one.name for one in vocabularies],
        "sizes": [len(one) for one in keys],
        "shared": shared,
        "raw": [[len(one & other) for other in raw] for one in raw],
        "jaccard": [
            [both / max(len(keys[i]) + len(keys[j]) - both, 1) for j, both in enumerate(row)]
            for i, row in enumerate(shared)
        ],
    }


def inspect(vocabulary: Vocabulary) -> dict[str, Any]:
    """What a vocabulary is made of, ready for JSON.

    Example:
        >>> tiny = parse_vocabulary({"added_tokens": [], "model": {"type": "WordPiece", "unk_token": "a",
        ...     "continuing_subword_prefix": "##", "max_input_chars_per_word": 9, "vocab": {"a": 0, "##b": 1}}},
        ...     name="tiny")
        >>> inspect(tiny)["classes"]
        {'initial': 1, 'internal': 1, 'isolated': 0}
    """
    roles: dict[str, int] = {}
    for role in vocabulary.roles:
        roles[role] = roles.get(role, 0) + 1
    classes = {"initial": 0, "internal": 0, "isolated": 0}
    for key, role in zip(vocabulary.keys, vocabulary.roles, strict=True):
        if key is not None and role not in ("special", "added"):
            classes[key[0]] += 1
    return {
        "name": vocabulary.name,
        "family": vocabulary.family,
        "size": len(vocabulary),
        "digest": vocabulary.digest,
        "specials": {
            role: {"token": token, "id": vocabulary.ids.get(token)}
            for role, token in vocabulary.specials.items()
        },
        "roles": roles,
        "classes": classes,
        "merges": len(vocabulary.tokenizer["model"].get("merges") or ()),
    }


def _keys(vocabulary: Vocabulary) -> set[Key]:
    return {
        key
        for key, role in zip(vocabulary.keys, vocabulary.roles, strict=True)
        if key is not None and role not in ("special", "added", "placeholder")
    }


def _raw(vocabulary: Vocabulary) -> set[str]:
    return {
        piece
        for piece, role in zip(vocabulary.pieces, vocabulary.roles, strict=True)
        if piece is not None and role not in ("special", "added", "placeholder")
    }


def _shared(one: set[Key], other: set[Key]) -> int:
    exact = len(one & other)
    return exact + _isolated_matches(one, other) + _isolated_matches(other, one)


def _isolated_matches(one: set[Key], other: set[Key]) -> int:
    """Isolated pieces that meet a piece of the other vocabulary which nothing else of this one meets."""
    return sum(
        ("isolated", text) not in other
        and (
            (("internal", text) in other and ("internal", text) not in one)
            or (("initial", text) in other and ("initial", text) not in one)
        )
        for word, text in one
        if word == "isolated"
    )
