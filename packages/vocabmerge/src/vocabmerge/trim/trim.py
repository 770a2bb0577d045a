"""Cuts a vocabulary down to what some languages need, without changing what the kept pieces do."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vocabmerge.errors import VocabularyError
from vocabmerge.maps import VocabularyMap
from vocabmerge.tokenizer_file.rewrite import rewrite_tokenizer
from vocabmerge.tokenizer_file.vocabulary import Vocabulary, vocabulary_of
from vocabmerge.trim.characters import (
    CHARACTER_RULES,
    CharacterRule,
    Characters,
    choose_characters,
    describe_characters,
    pieces_in_scripts,
)
from vocabmerge.trim.choose_pieces import close_over_merges
from vocabmerge.trim.id_map import map_after_trim
from vocabmerge.trim.rule import Rule, choose, covered_shares, known_pieces

KNOWN_SHARE = 0.95
"""A vocabulary that knows less of a language's tokens does not write it; no coverage is asked of it beyond that."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CutVocabulary:
    """A vocabulary cut down.

    Args:
        before: the vocabulary that was cut.
        kept: old id of each new id [V_new], ascending: kept pieces keep their order.
        tokenizer: the parsed `tokenizer.json` of the result.
    """

    before: Vocabulary
    kept: NDArray[np.int64] = field(repr=False)
    tokenizer: dict[str, Any] = field(repr=False)

    @cached_property
    def after(self) -> Vocabulary:
        """The result, read back."""
        return vocabulary_of(  # what is made of the library's form has it
            self.tokenizer, name=f"{self.before.name}-trimmed", config=self.before.config
        )

    @property
    def new_ids(self) -> NDArray[np.int64]:
        """The new id of each old one [V_old], -1 where it went."""
        new = np.full(len(self.before), -1, dtype=np.int64)
        new[self.kept] = np.arange(len(self.kept))
        return new

    @cached_property
    def map(self) -> VocabularyMap:
        """Old id → new ids: one for a kept piece; for a dropped one, how kept pieces spell it."""
        return map_after_trim(self.before, self.after, self.new_ids)


@dataclass(frozen=True, kw_only=True, eq=False)
class Trim(CutVocabulary):
    """A vocabulary cut down by a rule.

    Args:
        before: the vocabulary that was cut.
        kept: old id of each new id [V_new], ascending: kept pieces keep their order.
        tokenizer: the parsed `tokenizer.json` of the result.
        rule: the rule and its number, in words.
        asked: the rule itself.
        forced: what stayed whatever its counts [V_old].
        in_scripts: under a rule with a size, the pieces whose letters are of the languages' scripts [V_old].
        always: how many pieces that are.
        ancestors: how many stayed only because BPE needs them on its way to others.
        coverage: per language, the share of the counted tokens whose piece stayed, of those that are known.
        bound: under the fair rule, what no choice of the size can exceed in its worst language; else None.
        characters: which single characters stayed whatever their counts, and what each choice of them costs.
    """

    rule: str
    asked: Rule
    forced: NDArray[np.bool_] = field(repr=False)
    in_scripts: NDArray[np.bool_] = field(repr=False)
    always: int
    ancestors: int
    coverage: Mapping[str, float]
    bound: float | None
    characters: Characters


