"""How many pieces stay, by which of four rules; from counts to the choice, whatever the family."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vocabmerge.errors import VocabularyError
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
    counts: ArrayLike,
    rule: Rule,
    *,
    always: ArrayLike,
    merges: ArrayLike,
    unknown: ArrayLike = (),
    languages: Sequence[str],
) -> Choice:
    """Apply a rule.

    Args:
        counts: [L, V], of existing pieces: no holes.
        rule: the rule.
        always: what stays whatever its counts, closed over the merges [V].
        merges: ids (left, right, result) of every merge [M, 3]; none outside BPE.
        unknown: ids of unknown tokens, which cover nothing.
        languages: how messages call the rows of `counts`.

    Returns:
        The choice, ancestors included: a multiple of `rule.multiple`, or the whole vocabulary where that is less.

    Raises:
        VocabularyError: more pieces stay always than the size allows, or a coverage that cannot be met.
    """
    table = np.asarray(counts)
    pieces = table.shape[1]
    bound = None
    size = rule.top if rule.top is not None else rule.budget
    if size is not None:
        size = _round_up(size, rule.multiple, pieces)
        fair = rule.top is None
        chosen, keep, bound = choose_within(table, size, always=always, merges=merges, fair=fair)
    elif rule.coverage is not None:
        chosen = choose_by_coverage(
            table,
            rule.coverage,
            always=always,
            merges=merges,
            unknown=unknown,
            languages=languages,
        )
        keep = close_over_merges(chosen, merges)
    else:
        threshold = THRESHOLD if rule.threshold is None else rule.threshold
        chosen = choose_by_threshold(table, always=always, threshold=threshold)
        keep = close_over_merges(chosen, merges)
    if rule.multiple > 1:
        if rule.coverage is not None:
            score = -coverage_before(table, always=always, unknown=unknown).min(axis=0)
        else:
            score = unigram_probabilities(table).max(axis=0)
        size = _round_up(int(keep.sum()) if size is None else size, rule.multiple, pieces)
        keep = fill_up(keep, size, score=score, merges=merges)
    return Choice(keep=keep, ancestors=int((keep & ~chosen).sum()), bound=bound)


def _round_up(size: int, multiple: int, most: int) -> int:
    return min(math.ceil(size / multiple) * multiple, most)
