"""One vocabulary out of several: the union tokenizer, its teachers in union ids, and how faithful it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import tokenizers
from numpy.typing import NDArray

from vocabmerge.count import Watch, silent
from vocabmerge.errors import VocabularyError
from vocabmerge.families.spelling import spell
from vocabmerge.maps import VocabularyMap, map_of_lists
from vocabmerge.tokenizer_file.rewrite import placeholder
from vocabmerge.tokenizer_file.vocabulary import Vocabulary, open_tokenizer, tokenizer_digest
from vocabmerge.union.assemble import Cut, one_family
from vocabmerge.union.conflicts import (
    Policy,
    find_conflicts,
    normalizer_notes,
    split_differences,
    union_normalizer,
    unmarked,
)
from vocabmerge.union.fidelity import Fidelity, added_tokens_fidelity, compare_segmentation
from vocabmerge.union.sizing import fit_rows
from vocabmerge.union.specials import CONVENTIONS, Convention
from vocabmerge.union.union import UnionMaker
from vocabmerge.union.union_rows import Slots


@dataclass(frozen=True, kw_only=True)
class Merged:
    """A union of vocabularies.

    Args:
        tokenizer: the union's parsed `tokenizer.json`.
        convention: whose special tokens it has.
        max_length: the shortest `model_max_length` that a teacher states.
        languages: language → name of its teacher.
        teachers: name → the teacher's own tokenizer with its pieces in union ids.
        maps: name → map of the teacher's ids to union ids.
        fidelity: language → the union against the teacher on text held out from calibration.
        facts: what was merged, shared, in conflict and tried, ready for JSON.
    """

    tokenizer: dict[str, Any]
    convention: Convention
    max_length: int | None
    languages: dict[str, str]
    teachers: dict[str, dict[str, Any]]
    maps: dict[str, VocabularyMap]
    fidelity: dict[str, Fidelity]
    facts: dict[str, Any]


def merge_vocabularies(
    teachers: Sequence[Vocabulary],
    *,
    languages: Mapping[str, str],
    corpora: Mapping[str, Sequence[str]] | None = None,
    convention: Convention = "bert",
    normalizer: Policy | None = None,
    pad_to: int = 1,
    max_size: int | None = None,
    watch: Watch = silent,
) -> Merged:
    """Unite vocabularies at the level of their models.

    Teachers of one family give a union of that family; several families become one Unigram. Corpora, each segmented
    by its language's teacher, calibrate it: the scores of a Unigram, the order of a BPE's merges, and the pieces that
    a WordPiece's greedy search may see. Every tenth line is held out from that and measures fidelity.

    Args:
        teachers: with different names; the first lends what no rule decides.
        languages: language code → name of the teacher that speaks it.
        corpora: language code → lines of text. Needed for Unigram and mixed unions, `max_size` and fidelity.
        convention: `bert` ([PAD] [UNK] [CLS] [SEP] [MASK]) or `roberta` (<s> <pad> </s> <unk> <mask>).
        normalizer: `keep`, `fold` or `first`, where the teachers normalize differently.
        pad_to: the size becomes a multiple of it, with placeholders at the end.
        max_size: no more rows than this, chosen so that the worst-served language is served best.
        watch: told the progress.

    Returns:
        The union.

    Raises:
        VocabularyError: normalizers conflict without a policy; a corpus language has no teacher or a language's
            teacher is not among those given; a corpus that is needed is missing or empty; no such convention.

    Example:
        >>> def tiny(name, *pieces):
        ...     specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        ...     model = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
        ...              "max_input_chars_per_word": 100, "vocab": {p: i for i, p in enumerate([*specials, *pieces])}}
        ...     return parse_vocabulary({"version": "1.0", "added_tokens": [], "normalizer": None,
        ...         "pre_tokenizer": {"type": "BertPreTokenizer"}, "post_processor": None, "decoder": None,
        ...         "model": model}, name=name)
        >>> union = merge_vocabularies([tiny("A", "a", "b"), tiny("B", "b", "c")], languages={"de": "A", "fi": "B"})
        >>> sorted(union.tokenizer["model"]["vocab"])[-3:]
        ['a', 'b', 'c']
    """
    corpora = corpora or {}
    position = _check(teachers, languages, corpora, convention, pad_to)
    steps = union_normalizer(teachers, normalizer)
    mixed = not one_family(teachers)
    if mixed or max_size is not None:
        _need_corpora(languages, corpora, "unions of several families" if mixed else "max_size")
    train = {code: _Lines(lines, _not_tenths(len(lines))) for code, lines in corpora.items()}
    held = {code: _Lines(lines, range(0, len(lines), 10)) for code, lines in corpora.items()}
    maker = UnionMaker(teachers, position, convention, steps, train, watch)
    cut: Cut = "marked"
    trials: dict[str, float] = {}
    slots = maker.slots(mixed, cut)
    if mixed and any(teacher.family == "wordpiece" for teacher in teachers):
        cut, trials = maker.try_cuts({code: held[code] or train[code] for code in held})
        slots = maker.slots(mixed, cut)
    every = slots
    if max_size is not None and len(slots) > max_size:
        slots = fit_rows(
            teachers, slots, maker.segmenters(slots), train, max_size // pad_to * pad_to
        )
    _pad(slots, pad_to)
    union = maker.calibrated(slots, mixed, cut)
    in_union_ids = {
        teacher.name: maker.renumbered(slots, number) for number, teacher in enumerate(teachers)
    }
    whole = all(
        (column >= 0).sum() == (full >= 0).sum()
        for column, full in zip(slots.of, every.of, strict=True)
    )
    opened = None if whole and not held else open_tokenizer(union, name="union")
    unknown = CONVENTIONS[convention].ids[CONVENTIONS[convention].tokens["unk"]]
    fidelity = {}
    for code, (own, rows) in maker.segmenters(slots).items():
        assert opened is not None
        fidelity[code] = compare_segmentation(
            opened, own, held[code] or train[code], rows=rows, unknown=unknown, watch=watch
        )
    digest = tokenizer_digest(union)
    maps = {
        teacher.name: _map(
            teacher, _spelled_rows(column, full, every.texts, union, opened), len(slots), digest
        )
        for teacher, column, full in zip(teachers, slots.of, every.of, strict=True)
    }
    facts = _facts(teachers, languages, slots, union, maps, mixed)
    facts |= {
        "digest": digest,
        "convention": convention,
        "normalizer": normalizer,
        "conflicts": find_conflicts(teachers),
        "notes": [
            *(unmarked(teachers) if mixed else split_differences(teachers)),
            *normalizer_notes(teachers, steps),
        ],
        "cut": cut if mixed else None,
        "trials": trials,
        "fidelity": {code: vars(one) for code, one in fidelity.items()},
        "add_tokens": added_tokens_fidelity(
            teachers, languages, {code: held[code] or train[code] for code in held}
        ),
    }
    return Merged(
        tokenizer=union,
        convention=convention,
        max_length=_max_length(teachers),
        languages=dict(languages),
        teachers=in_union_ids,
        maps=maps,
        fidelity=fidelity,
        facts=facts,
    )


class _Lines(Sequence[str]):
    """Some lines of a corpus by their numbers; the corpus, which may lie on disk, is not copied."""

    def __init__(self, corpus: Sequence[str], numbers: Sequence[int] | NDArray[np.int64]) -> None:
        self._corpus = corpus
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return _Lines(self._corpus, self._numbers[index])
        return self._corpus[int(self._numbers[index])]


def _not_tenths(count: int) -> NDArray[np.int64]:
    numbers = np.arange(count)
    return numbers[numbers % 10 > 0]


def _check(
    teachers: Sequence[Vocabulary],
    languages: Mapping[str, str],
    corpora: Mapping[str, Sequence[str]],
    convention: str,
    pad_to: int,
) -> dict[str, int]:
    """Refuse what cannot be merged; else the position of each language's teacher."""
    if convention not in CONVENTIONS:
        raise VocabularyError(f"expected convention 'bert' or 'roberta', got {convention!r}")
    if pad_to < 1:
        raise VocabularyError(f"expected pad_to of 1 or more, got {pad_to!r}")
    if not teachers:
        raise VocabularyError("nothing to merge; give at least one teacher")
    names = [teacher.name for teacher in teachers]
    if len(set(names)) < len(names):
        raise VocabularyError(f"expected teachers of different names, got {names!r}; rename one")
    for code, name in languages.items():
        if name not in names:
            raise VocabularyError(
                f"language {code!r}: its teacher {name!r} is not among {names!r}; add it or correct the name"
            )
    for code, lines in corpora.items():
        if code not in languages:
            raise VocabularyError(
                f"language {code!r} has a corpus and no teacher; name one with languages (--language {code}=TEACHER)"
            )
        if not lines:
            raise VocabularyError(f"language {code!r}: its corpus is empty; give at least one line")
    return {code: names.index(name) for code, name in languages.items()}