def trim_vocabulary(
    vocabulary: Vocabulary,
    counts: Mapping[str, ArrayLike],
    *,
    threshold: float | None = None,
    top: int | None = None,
    budget: int | None = None,
    coverage: float | None = None,
    multiple: int = 1,
    characters: CharacterRule = "scripts",
    seen: Mapping[str, Mapping[str, int]] | None = None,
    protect: Iterable[int] = (),
) -> Trim:
    """Keep the pieces that the languages need, number them densely in their old order, and rewrite the tokenizer.

    BiStil's rule (Ansell, Ponti, Korhonen, Vulić 2023): a piece i stays if `max over languages l of p[l, i] ≥ threshold`,
    where `p[l, i] = counts[l, i] / Σ_j counts[l, j]` is its unigram probability in l.

    Special and added tokens, byte pieces, the characters that the text has and those of the scripts that it is written in
    stay whatever their counts; so does the lowest-scored piece of a Unigram vocabulary, from which the cost of an unknown
    character derives; so do the ancestors of every kept BPE piece. Text whose pieces all stay is segmented as before.

    Args:
        vocabulary: what to cut.
        counts: per language, how often its corpus uses each piece [V]; see `count_pieces`.
        threshold: BiStil's rule, the default with 1e-6: keep a piece if some language's unigram probability of it
            reaches this.
        top: keep this many, by the greatest probability in any language.
        budget: keep this many, chosen so that the worst-served language is served best; see `choose_fair`.
        coverage: keep, for every language, its most frequent pieces until they are this share of its tokens that are known.
        multiple: round the number of pieces up to a multiple of this, with the pieces that come next by the rule.
        characters: `scripts` keeps the characters of every script with a hundredth of a language's letters, and those
            seen; `seen` only those; `all` every single character of the vocabulary.
        seen: per language, how often its text has each character, see `count_characters`; by default what the used pieces
            spell, which does not show the characters of unknown words.
        protect: further ids that stay, such as those that a model's config names.

    Returns:
        The cut. Under `top` and `budget` never more pieces than asked for, rounded up to the multiple, BPE ancestors
        included. A vocabulary that has no more pieces stays whole, whatever the multiple.

    Raises:
        VocabularyError: two rules at once, counts of another length, an empty language, a size below what must stay, or
            a coverage that cannot be met because too many tokens are unknown.

    Example:
        >>> vocabulary = parse_vocabulary({"added_tokens": [], "model": {"type": "WordPiece", "unk_token": "[UNK]",
        ...     "continuing_subword_prefix": "##", "max_input_chars_per_word": 9,
        ...     "vocab": {"[UNK]": 0, "a": 1, "##b": 2, "ab": 3, "abb": 4}}}, name="tiny")
        >>> trim_vocabulary(vocabulary, {"en": [0, 0, 1, 5, 0]}).tokenizer["model"]["vocab"]
        {'[UNK]': 0, 'a': 1, '##b': 2, 'ab': 3}
    """
    rule = Rule(threshold=threshold, top=top, budget=budget, coverage=coverage, multiple=multiple)
    table = _count_table(vocabulary, counts)
    _refuse_unreachable(vocabulary, list(counts), table, coverage)
    _refuse_characters(characters, list(counts), seen)
    choices = choose_characters(vocabulary, dict(zip(counts, table, strict=True)), seen=seen)
    always = close_over_merges(
        _always(vocabulary, protect) | choices.keep[characters], vocabulary.model.merge_ids()
    )
    in_scripts = np.zeros(len(vocabulary), dtype=bool)
    if rule.has_size:
        scripts = {script for shares in choices.scripts.values() for script in shares}
        in_scripts = pieces_in_scripts(vocabulary, scripts)
    choice = choose(vocabulary, table, rule, always=always, in_scripts=in_scripts)
    kept = np.flatnonzero(choice.keep)
    new_ids = np.full(len(vocabulary), -1, dtype=np.int64)
    new_ids[kept] = np.arange(len(kept))
    shares = covered_shares(vocabulary, table, choice.keep).tolist()
    return Trim(
        before=vocabulary,
        kept=kept,
        tokenizer=rewrite_tokenizer(vocabulary, new_ids),
        rule=str(rule),
        asked=rule,
        forced=always,
        in_scripts=in_scripts,
        always=int(always.sum()),
        ancestors=choice.ancestors,
        coverage=dict(zip(counts, shares, strict=True)),
        bound=choice.bound,
        characters=describe_characters(
            vocabulary, choices, characters, used=table.sum(axis=0) > 0, kept=choice.keep
        ),
    )


def _count_table(vocabulary: Vocabulary, counts: Mapping[str, ArrayLike]) -> NDArray[np.int64]:
    rows = []
    for language, row in counts.items():
        array = np.asarray(row, dtype=np.int64)
        if array.shape != (len(vocabulary),):
            raise VocabularyError(
                f"language {language!r}: expected counts of {len(vocabulary)} pieces of {vocabulary.name}, "
                f"got shape {array.shape}"
            )
        if not array.any():
            raise VocabularyError(f"language {language!r}: its corpus has no token")
        rows.append(array)
    if not rows:
        raise VocabularyError("expected the counts of at least one language, got none")
    return np.stack(rows)


def _always(vocabulary: Vocabulary, protect: Iterable[int]) -> NDArray[np.bool_]:
    forced = np.zeros(len(vocabulary), dtype=bool)
    forced[vocabulary.having("special", "added", "byte")] = True
    forced[vocabulary.model.indispensable()] = True
    for number in protect:
        if 0 <= number < len(vocabulary) and vocabulary.roles[number] != "hole":
            forced[number] = True
    return forced


def _refuse_unreachable(
    vocabulary: Vocabulary,
    languages: Sequence[str],
    table: NDArray[np.int64],
    coverage: float | None,
) -> None:
    known = table[:, known_pieces(vocabulary)].sum(axis=1) / table.sum(axis=1)
    least = int(known.argmin())
    if coverage is not None and known[least] < min(coverage, KNOWN_SHARE):
        raise VocabularyError(
            f"language {languages[least]!r}: expected a coverage that can be met, got {coverage:g}, but "
            f"{1 - known[least]:.3%} of its tokens are unknown to {vocabulary.name}; "
            f"ask for {math.floor(known[least] * 1e6) / 1e6:g} or less"
        )


def _refuse_characters(
    rule: str, languages: Sequence[str], seen: Mapping[str, Mapping[str, int]] | None
) -> None:
    if rule not in CHARACTER_RULES:
        raise VocabularyError(
            f"expected characters to be one of {', '.join(CHARACTER_RULES)}, got {rule!r}"
        )
    if seen is not None and set(seen) != set(languages):
        raise VocabularyError(
            f"expected the characters of {', '.join(languages)}, got those of {', '.join(seen) or 'no language'}"
        )
