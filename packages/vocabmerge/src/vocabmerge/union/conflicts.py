"""Where teachers disagree on what the text is, found by asking their normalizers, and what a union may do about it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from vocabmerge.errors import VocabularyError
from vocabmerge.families.components import open_normalizer, unfolded
from vocabmerge.tokenizer_file.vocabulary import Vocabulary

Policy = Literal["keep", "fold", "first"]
POLICIES: Mapping[Policy, str] = {
    "keep": "the union keeps every distinction that some teacher keeps",
    "fold": "the union drops every distinction that some teacher drops",
    "first": "the union normalizes as the first teacher does",
}
_CONTROLS = "\u0007\u200b\u00ad"  # bell, zero-width space, soft hyphen
# What these do is told by asking, and the union has steps of its own for it.
_ASKED = ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "BertNormalizer")
_ADVICE = "choose with normalizer (--normalizer): " + "; ".join(
    f"{policy}: {meaning}" for policy, meaning in POLICIES.items()
)


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """What a normalizer does to probes of text.

    Args:
        case: kept or folded.
        accents: kept or stripped.
        form: as is, NFC, NFD, NFKC or NFKD, told by Hangul and a ligature, which accent stripping leaves alone.
        ideographs: joined, or spaced apart as BERT does.
        controls: what becomes of control characters and zero-width spaces: kept, removed, spaced, or some of it.
        quotes: what becomes of paired back-quotes and apostrophes: kept, or replaced.
    """

    case: str
    accents: str
    form: str
    ideographs: str
    controls: str
    quotes: str


def behaviour(teacher: Vocabulary) -> Behaviour:
    """Ask a teacher's normalizer what it does.

    Example:
        >>> behaviour(parse_vocabulary({"added_tokens": [], "normalizer": {"type": "Lowercase"},
        ...     "model": {"type": "WordPiece", "vocab": {"?": 0}, "unk_token": "?",
        ...     "continuing_subword_prefix": "##", "max_input_chars_per_word": 9}}, name="tiny")).case
        'folded'
    """
    return _behaviour(textual_parts(teacher))


def _behaviour(steps: Sequence[Mapping[str, Any]]) -> Behaviour:
    ask = normalizing(steps)
    syllable, jamo = "한", "\u1112\u1161\u11ab"
    composed, decomposed = ask(jamo) == syllable, ask(syllable) == jamo
    compatible = ask("ﬁ").lower() == "fi"
    form = ("NFC" if composed else "NFD" if decomposed else "") + "*"
    form = {"*": "as is", "NFC*": "NFC", "NFD*": "NFD"}[form]
    if compatible:
        form = {"as is": "NFKC", "NFC": "NFKC", "NFD": "NFKD"}[form]
    stripped = any(letter in ask("é") for letter in ("e", "E")) and "\u0301" not in ask("é")
    return Behaviour(
        case="folded" if ask("A").casefold() == ask("A") != ask("A").upper() else "kept",
        accents="stripped" if stripped else "kept",
        form=form,
        ideographs="spaced" if " " in ask("中文").strip() else "joined",
        controls=_treatment_of_controls(ask),
        quotes="kept" if ask("a``b''a") == "a``b''a" else "replaced",
    )


def _treatment_of_controls(ask: Callable[[str], str]) -> str:
    treatments = set()
    for text in (f"x{character}x" for character in _CONTROLS):
        treatments.add({"xx": "removed", "x x": "spaced", text: "kept"}.get(ask(text), "replaced"))
    return " and ".join(sorted(treatments))


def find_conflicts(teachers: Sequence[Vocabulary]) -> list[str]:
    """Name every way in which the teachers normalize differently, one sentence each.

    Their normalizers are asked: what becomes of case, accents, Unicode forms and Chinese characters.

    Args:
        teachers: with different names.

    Returns:
        A sentence for each difference; none where a union needs no policy.

    Example:
        >>> def tiny(name, normalizer):
        ...     model = {"type": "WordLevel", "vocab": {"?": 0}, "unk_token": "?"}
        ...     return parse_vocabulary({"normalizer": normalizer, "model": model}, name=name)
        >>> find_conflicts([tiny("A", None), tiny("B", {"type": "Lowercase"})])
        ['case: A kept, B folded']
    """
    behaviours = {teacher.name: behaviour(teacher) for teacher in teachers}
    sentences = []
    for aspect in ("case", "accents", "form", "ideographs"):
        values = {name: getattr(normalizer, aspect) for name, normalizer in behaviours.items()}
        if len(set(values.values())) > 1:
            listed = ", ".join(f"{name} {value}" for name, value in values.items())
            label = {"form": "Unicode form", "ideographs": "Chinese characters"}.get(aspect, aspect)
            sentences.append(f"{label}: {listed}")
    return sentences


def split_differences(teachers: Sequence[Vocabulary]) -> list[str]:
    """Name differences in pre-tokenization, which a union of one family settles as its first teacher does."""
    first, *further = teachers
    return [
        f"{teacher.name} cuts text before its model otherwise than {first.name}, whose way the union takes"
        for teacher in further
        if teacher.tokenizer.get("pre_tokenizer") != first.tokenizer.get("pre_tokenizer")
        or structural_parts(teacher) != structural_parts(first)
    ]


def unmarked(teachers: Sequence[Vocabulary]) -> list[str]:
    """Name the teachers whose pieces do not tell where a word starts, which a mixed union cannot follow."""
    return [
        f"{teacher.name} marks no word starts, so the union tokenizer cannot follow it; "
        "its language tokenizer does"
        for teacher in teachers
        if not teacher.model.marks_word_starts
    ]


def union_normalizer(teachers: Sequence[Vocabulary], policy: Policy | None) -> list[dict[str, Any]]:
    """The textual steps of the union's normalizer.

    Args:
        teachers: whose normalizers to unite.
        policy: what to do where they conflict.

    Returns:
        Normalizer components, without those that only write word markers.

    Raises:
        VocabularyError: they conflict and no policy was given; the message names every conflict and policy.
    """
    conflicts = find_conflicts(teachers)
    if conflicts and policy is None:
        raise VocabularyError(
            f"the teachers normalize text differently ({'; '.join(conflicts)}); {_ADVICE}"
        )
    if policy is not None and policy not in POLICIES:
        raise VocabularyError(f"expected a normalizer policy, got {policy!r}; {_ADVICE}")
    if not conflicts or policy == "first":
        return textual_parts(teachers[0])
    other_steps = [
        [part for part in textual_parts(teacher) if part["type"] not in _ASKED]
        for teacher in teachers
    ]
    behaviours = [behaviour(teacher) for teacher in teachers]
    decides: Callable[[Any], bool] = all if policy == "keep" else any
    lower = decides(normalizer.case == "folded" for normalizer in behaviours)
    strip = decides(normalizer.accents == "stripped" for normalizer in behaviours)
    spaced = decides(normalizer.ideographs == "spaced" for normalizer in behaviours)
    compatible = decides(normalizer.form in ("NFKC", "NFKD") for normalizer in behaviours)
    composed = any(normalizer.form != "as is" for normalizer in behaviours)
    cleaned = decides(normalizer.controls == "removed" for normalizer in behaviours)
    steps: list[dict[str, Any]] = []
    for part in (part for of_teacher in other_steps for part in of_teacher):
        if part not in steps and decides(part in of_teacher for of_teacher in other_steps):
            steps.append(part)
    if compatible or composed:
        steps.append({"type": "NFKC" if compatible else "NFC"})
    if spaced or cleaned:
        steps.append(
            {
                "type": "BertNormalizer",
                "clean_text": cleaned,
                "handle_chinese_chars": spaced,
                "strip_accents": strip,
                "lowercase": lower,
            }
        )
        return steps
    if strip:
        steps += [{"type": "NFD"}, {"type": "StripAccents"}]
    return [*steps, {"type": "Lowercase"}] if lower else steps


def normalizer_notes(
    teachers: Sequence[Vocabulary], steps: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Name where a teacher treats characters otherwise than the union does, beyond what is called a conflict."""
    union = _behaviour(steps)
    notes = []
    for aspect, label in (("controls", "control characters"), ("quotes", "paired quotes")):
        in_union = getattr(union, aspect)
        values = {teacher.name: getattr(behaviour(teacher), aspect) for teacher in teachers}
        listed = ", ".join(f"{name} {value}" for name, value in values.items() if value != in_union)
        if listed:
            notes.append(f"{label}: {listed}; the union {in_union}")
    for teacher in teachers:
        tables = [part for part in textual_parts(teacher) if part["type"] == "Precompiled"]
        if any(part not in steps for part in tables):
            notes.append(
                f"{teacher.name} replaces characters by a table of its own, which the union tokenizer does not have"
            )
    return notes


def textual_parts(teacher: Vocabulary) -> list[dict[str, Any]]:
    """The normalizer's components that change text."""
    return [
        dict(part) for part in unfolded(teacher.tokenizer.get("normalizer")) if not _marks(part)
    ]


def structural_parts(teacher: Vocabulary) -> list[dict[str, Any]]:
    """The normalizer's components that write word markers, such as Llama's."""
    return [dict(part) for part in unfolded(teacher.tokenizer.get("normalizer")) if _marks(part)]


def _marks(part: Mapping[str, Any]) -> bool:
    return (
        part["type"] in ("Prepend", "ByteLevel")
        or part.get("content") == "▁"
        or part.get("pattern") == {"String": "▁"}
    )


def normalizing(steps: Sequence[Mapping[str, Any]]) -> Callable[[str], str]:
    """What normalizer components do to a text, one after the other."""
    if not steps:
        return lambda text: text
    return open_normalizer({"type": "Sequence", "normalizers": [*steps]})
