"""What more lines of text would change in a trim: each half of the text chooses for the other."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from vocabmerge.trim.rule import choose, covered_shares
from vocabmerge.trim.trim import Trim


@dataclass(frozen=True, kw_only=True)
class MoreLines:
    """How much of one language's choice hangs on which lines were counted.

    Args:
        coverage_same_half: the share of a half's tokens that the pieces chosen from that half cover.
        coverage_other_half: the share that the pieces chosen from the other half cover: text that the choice has not
            seen. It is what half the lines give; all of them give no less, up to chance.
        pieces_of_one_half: how many of the language's pieces one half keeps and the other does not.
        tokens_of_one_half: the share of the language's tokens that these are.
    """

    coverage_same_half: float
    coverage_other_half: float
    pieces_of_one_half: int
    tokens_of_one_half: float

    def as_record(self) -> dict[str, Any]:
        """The same as plain values."""
        return asdict(self)


def more_lines(cut: Trim, halves: Mapping[str, ArrayLike]) -> dict[str, MoreLines]:
    """Choose again from each half of the text, by the rule of a trim, and judge on the other half.

    Where the pieces chosen from one half cover the other as well as their own, more lines would change little. Lines of
    the two halves should take turns; neighbours that resemble each other make the two halves more alike than new text is.

    Args:
        cut: the trim.
        halves: per language, how often each half of its text uses each piece [2, V].

    Returns:
        Per language, means over the two halves; none at all if a language has no token in one of its halves.

    Example:
        >>> tiny = parse_vocabulary({"added_tokens": [], "model": {"type": "WordPiece", "unk_token": "[UNK]",
        ...     "continuing_subword_prefix": "##", "max_input_chars_per_word": 9,
        ...     "vocab": {"[UNK]": 0, "a": 1, "##b": 2, "ab": 3, "abb": 4}}}, name="tiny")
        >>> halves = {"en": [[0, 2, 1, 5, 0], [0, 2, 1, 3, 2]]}
        >>> more_lines(trim_vocabulary(tiny, {"en": np.sum(halves["en"], axis=0)}), halves)["en"].coverage_other_half
        0.875
    """
    table = np.stack([np.asarray(row, dtype=np.int64) for row in halves.values()], axis=1)
    if not table.any(axis=2).all():
        return {}
    keep = [
        choose(cut.before, half, cut.asked, always=cut.forced, in_scripts=cut.in_scripts).keep
        for half in table
    ]
    same = [covered_shares(cut.before, table[half], keep[half]) for half in (0, 1)]
    other = [covered_shares(cut.before, table[half], keep[1 - half]) for half in (0, 1)]
    both = table.sum(axis=0)
    moved = keep[0] ^ keep[1]
    return {
        language: MoreLines(
            coverage_same_half=float(np.mean([shares[number] for shares in same])),
            coverage_other_half=float(np.mean([shares[number] for shares in other])),
            pieces_of_one_half=int((moved & (both[number] > 0)).sum()),
            tokens_of_one_half=float(both[number, moved].sum() / both[number].sum()),
        )
        for number, language in enumerate(halves)
    }
