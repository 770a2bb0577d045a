"""Which pieces vocabularies have in common, by canonical key and, for contrast, by raw string."""

from collections.abc import Sequence
from typing import Any

from vocabmerge.families.pieces import Key
from vocabmerge.tokenizer_file.vocabulary import Vocabulary


def overlap(vocabularies: Sequence[Vocabulary]) -> dict[str, Any]:
    """Count the pieces that each pair of vocabularies shares; special and added tokens and placeholders do not count.

    Pieces are the same if their canonical keys are: the place in a word and the UTF-8 bytes, however a family spells
    both. With A and B the pieces of two vocabularies, `shared = |A ∩ B|` and `jaccard = |A ∩ B| / |A ∪ B|`.

    An isolated piece of one vocabulary (punctuation under BERT's rules) meets the word-internal piece of another, and
    only where there is none the word-initial one.

    Args:
        vocabularies: two or more, N of them.

    Returns:
        `names`, `sizes` [N], `shared` and `raw` (counts [N, N], by key and by raw string), and `jaccard` [N, N].

    Example:
        >>> tiny = parse_vocabulary({"added_tokens": [], "model": {"type": "WordPiece", "unk_token": "?",
        ...     "continuing_subword_prefix": "##", "max_input_chars_per_word": 9, "vocab": {"?": 0, "a": 1, "##b": 2}}},
        ...     name="tiny")
        >>> overlap([tiny, tiny])["shared"]
        [[2, 2], [2, 2]]
    """
    keys = [_keys(vocabulary) for vocabulary in vocabularies]
    texts = [_texts(vocabulary) for vocabulary in vocabularies]
    shared = [[_shared(row, column) for column in keys] for row in keys]
    return {
        "names": [vocabulary.name for vocabulary in vocabularies],
        "sizes": [len(vocabulary_keys) for vocabulary_keys in keys],
        "shared": shared,
        "raw": [[len(row & column) for column in texts] for row in texts],
        "jaccard": [
            [count / max(len(keys[i]) + len(keys[j]) - count, 1) for j, count in enumerate(row)]
            for i, row in enumerate(shared)
        ],
    }


def inspect(vocabulary: Vocabulary) -> dict[str, Any]:
    """What a vocabulary is made of, ready for JSON: its model, its special tokens, and counts of what its pieces are.

    Args:
        vocabulary: what to look at.

    Returns:
        `name`, `family`, `size`, `digest`, `specials` (token and id by role), `roles` and `classes` (counts of pieces by
        what they are and by their place in a word) and the number of `merges`.

    Example:
        >>> tiny = parse_vocabulary({"added_tokens": [], "model": {"type": "WordPiece", "unk_token": "?",
        ...     "continuing_subword_prefix": "##", "max_input_chars_per_word": 9, "vocab": {"?": 0, "a": 1, "##b": 2}}},
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
        "merges": len(vocabulary.model.merges),
    }


def _keys(vocabulary: Vocabulary) -> set[Key]:
    return {
        key
        for key, role in zip(vocabulary.keys, vocabulary.roles, strict=True)
        if key is not None and role not in ("special", "added", "placeholder")
    }


def _texts(vocabulary: Vocabulary) -> set[str]:
    return {
        piece
        for piece, role in zip(vocabulary.pieces, vocabulary.roles, strict=True)
        if piece is not None and role not in ("special", "added", "placeholder")
    }


def _shared(left: set[Key], right: set[Key]) -> int:
    return len(left & right) + _isolated_matches(left, right) + _isolated_matches(right, left)


def _isolated_matches(left: set[Key], right: set[Key]) -> int:
    """Isolated pieces of the left that meet a piece of the right which nothing else of the left meets."""
    return sum(
        ("isolated", text) not in right
        and (
            (("internal", text) in right and ("internal", text) not in left)
            or (("initial", text) in right and ("initial", text) not in left)
        )
        for place, text in left
        if place == "isolated"
    )
