"""What a trim costs each language: tokens per word, unknown tokens, and how many lines are segmented as before."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from vocabmerge.tokenizer_file.vocabulary import Vocabulary
from vocabmerge.trim.segmented_text import SegmentedText, segment


@dataclass(frozen=True, kw_only=True)
class SegmentationChange:
    """One language's text, segmented before and after.

    Args:
        lines: how many lines were read.
        words: stretches between white space in them.
        lines_unchanged: lines segmented into the same pieces as before.
        tokens_before: tokens under the old vocabulary.
        tokens_after: tokens under the new one.
        unknown_before: unknown tokens among them.
        unknown_after: unknown tokens among them.
    """

    lines: int
    words: int
    lines_unchanged: int
    tokens_before: int
    tokens_after: int
    unknown_before: int
    unknown_after: int

    def as_record(self) -> dict[str, Any]:
        """The counts, and the rates that people ask for."""
        return {
            **asdict(self),
            "unchanged": self.lines_unchanged / max(self.lines, 1),
            "tokens_per_word_before": self.tokens_before / max(self.words, 1),
            "tokens_per_word_after": self.tokens_after / max(self.words, 1),
            "unknown_rate_before": self.unknown_before / max(self.tokens_before, 1),
            "unknown_rate_after": self.unknown_after / max(self.tokens_after, 1),
        }


def segmentation_change(
    text: SegmentedText,
    before: Vocabulary,
    after: Vocabulary,
    new_ids: NDArray[np.int64],
    *,
    segmenter: Tokenizer | None = None,
) -> SegmentationChange:
    """Segment with the new vocabulary the lines that it may cut otherwise, and count what changed.

    A line whose pieces all stayed, none of them unknown, is cut as before; `trim_vocabulary` says why. An unknown
    token may come apart into pieces where WordPiece no longer finds the longer one that led it astray.

    Args:
        text: segmented by the old vocabulary.
        before: the old vocabulary.
        after: what `trim_vocabulary` made of it.
        new_ids: the new id of each old one [V_old], negative where it has none.
        segmenter: of the new one, where it is open already.
    """
    segmenter = segmenter or after.segmenter()
    old_unknown, new_unknown = before.special_id("unk"), after.special_id("unk")
    settled = new_ids >= 0
    if old_unknown is not None:
        settled[old_unknown] = False
    unchanged = tokens_after = unknown_after = 0
    for lines, old, lengths in text.batches():
        ends = np.cumsum(lengths)
        starts = ends - lengths
        open_before = np.concatenate([[0], np.cumsum(~settled[old])])
        again = np.flatnonzero(open_before[ends] > open_before[starts])
        new, new_lengths = segment(segmenter, [lines[number] for number in again.tolist()])
        new_ends = np.cumsum(new_lengths, dtype=np.int64)
        moved = new_ids[old]
        unchanged += len(lines) - len(again)
        unchanged += sum(
            np.array_equal(moved[starts[number] : ends[number]], new[end - length : end])
            for number, end, length in zip(again, new_ends, new_lengths, strict=True)
        )
        tokens_after += int(lengths.sum() - lengths[again].sum()) + len(new)
        unknown_after += 0 if new_unknown is None else int((new == new_unknown).sum())
    return SegmentationChange(
        lines=text.lines,
        words=text.words,
        lines_unchanged=unchanged,
        tokens_before=int(text.counts.sum()),
        tokens_after=tokens_after,
        unknown_before=0 if old_unknown is None else int(text.counts[old_unknown]),
        unknown_after=unknown_after,
    )
