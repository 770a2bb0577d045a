"""What a union should do: the words of a language, each with its teacher's segmentation in union ids."""

from collections import Counter
from collections.abc import Iterable

import numpy as np
import tokenizers
from numpy.typing import NDArray

from vocabmerge.count import batches
from vocabmerge.families.components import segmenting
from vocabmerge.families.union_words import SegmentedWords, leading_space
from vocabmerge.union.character_spans import CharacterSpans

_MOST_WORDS = 40_000
_TOGETHER = 64


def segment_corpus_words(
    teacher: tokenizers.Tokenizer,
    rows: NDArray[np.int64],
    lines: Iterable[str],
    *,
    most: int = _MOST_WORDS,
) -> SegmentedWords:
    """Segment a language's text as its teacher does and collect its words.

    Args:
        teacher: the language's.
        rows: the union id of each of its ids [V].
        lines: text of the language.
        most: number of different words to collect.

    Returns:
        The words, each with its segmentation.
    """
    counts: Counter[str] = Counter()
    for line in lines:
        counts.update(line.split())
    words = [word for word, _ in counts.most_common(most)]
    # Words are segmented between words, not alone: some tokenizers treat the start of a text differently.
    groups = [words[first : first + _TOGETHER] for first in range(0, len(words), _TOGETHER)]
    with segmenting():
        lead = leading_space(teacher, words)
    ids, edges = [np.zeros(0, dtype=np.int64)], [np.zeros(1, dtype=np.int64)]
    for batch in batches(groups):
        text = [lead + " ".join(group) for group in batch]
        spans = CharacterSpans(text)
        with segmenting():
            encodings = teacher.encode_batch(text, add_special_tokens=False)
        tokens, starts, _ = spans.of_tokens(encodings)
        # A token belongs to the word of its first visible character.
        ends = np.searchsorted(spans.word_numbers(starts), np.arange(1, sum(map(len, batch)) + 1))
        edges.append(edges[-1][-1] + ends)
        ids.append(tokens)
    return SegmentedWords(
        words=words,
        weight=np.array([counts[word] for word in words]) / max(counts.total(), 1),
        offsets=np.concatenate(edges),
        ids=rows[np.concatenate(ids)],
    )
