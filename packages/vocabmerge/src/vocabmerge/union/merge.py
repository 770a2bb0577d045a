"""One vocabulary out of several: the union tokenizer, its teachers in union ids, and how faithful it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vocabmerge.errors import VocabularyError
from vocabmerge.families.components import open_tokenizer
from vocabmerge.families.model import TokenizerModel
from vocabmerge.families.pieces import placeholder
from vocabmerge.families.registry import model_of
from vocabmerge.maps import VocabularyMap, map_of_lists
from vocabmerge.progress import ProgressCallback, no_progress
from vocabmerge.tokenizer_file.rewrite import tokens_outside_the_model
from vocabmerge.tokenizer_file.vocabulary import Vocabulary, tokenizer_digest
from vocabmerge.union.assemble import PreTokenization, one_family
from vocabmerge.union.build import Segmenter, UnionBuilder
from vocabmerge.union.conflicts import (
    Policy,
    find_conflicts,
    normalizer_notes,
    split_differences,
    union_normalizer,
    unmarked,
)
from vocabmerge.union.facts import union_facts
from vocabmerge.union.fidelity import Fidelity, added_tokens_fidelity, compare_segmentation
from vocabmerge.union.held_out import split_corpora
from vocabmerge.union.limit_size import limit_size
from vocabmerge.union.specials import CONVENTIONS, Convention
from vocabmerge.union.union_rows import UnionRows


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
    watch: ProgressCallback = no_progress,
) -> Merged:
    """Unite vocabularies at the level of their models.

    Pieces of several teachers that mean the same become one row, and each teacher's tokenizer is written anew in the
    rows of the union, so that MergeDistill's student (Khanuja, Johnson, Talukdar 2021, section 3) reads every language
    exactly as its teacher does, and through one vocabulary. Beside these stands one tokenizer for all languages.

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
        VocabularyError: normalizers conflict without a policy; an added token beside a model is `single_word`; a corpus language has no teacher or a language's
            teacher is not among those given; a corpus that is needed is missing or empty; no such convention.

    Example:
        >>> def tiny(name, *pieces):
        ...     vocab = dict(zip(["?", *pieces], range(9)))
        ...     return parse_vocabulary({"model": {"type": "WordPiece", "unk_token": "?", "vocab": vocab,
        ...         "continuing_subword_prefix": "##", "max_input_chars_per_word": 9}}, name=name)
        >>> union = merge_vocabularies([tiny("A", "a", "b"), tiny("B", "b", "c")], languages={"de": "A", "fi": "B"})
        >>> sorted(union.tokenizer["model"]["vocab"])[-3:]
        ['a', 'b', 'c']
        >>> union.maps["B"].one_to_one().tolist()  # ?, b, c
        [1, 6, 7]
    """
    corpora = corpora or {}
    teacher_of = _check(teachers, languages, corpora, convention, pad_to)
    normalizer_steps = union_normalizer(teachers, normalizer)
    mixed = not one_family(teachers)
    if mixed or max_size is not None:
        _need_corpora(languages, corpora, "unions of several families" if mixed else "max_size")
    training, held_out = split_corpora(corpora)
    builder = UnionBuilder(
        teachers,
        teacher_of=teacher_of,
        convention=convention,
        normalizer=normalizer_steps,
        corpora=training,
        mixed=mixed,
        watch=watch,
    )
    pre_tokenization: PreTokenization = "marked"
    trials: dict[str, float] = {}
    if mixed and any(teacher.model.isolates_punctuation for teacher in teachers):
        pre_tokenization, trials = builder.choose_pre_tokenization(held_out)
    all_rows = builder.all_rows(pre_tokenization)
    rows = all_rows
    size = len(rows) if max_size is None else max_size // pad_to * pad_to
    if len(rows) > size:
        rows = limit_size(teachers, rows, builder.segmenters(rows), training, size)
    _pad(rows, pad_to)
    union = builder.calibrated(rows, pre_tokenization)
    in_union_ids = {
        teacher.name: builder.renumbered(rows, number) for number, teacher in enumerate(teachers)
    }
    fidelity = _fidelity(union, builder.segmenters(rows), held_out, convention, watch)
    digest = tokenizer_digest(union)
    union_model = model_of(union, name="union")
    maps = {
        teacher.name: _map(
            teacher, _segmented_rows(column, full, all_rows.texts, union_model), len(rows), digest
        )
        for teacher, column, full in zip(
            teachers, rows.teacher_rows, all_rows.teacher_rows, strict=True
        )
    }
    facts = union_facts(teachers, languages, rows, union_model, maps, mixed)
    facts |= {
        "digest": digest,
        "convention": convention,
        "normalizer": normalizer,
        "conflicts": find_conflicts(teachers),
        "notes": [
            *(unmarked(teachers) if mixed else split_differences(teachers)),
            *normalizer_notes(teachers, normalizer_steps),
        ],
        "cut": pre_tokenization if mixed else None,
        "trials": trials,
        "fidelity": {code: vars(shares) for code, shares in fidelity.items()},
        "add_tokens": added_tokens_fidelity(teachers, languages, held_out),
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
    for teacher in teachers:
        for token in tokens_outside_the_model(teacher):
            if token["single_word"]:  # in a union each token is a piece, which stands in words, too
                raise VocabularyError(
                    f"{teacher.name}: its added token {token['content']!r} stands for whole words alone (single_word), which it would not "
                    "in a union; add it without single_word, or take it out"
                )
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
    languages: Mapping[str, str], corpora: Mapping[str, Sequence[str]], needed_for: str
) -> None:
    missing = [code for code in languages if code not in corpora]
    if missing or not languages:
        raise VocabularyError(
            f"{needed_for} need a corpus for every language, none was given for {missing or 'any'!r}; "
            "pass corpora (--corpus CODE=FILE)"
        )


def _pad(rows: UnionRows, pad_to: int) -> None:
    while len(rows) % pad_to:
        rows.texts.append(placeholder(len(rows)))
        rows.roles.append("placeholder")


def _fidelity(
    union: Mapping[str, Any],
    segmenters: Mapping[str, Segmenter],
    held_out: Mapping[str, Sequence[str]],
    convention: Convention,
    watch: ProgressCallback,
) -> dict[str, Fidelity]:
    if not segmenters:
        return {}
    opened = open_tokenizer(union, name="union")
    unknown = CONVENTIONS[convention].ids[CONVENTIONS[convention].tokens["unk"]]
    return {
        code: compare_segmentation(
            opened, teacher, held_out[code], rows=ids, unknown=unknown, watch=watch
        )
        for code, (teacher, ids) in segmenters.items()
    }


def _segmented_rows(
    column: NDArray[np.int64], full: NDArray[np.int64], texts: Sequence[str], union: TokenizerModel
) -> list[list[int]]:
    """The union ids of each teacher id: its row; for a piece that was cut, how the union segments it; else none."""
    rows = [[row] if row >= 0 else [] for row in column.tolist()]
    cut = np.flatnonzero((column < 0) & (full >= 0)).tolist()
    if cut:
        for old, ids in zip(cut, union.segment([texts[full[old]] for old in cut]), strict=True):
            rows[old] = ids
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
