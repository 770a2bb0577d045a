"""What a trim costs each language: tokens per word, unknown tokens, and how many lines are segmented as before."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from vocabmerge.count import batches
from vocabmerge.tokenizer_file.vocabulary import Vocabulary


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
    before: Vocabulary, after: Vocabulary, new_ids: NDArray[np.int64], lines: Iterable[str]
) -> SegmentationChange:
    """Segment lines with both vocabularies and count what changed.

    Args:
        before: the old vocabulary.
        after: the new one.
        new_ids: the new id of each old one [V_old], negative where it has none.
        lines: the text.
    """
    old_segmenter, new_segmenter = before.segmenter(), after.segmenter()
    old_unknown, new_unknown = before.special_id("unk"), after.special_id("unk")
    count = dict.fromkeys(SegmentationChange.__dataclass_fields__, 0)
    for batch in batches(lines):
        old, old_ends = _encode(old_segmenter, batch)
        new, new_ends = _encode(new_segmenter, batch)
        moved = new_ids[old]
        count["lines"] += len(batch)
        count["words"] += sum(len(line.split()) for line in batch)
        count["tokens_before"] += len(old)
        count["tokens_after"] += len(new)
        count["unknown_before"] += 0 if old_unknown is None else int((old == old_unknown).sum())
        count["unknown_after"] += 0 if new_unknown is None else int((new == new_unknown).sum())
        count["lines_unchanged"] += sum(
            np.array_equal(moved[a:b], new[c:d])
            for (a, b), (c, d) in zip(_spans(old_ends), _spans(new_ends), strict=True)
        )
    return SegmentationChange(**count)


def _encode(segmenter: Tokenizer, batch: list[str]) -> tuple[NDArray[np.int64], list[int]]:
    encodings = segmenter.encode_batch_fast(batch, add_special_tokens=False)
    rows = [encoding.ids for encoding in encodings]
    ids = np.fromiter((number for row in rows for number in row), dtype=np.int64)
    return ids, np.cumsum([len(row) for row in rows]).tolist()


def _spans(ends: list[int]) -> Iterator[tuple[int, int]]:
    return zip([0, *ends[:-1]], ends, strict=True)