def _need_corpora(
    languages: Mapping[str, str], corpora: Mapping[str, Sequence[str]], what: str
) -> None:
    missing = [code for code in languages if code not in corpora]
    if missing or not languages:
        raise VocabularyError(
            f"{what} need a corpus for every language, none was given for {missing or 'any'!r}; "
            "pass corpora (--corpus CODE=FILE)"
        )


def _pad(slots: Slots, pad_to: int) -> None:
    while len(slots) % pad_to:
        slots.texts.append(placeholder(len(slots)))
        slots.roles.append("placeholder")


def _spelled_rows(
    column: NDArray[np.int64],
    full: NDArray[np.int64],
    texts: Sequence[str],
    union: Mapping[str, Any],
    opened: tokenizers.Tokenizer | None,
) -> list[list[int]]:
    """The union ids of each teacher id: its row; for a piece that was cut, how the union spells it; else none."""
    rows = [[row] if row >= 0 else [] for row in column.tolist()]
    for old in np.flatnonzero((column < 0) & (full >= 0)).tolist():
        assert opened is not None
        rows[old] = spell(texts[full[old]], union, opened)
    return rows


def _map(teacher: Vocabulary, rows: list[list[int]], size: int, digest: str) -> VocabularyMap:
    return map_of_lists(
        rows,
        student_size=size,
        teacher_digest=teacher.digest,
        student_digest=digest,
        teacher=teacher.name,
        student="union",
    )


