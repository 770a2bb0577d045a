"""Named entities in strict IOB2: spans, and counts for F1."""

from collections.abc import Sequence

Span = tuple[int, int, str]


def spans_of(tags: Sequence[str]) -> set[Span]:
    """The entities of a tag sequence, strictly: one begins at B- and goes on through I- of its type.

    An I- without a B- or I- of its type before it begins nothing, as in seqeval's strict IOB2 mode.

    Args:
        tags: "O", "B-TYPE" or "I-TYPE".

    Returns:
        (first word, word after the last, type) of each.

    Example:
        >>> sorted(spans_of(["B-PER", "I-PER", "O", "I-LOC", "B-LOC"]))
        [(0, 2, 'PER'), (4, 5, 'LOC')]
    """
    spans: set[Span] = set()
    start, kind = -1, ""
    for i, tag in enumerate([*tags, "O"]):
        if start >= 0 and tag != f"I-{kind}":
            spans.add((start, i, kind))
            start = -1
        if tag.startswith("B-"):
            start, kind = i, tag[2:]
    return spans


def entity_counts(gold: Sequence[str], guess: Sequence[str]) -> tuple[int, int, int]:
    """True positives, false positives and false negatives of one sentence; a span counts with its exact ends and type."""
    assert len(gold) == len(guess)
    gold_spans, guessed_spans = spans_of(gold), spans_of(guess)
    return (
        len(gold_spans & guessed_spans),
        len(guessed_spans - gold_spans),
        len(gold_spans - guessed_spans),
    )


def is_iob2(tags: Sequence[str]) -> bool:
    """Whether every I- continues an entity of its type."""
    before = "O"
    for tag in tags:
        if tag != "O" and tag[:2] not in {"B-", "I-"}:
            return False
        if tag.startswith("I-") and before[2:] != tag[2:]:
            return False
        before = tag
    return True
