"""Batches of examples of similar length, and their tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from xeval.task_templates.word_tokenization import Encoded

if TYPE_CHECKING:
    import torch

IGNORED = -100


def by_length(encoded: Sequence[Encoded], *, tokens: int) -> Iterator[list[int]]:
    """Indices of examples, longest first, in batches of at most `tokens` padded sub-words (at least one example)."""
    order = sorted(range(len(encoded)), key=lambda i: (-encoded[i].length, i))
    batch: list[int] = []
    rows = longest = 0
    for i in order:
        more = len(encoded[i].rows)
        if batch and (rows + more) * longest > tokens:
            yield batch
            batch, rows = [], 0
        if not batch:
            longest = encoded[i].length
        batch.append(i)
        rows += more
    if batch:
        yield batch


def pad_rows(encoded: Sequence[Encoded], pad_id: int) -> dict[str, torch.Tensor]:
    """Tensors of a batch: `input_ids`, `attention_mask` and, where given, `token_type_ids`, all `[R, T]`."""
    import torch

    rows = [row for example in encoded for row in example.rows]
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), pad_id, dtype=torch.long)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
    tensors = {"input_ids": ids, "attention_mask": mask}
    if all(example.types is not None for example in encoded):
        types = torch.zeros_like(ids)
        for i, row in enumerate(row for example in encoded for row in example.types or []):
            types[i, : len(row)] = torch.tensor(row)
        tensors["token_type_ids"] = types
    return tensors


def place_words(encoded: Sequence[Encoded]) -> dict[str, torch.Tensor]:
    """Where the words of a batch lie in its flattened rows.

    Returns:
        `word_start` `[B, W]`, index of the first sub-word of each word in the `[R·T]` positions; `word_size` `[B, W]`,
        its number of sub-words, 0 where the sentence is shorter.
    """
    import torch

    longest = max(len(row) for example in encoded for row in example.rows)
    words = max(len(example.word_pieces) for example in encoded)
    start = torch.zeros((len(encoded), words), dtype=torch.long)
    size = torch.zeros((len(encoded), words), dtype=torch.long)
    above = 0
    for i, example in enumerate(encoded):
        pieces = torch.tensor(example.word_pieces)
        start[i, : len(pieces)] = (pieces[:, 0] + above) * longest + pieces[:, 1]
        size[i, : len(pieces)] = pieces[:, 2]
        above += len(example.rows)
    return {"word_start": start, "word_size": size}


def pad_labels(rows: Sequence[Sequence[Any]]) -> torch.Tensor:
    """Labels `[B, W]`, `IGNORED` where a row is shorter."""
    import torch

    padded = torch.full((len(rows), max(map(len, rows))), IGNORED, dtype=torch.long)
    for i, row in enumerate(rows):
        padded[i, : len(row)] = torch.tensor(row, dtype=torch.long)
    return padded
