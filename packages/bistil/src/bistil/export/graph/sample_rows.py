"""Rows of ids that a graph is traced on and compared with torch on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bistil.export.graph.graph import Graph
from bistil.export.graph.pooled import INPUTS


def sample_rows(graph: Graph, lengths: Sequence[int]) -> tuple[Tensor, ...]:
    """A batch of rows of ids drawn from the whole vocabulary between the specials that the tokenizer puts around texts.

    Args:
        graph: what reads them.
        lengths: tokens of each row, at least as many as specials; shorter rows are padded.

    Returns:
        In the order of the graph's inputs, [rows, longest], and for a parser the places of words.
    """
    tokenizer = graph.tokenizer
    random = torch.Generator().manual_seed(sum(lengths))
    # The RoBERTa family counts positions from what is not padding.
    pad = tokenizer.pad_token_id or 0
    ids = torch.full((len(lengths), max(lengths)), pad)
    mask, types = torch.zeros_like(ids), torch.zeros_like(ids)
    specials = tokenizer("")["input_ids"]
    for row, length in enumerate(lengths):
        drawn = torch.randint(graph.pieces - 1, (max(0, length - len(specials)),), generator=random)
        drawn += drawn >= pad
        text = [*specials[:1], *drawn.tolist(), *specials[1:]]
        mask[row, :length] = 1
        ids[row, :length] = torch.tensor(text[:length])
        types[row, (length + 1) // 2 : length] = 1
    named = {**dict(zip(INPUTS, (ids, mask, types), strict=True)), **_places(mask)}
    return tuple(named[name] for name in graph.inputs)


def _places(mask: Tensor) -> dict[str, Tensor]:
    """Words of two sub-words behind each row's first; the last row goes on with the sentence of the one before."""
    rows, tokens = mask.shape
    sentences = max(1, rows - 1)
    start = torch.arange(1, tokens - 1, 2) + tokens * torch.arange(sentences)[:, None]
    size = 1 + mask[:sentences, 2::2][:, : start.shape[1]]
    size[mask[:sentences, 1:-1:2] == 0] = 0
    if rows > 1:
        start[-1, -1] = (rows - 1) * tokens + 1
        size[-1, -1] = 2
    return {"word_start": start, "word_size": size}
