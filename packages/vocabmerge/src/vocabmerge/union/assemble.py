"""Puts a union tokenizer together: its model, what happens before the model, and what happens after."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vocabmerge.families.canonical import parts
from vocabmerge.tokenizer_file.rewrite import placeholder, special_token
from vocabmerge.tokenizer_file.vocabulary import Vocabulary, merge_pairs
from vocabmerge.union.conflicts import normalizing, structural_parts
from vocabmerge.union.specials import CONVENTIONS, Convention, template
from vocabmerge.union.union_rows import Slots

Cut = Literal["marked", "punctuation apart", "punctuation spaced"]
CUTS: tuple[Cut, ...] = ("marked", "punctuation apart", "punctuation spaced")
_PUNCTUATION = r"▁?(?:[!-/:-@\[-`{-~]|\p{P})"
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
    styles = {  # "" and null are both no mark
        (
            teacher.family,
            teacher.tokenizer["model"].get("continuing_subword_prefix") or "",
            teacher.tokenizer["model"].get("end_of_word_suffix") or "",
        )
        for teacher in teachers
    }
    return len(styles) == 1


def normalizer_parts(
    teachers: Sequence[Vocabulary], textual: Sequence[Mapping[str, Any]], *, mixed: bool
) -> list[Mapping[str, Any]]:
    """The union's normalizer: its textual steps, and those that prepare the word markers."""
    return [*textual, *(_SPACES if mixed else structural_parts(teachers[0]))]


def family_tokenizer(
    teachers: Sequence[Vocabulary],
    slots: Slots,
    normalizer: Sequence[Mapping[str, Any]],
    *,
    convention: Convention,
    scores: NDArray[np.float64] | None = None,
) -> dict[str, Any]:
    """The union of teachers of one family: the first teacher's tokenizer around a model that holds all pieces.

    Args:
        teachers: of one family.
        slots: the rows of the union.
        normalizer: the textual steps.
        convention: the special tokens.
        scores: log-probability of every row, for Unigram.

    Returns:
        The parsed `tokenizer.json`.
    """
    first = teachers[0]
    model = {
        key: value
        for key, value in first.tokenizer["model"].items()
        if key not in ("vocab", "merges")
    }
    if first.family == "unigram":
        assert scores is not None
        model |= _unigram(slots, scores, convention)
        model["byte_fallback"] = any(
            teacher.tokenizer["model"].get("byte_fallback") for teacher in teachers
        )
    else:
        model["vocab"] = {text: row for row, text in enumerate(slots.texts)}
    if first.family == "wordpiece":
        model["max_input_chars_per_word"] = max(
            teacher.tokenizer["model"].get("max_input_chars_per_word", 100) for teacher in teachers
        )
        model["unk_token"] = CONVENTIONS[convention].tokens["unk"]
    if "merges" in first.tokenizer["model"]:
        model["merges"] = interleaved_merges(teachers, model["vocab"])
        if model.get("unk_token") is not None:
            model["unk_token"] = CONVENTIONS[convention].tokens["unk"]
    after = [
        dict(part)
        for part in parts(first.tokenizer.get("post_processor"))
        if part["type"] == "ByteLevel"
    ]
    return _tokenizer(
        model,
        normalizer_parts(teachers, normalizer, mixed=False),
        first.tokenizer.get("pre_tokenizer"),
        [*after, template(convention)],
        first.tokenizer.get("decoder"),
        slots,
        teachers,
    )


def mixed_tokenizer(
    teachers: Sequence[Vocabulary],
    slots: Slots,
    normalizer: Sequence[Mapping[str, Any]],
    *,
    convention: Convention,
    scores: NDArray[np.float64],
    cut: Cut,
) -> dict[str, Any]:
    """The union of several families: one Unigram over `▁`-marked pieces.

    Args:
        teachers: of any families.
        slots: the rows of the union.
        normalizer: the textual steps.
        convention: the special tokens.
        scores: log-probability of every row.
        cut: how text is cut before the model: at marked spaces only, also around punctuation, or with punctuation
            standing as a word of its own, as WordPiece teachers see it.

    Returns:
        The parsed `tokenizer.json`.
    """
    apart: dict[str, Any] = {
        "type": "Split",
        "pattern": {"Regex": _PUNCTUATION},
        "behavior": "Isolated",
        "invert": False,
    }
    steps = {
        "marked": [_METASPACE],
        "punctuation apart": [_METASPACE, apart],
        "punctuation spaced": [{"type": "WhitespaceSplit"}, apart, {**_METASPACE, "split": False}],
    }[cut]
    model = {"type": "Unigram", **_unigram(slots, scores, convention)}
    held = set(slots.texts)
    model["byte_fallback"] = all(f"<0x{byte:02X}>" in held for byte in range(256))
    return _tokenizer(
        model,
        normalizer_parts(teachers, normalizer, mixed=True),
        {"type": "Sequence", "pretokenizers": steps},
        [template(convention)],
        {
            "type": "Sequence",
            "decoders": [{"type": "ByteFallback"}, {**_METASPACE, "split": True}],
        },
        slots,
        teachers,
    )


def interleaved_merges(teachers: Sequence[Vocabulary], vocab: Mapping[str, int]) -> list[list[str]]:
    """All merges whose pieces the union has, by the lowest rank that any teacher gives them."""
    prefix = teachers[0].tokenizer["model"].get("continuing_subword_prefix") or ""
    rank: dict[tuple[str, str], tuple[int, int]] = {}
    for number, teacher in enumerate(teachers):
        for place, (left, right) in enumerate(merge_pairs(teacher.tokenizer["model"])):
            if left in vocab and right in vocab and left + right.removeprefix(prefix) in vocab:
                rank[left, right] = min(rank.get((left, right), (place, number)), (place, number))
    return [list(pair) for pair in sorted(rank, key=rank.__getitem__)]


def _unigram(slots: Slots, scores: NDArray[np.float64], convention: Convention) -> dict[str, Any]:
    unknown = CONVENTIONS[convention].ids[CONVENTIONS[convention].tokens["unk"]]
    entries = zip(slots.texts, scores.tolist(), strict=True)
    return {"unk_id": unknown, "vocab": [[text, score] for text, score in entries]}


def _tokenizer(
    model: dict[str, Any],
    normalizer: Sequence[Mapping[str, Any]],
    pre_tokenizer: Mapping[str, Any] | None,
    processors: Sequence[Mapping[str, Any]],
    decoder: Mapping[str, Any] | None,
    slots: Slots,
    teachers: Sequence[Vocabulary],
) -> dict[str, Any]:
    flags = {
        token["content"]: token
        for teacher in teachers
        for token in teacher.tokenizer.get("added_tokens") or ()
    }
    shown = normalizing(normalizer)
    added = []
    for row, (text, role) in enumerate(zip(slots.texts, slots.roles, strict=True)):
        if text == placeholder(row):
            continue  # only a language tokenizer reaches it
        if role == "special":
            added.append({**flags.get(text, {}), **special_token(text, row)})
        elif role == "added":
            # A token that would lose the spaces at its ends is looked for in the text as it was before.
            bare = shown(text).strip() == shown(text) and text.strip() != text
            normalized = flags[text]["normalized"] and not bare
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
