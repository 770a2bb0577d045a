"""How many pieces stay, by which of four rules; from counts to the choice, whatever the family."""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vocabmerge.errors import VocabularyError
from vocabmerge.tokenizer_file.vocabulary import Vocabulary
from vocabmerge.trim.choose_pieces import (
    THRESHOLD,
    choose_by_coverage,
    choose_by_threshold,
    choose_within,
    close_over_merges,
    coverage_before,
    fill_up,
)
from vocabmerge.trim.probabilities import unigram_probabilities


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One of four rules, and what the number of pieces is rounded up to.

    Args:
        threshold: keep a piece if some language uses it with this probability; the rule where none is given, with 1e-6.
        top: keep this many, by the greatest probability in any language.
        budget: keep this many, chosen so that the worst-served language is served best.
        coverage: keep each language's most frequent pieces until they are this share of its tokens.
        multiple: round the number of pieces up to a multiple of this with the next best ones.

    Raises:
        VocabularyError: two rules at once, or a number out of range.
    """

    threshold: float | None = None
    top: int | None = None
    budget: int | None = None
    coverage: float | None = None
    multiple: int = 1

    def __post_init__(self) -> None:
        rules = ("threshold", "top", "budget", "coverage")
        given = [name for name in rules if getattr(self, name) is not None]
        if len(given) > 1:
            raise VocabularyError(
                f"expected one rule of threshold, top, budget and coverage, got {' and '.join(given)}"
            )
        if self.multiple < 1:
            raise VocabularyError(f"expected a multiple of 1 or more, got {self.multiple!r}")
        if self.coverage is not None and not 0 < self.coverage <= 1:
            raise VocabularyError(
                f"expected a coverage above 0 and at most 1, such as 0.99, got {self.coverage!r}"
            )

    @property
    def has_size(self) -> bool:
        """Whether the number of pieces is settled by more than what the languages use."""
        return self.top is not None or self.budget is not None or self.multiple > 1

    def __str__(self) -> str:
        if self.top is not None:
            words = f"top {self.top}"
        elif self.budget is not None:
            words = f"fair budget of {self.budget}"
        elif self.coverage is not None:
            words = f"coverage of at least {self.coverage:g} of every language's tokens"
        else:
            threshold = THRESHOLD if self.threshold is None else self.threshold
            words = f"probability of at least {threshold:g} in some language"
        return (
            words if self.multiple == 1 else f"{words}, rounded up to a multiple of {self.multiple}"
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Choice:
    """Which pieces stay.

    Args:
        keep: the choice [V].
        ancestors: how many of them stay only because BPE needs them on its way to others.
        bound: under the fair rule, what no choice of the size can exceed in its worst language; else None.
    """

    keep: NDArray[np.bool_]
    ancestors: int
    bound: float | None


def choose(
    vocabulary: Vocabulary,
    counts: NDArray[np.int64],
    rule: Rule,
    *,
    always: NDArray[np.bool_],
    in_scripts: NDArray[np.bool_],
) -> Choice:
    """Apply a rule.

    Where a size leaves room for pieces that no language uses, those come first whose letters are of the languages'
    scripts, in the order of the vocabulary: what a text happens not to use is most often among them.

    Args:
        vocabulary: whose pieces.
        counts: how often each language uses each piece [L, V].
        rule: the rule.
        always: what stays whatever its counts, closed over the merges [V].
        in_scripts: pieces whose letters are of the scripts that the languages are written in [V].

    Returns:
        The choice, ancestors included: a multiple of `rule.multiple`, or the whole vocabulary where that is less.

    Raises:
        VocabularyError: more pieces stay always than the size allows.
    """
    live = np.flatnonzero([role != "hole" for role in vocabulary.roles])
    if rule.has_size:
        # Of equals, every rule takes the one that stands before the other.
        last = (counts[:, live].sum(axis=0) == 0) & ~in_scripts[live]
        live = live[np.argsort(last, kind="stable")]
    place = np.full(len(vocabulary), -1, dtype=np.int64)
    place[live] = np.arange(len(live))
    unknown = vocabulary.special_id("unk")
    choice = _choose(
        counts[:, live],
        rule,
        always=always[live],
        merges=place[vocabulary.model.merge_ids()],
        unknown=[] if unknown is None else [int(place[unknown])],
    )
    keep = np.zeros(len(vocabulary), dtype=bool)
    keep[live] = choice.keep
    return replace(choice, keep=keep)


def covered_shares(
    vocabulary: Vocabulary, counts: ArrayLike, keep: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """The share of each language's tokens whose piece stays [L], of those that the vocabulary knows.

    Args:
        vocabulary: whose pieces.
        counts: how often each language uses each piece [L, V].
        keep: the choice [V].
    """
    known = known_pieces(vocabulary)
    table = np.asarray(counts)
    # In whole numbers, so that all is 1.
    shares: NDArray[np.float64] = table[:, keep & known].sum(axis=1) / np.maximum(
        table[:, known].sum(axis=1), 1
    )
    return shares


def known_pieces(vocabulary: Vocabulary) -> NDArray[np.bool_]:
    """All pieces but the unknown token [V]."""
    known = np.ones(len(vocabulary), dtype=bool)
    unknown = vocabulary.special_id("unk")
    if unknown is not None:
        known[unknown] = False
    return known


def _choose(
    counts: NDArray[np.int64],
    rule: Rule,
    *,
    always: NDArray[np.bool_],
    merges: NDArray[np.int64],
    unknown: list[int],
) -> Choice:
    bound = None
    size = rule.top if rule.top is not None else rule.budget
    if size is not None:
        size = _round_up(size, rule.multiple, len(always))
        fair = rule.top is None
        chosen, keep, bound = choose_within(counts, size, always=always, merges=merges, fair=fair)
    elif rule.coverage is not None:
        chosen = choose_by_coverage(
            counts, rule.coverage, always=always, merges=merges, unknown=unknown
        )
        keep = close_over_merges(chosen, merges)
    else:
        threshold = THRESHOLD if rule.threshold is None else rule.threshold
        chosen = choose_by_threshold(counts, always=always, threshold=threshold)
        keep = close_over_merges(chosen, merges)
    ancestors = int((keep & ~chosen).sum())
    if rule.multiple > 1:
        if rule.coverage is not None:
            score = -coverage_before(counts, always=always, unknown=unknown).min(axis=0)
        else:
            score = unigram_probabilities(counts).max(axis=0)
        size = _round_up(int(keep.sum()) if size is None else size, rule.multiple, len(always))
        keep = fill_up(keep, size, score=score, merges=merges)
    return Choice(keep=keep, ancestors=ancestors, bound=bound)


def _round_up(size: int, multiple: int, most: int) -> int:
    return min(math.ceil(size / multiple) * multiple, most)
