"""Cuts a vocabulary down to what some languages need, without changing what the kept pieces do."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vocabmerge.errors import VocabularyError
from vocabmerge.maps import VocabularyMap
from vocabmerge.tokenizer_file.rewrite import rewrite_tokenizer
from vocabmerge.tokenizer_file.vocabulary import Vocabulary, vocabulary_of
from vocabmerge.trim.choose_pieces import (
    THRESHOLD,
    choose_by_threshold,
    choose_within,
    close_over_merges,
)
from vocabmerge.trim.id_map import map_after_trim
from vocabmerge.trim.probabilities import unigram_probabilities


@dataclass(frozen=True, kw_only=True, eq=False)
class Trim:
    """A vocabulary cut down.

    Args:
        before: the vocabulary that was cut.
        kept: old id of each new id [V_new], ascending: kept pieces keep their order.
        tokenizer: the parsed `tokenizer.json` of the result.
        rule: the rule and its number, in words.
        always: how many pieces stayed whatever their counts.
        ancestors: how many stayed only because BPE needs them on its way to others.
        coverage: per language, the share of the counted tokens whose piece stayed.
        bound: under the fair rule, what no choice of the size can exceed in its worst language; else None.
    """

    before: Vocabulary
    kept: NDArray[np.int64] = field(repr=False)
    tokenizer: dict[str, Any] = field(repr=False)
    rule: str
    always: int
    ancestors: int
    coverage: Mapping[str, float]
    bound: float | None

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


def trim_vocabulary(
    vocabulary: Vocabulary,
    counts: Mapping[str, ArrayLike],
    *,
    threshold: float | None = None,
    top: int | None = None,
    budget: int | None = None,
    protect: Iterable[int] = (),
) -> Trim:
    """Keep the pieces that the languages need, number them densely in their old order, and rewrite the tokenizer.

    BiStil's rule (Ansell, Ponti, Korhonen, Vulić 2023): a piece i stays if `max over languages l of p[l, i] ≥ threshold`,
    where `p[l, i] = counts[l, i] / Σ_j counts[l, j]` is its unigram probability in l.

    Special and added tokens, byte pieces and single characters stay whatever their counts; so does the lowest-scored
    piece of a Unigram vocabulary, from which the cost of an unknown character derives; so do the ancestors of every
    kept BPE piece. Text whose pieces all stay is segmented as before.

    Args:
        vocabulary: what to cut.
        counts: per language, how often its corpus uses each piece [V]; see `count_pieces`.
        threshold: BiStil's rule, the default with 1e-6: keep a piece if some language's unigram probability of it
            reaches this.
        top: keep this many, by the greatest probability in any language.
        budget: keep this many, chosen so that the worst-served language is served best; see `choose_fair`.
        protect: further ids that stay, such as those that a model's config names.

    Returns:
        The cut. Under `top` and `budget` never more pieces than asked for, BPE ancestors included.

    Raises:
        VocabularyError: two rules at once, counts of another length, an empty language, or a size below what must stay.

    Example:
        >>> vocabulary = parse_vocabulary({"added_tokens": [], "model": {"type": "WordPiece", "unk_token": "[UNK]",
        ...     "continuing_subword_prefix": "##", "max_input_chars_per_word": 9,
        ...     "vocab": {"[UNK]": 0, "a": 1, "##b": 2, "ab": 3, "abb": 4}}}, name="tiny")
        >>> trim_vocabulary(vocabulary, {"en": [0, 0, 1, 5, 0]}).tokenizer["model"]["vocab"]
        {'[UNK]': 0, 'a': 1, '##b': 2, 'ab': 3}
    """
    given = [name for name, value in (("threshold", threshold), ("top", top), ("budget", budget)) if value is not None]  # fmt: skip
    if len(given) > 1:
        raise VocabularyError(
            f"expected one rule of threshold, top and budget, got {' and '.join(given)}"
        )
    table = _count_table(vocabulary, counts)
    merges = vocabulary.model.merge_ids()
    always = close_over_merges(_always(vocabulary, protect), merges)
    live = np.array([role != "hole" for role in vocabulary.roles])
    bound = None
    if top is not None or budget is not None:
        size = min(int(top or budget or 0), int(live.sum()))
        chosen, closed = np.zeros_like(live), np.zeros_like(live)
        chosen[live], closed[live], bound = choose_within(
            table[:, live],
            size,
            always=always[live],
            merges=(np.cumsum(live) - 1)[merges],
            fair=top is None,
        )
        rule = f"top {top}" if top is not None else f"fair budget of {budget}"
    else:
        threshold = THRESHOLD if threshold is None else threshold
        chosen = choose_by_threshold(table, always=always, threshold=threshold) & live
        closed = close_over_merges(chosen, merges)
        rule = f"probability of at least {threshold:g} in some language"
    kept = np.flatnonzero(closed)
    new_ids = np.full(len(vocabulary), -1, dtype=np.int64)
    new_ids[kept] = np.arange(len(kept))
    coverage = unigram_probabilities(table)[:, kept].sum(axis=1)
    return Trim(
        before=vocabulary,
        kept=kept,
        tokenizer=rewrite_tokenizer(vocabulary, new_ids),
        rule=rule,
        always=int(always.sum()),
        ancestors=int(closed.sum() - chosen.sum()),
        coverage=dict(zip(counts, coverage.tolist(), strict=True)),
        bound=bound,
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
    forced[vocabulary.having("special", "added", "byte", "character")] = True
    forced[vocabulary.model.indispensable()] = True
    for number in protect:
        if 0 <= number < len(vocabulary) and vocabulary.roles[number] != "hole":
            forced[number] = True
    return forced