def _max_length(teachers: Sequence[Vocabulary]) -> int | None:
    lengths = [teacher.config.get("model_max_length") for teacher in teachers]
    stated = [int(length) for length in lengths if length is not None and length < 1_000_000]
    return min(stated, default=None)


def _facts(
    teachers: Sequence[Vocabulary],
    languages: Mapping[str, str],
    slots: Slots,
    union: Mapping[str, Any],
    maps: Mapping[str, VocabularyMap],
    mixed: bool,
) -> dict[str, Any]:
    common = {row for row, role in enumerate(slots.roles) if role == "special"}
    owned = [set(column[column >= 0].tolist()) - common for column in slots.of]
    return {
        "format": "vocabulary-merge/1",
        "size": len(slots),
        "family": "unigram" if mixed else teachers[0].family,
        "mixed": mixed,
        "language_only_rows": sum(
            text == placeholder(row) and slots.roles[row] != "placeholder"
            for text, row in _pieces(union)
        ),
        "placeholder_rows": sum(role == "placeholder" for role in slots.roles),
        "teachers": [
            {
                "name": teacher.name,
                "family": teacher.family,
                "size": len(teacher),
                "digest": teacher.digest,
                "languages": [code for code, name in languages.items() if name == teacher.name],
                **maps[teacher.name].counts,
            }
            for teacher in teachers
        ],
        "shared": [[len(one & other) for other in owned] for one in owned],
    }


def _pieces(union: Mapping[str, Any]) -> list[tuple[str, int]]:
    vocab = union["model"]["vocab"]
    if isinstance(vocab, Mapping):
        return list(vocab.items())
    return [(entry[0], row) for row, entry in enumerate(vocab)]
