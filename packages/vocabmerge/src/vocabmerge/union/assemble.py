"""Puts a union tokenizer together: its model, what happens before the model, and what happens after."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vocabmerge.families.components import unfolded
from vocabmerge.families.pieces import placeholder
from vocabmerge.families.unigram import have_all_bytes, mixed_union_model
from vocabmerge.tokenizer_file.rewrite import special_token
from vocabmerge.tokenizer_file.vocabulary import Vocabulary
from vocabmerge.union.conflicts import normalizing, structural_parts
from vocabmerge.union.specials import CONVENTIONS, Convention, template
from vocabmerge.union.union_rows import UnionRows

PreTokenization = Literal["marked", "punctuation apart", "punctuation spaced"]
PRE_TOKENIZATIONS: tuple[PreTokenization, ...] = (
    "marked",
    "punctuation apart",
    "punctuation spaced",
)
_PUNCTUATION = r"▁?(?:[!-/:-@\[-`{-~]|\p{P})"
# Text that spells a fallback byte is not that byte: cut behind its first sign, it is no piece.
_SPELLED_BYTE = r"▁?<(?=0x[0-9A-F]{2}>)"
_METASPACE: dict[str, Any] = {
    "type": "Metaspace",
    "replacement": "▁",
    "prepend_scheme": "always",
    "split": True,
}
# White space is the marker's business in a mixed union: runs of it are one space, and none stands at an end.
_SPACES: tuple[dict[str, Any], ...] = (
    {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
    {"type": "Strip", "strip_left": True, "strip_right": True},
)


def one_family(teachers: Sequence[Vocabulary]) -> bool:
    """Whether the teachers' pieces are spelled alike, so that a union can stay what they are."""
    return len({teacher.model.style for teacher in teachers}) == 1


def normalizer_parts(
    teachers: Sequence[Vocabulary], textual: Sequence[Mapping[str, Any]], *, mixed: bool
) -> list[Mapping[str, Any]]:
    """The union's normalizer: its textual steps, and those that prepare the word markers."""
    return [*textual, *(_SPACES if mixed else structural_parts(teachers[0]))]


def family_tokenizer(
    teachers: Sequence[Vocabulary],
    rows: UnionRows,
    normalizer: Sequence[Mapping[str, Any]],
    *,
    convention: Convention,
    scores: NDArray[np.float64] | None = None,
) -> dict[str, Any]:
    """The union of teachers of one family: the first teacher's tokenizer around a model that holds all pieces.

    Args:
        teachers: of one family.
        rows: the rows of the union.
        normalizer: the textual steps.
        convention: the special tokens.
        scores: log-probability of every row, for models that have such.

    Returns:
        The parsed `tokenizer.json`.
    """
    first = teachers[0]
    model = first.model.united(
        [teacher.model for teacher in teachers],
        rows.texts,
        unknown=CONVENTIONS[convention].tokens["unk"],
        scores=scores,
    )
    after = [
        dict(part)
        for part in unfolded(first.tokenizer.get("post_processor"))
        if part["type"] == "ByteLevel"
    ]
    return _tokenizer(
        model,
        normalizer_parts(teachers, normalizer, mixed=False),
        first.tokenizer.get("pre_tokenizer"),
        [*after, template(convention)],
        first.tokenizer.get("decoder"),
        rows,
        teachers,
    )


def mixed_tokenizer(
    teachers: Sequence[Vocabulary],
    rows: UnionRows,
    normalizer: Sequence[Mapping[str, Any]],
    *,
    convention: Convention,
    scores: NDArray[np.float64],
    pre_tokenization: PreTokenization,
) -> dict[str, Any]:
    """The union of several families: one Unigram over `▁`-marked pieces.

    Args:
        teachers: of any families.
        rows: the rows of the union.
        normalizer: the textual steps.
        convention: the special tokens.
        scores: log-probability of every row.
        pre_tokenization: how text is cut before the model: at marked spaces only, also around punctuation, or with
            punctuation standing as a word of its own, as WordPiece teachers see it.

    Returns:
        The parsed `tokenizer.json`.
    """
    split = _isolating(_PUNCTUATION)
    spelled_bytes = [_isolating(_SPELLED_BYTE)] if have_all_bytes(rows.texts) else []
    steps = {
        "marked": [_METASPACE, *spelled_bytes],
        "punctuation apart": [_METASPACE, split],
        "punctuation spaced": [{"type": "WhitespaceSplit"}, split, {**_METASPACE, "split": False}],
    }[pre_tokenization]
    return _tokenizer(
        mixed_union_model(rows.texts, scores, CONVENTIONS[convention].tokens["unk"]),
        normalizer_parts(teachers, normalizer, mixed=True),
        {"type": "Sequence", "pretokenizers": steps},
        [template(convention)],
        {
            "type": "Sequence",
            "decoders": [{"type": "ByteFallback"}, {**_METASPACE, "split": True}],
        },
        rows,
        teachers,
    )


def _isolating(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def _tokenizer(
    model: dict[str, Any],
    normalizer: Sequence[Mapping[str, Any]],
    pre_tokenizer: Mapping[str, Any] | None,
    processors: Sequence[Mapping[str, Any]],
    decoder: Mapping[str, Any] | None,
    rows: UnionRows,
    teachers: Sequence[Vocabulary],
) -> dict[str, Any]:
    tokens = [token for teacher in teachers for token in teacher.tokenizer["added_tokens"]]
    flags = {token["content"]: token for token in tokens}
    # Where teachers disagree, the union finds it in every spelling in which one of them does, as far as it normalizes at all.
    in_normalized = {token["content"] for token in tokens if token["normalized"]}
    shown = normalizing(normalizer)
    added = []
    for row, (text, role) in enumerate(zip(rows.texts, rows.roles, strict=True)):
        if text == placeholder(row):
            continue  # only a language tokenizer reaches it
        if role == "special":
            added.append({**flags.get(text, {}), **special_token(text, row)})
        elif role == "added":
            # A token that would lose the spaces at its ends is looked for in the text as it was before.
            bare = shown(text).strip() == shown(text) and text.strip() != text
            normalized = text in in_normalized and not bare
            added.append({**flags[text], "id": row, "normalized": normalized})
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": [dict(part) for part in normalizer]}
        if normalizer
        else None,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": processors[0]
        if len(processors) == 1
        else {"type": "Sequence", "processors": [dict(part) for part in processors]},
        "decoder": decoder,
        "model": model,
    }
