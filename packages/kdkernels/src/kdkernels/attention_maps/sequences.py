"""Padding is taken out, not masked: sequences of one length are stacked without it and computed together."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class SequenceGroup:
    """Sequences of a batch with equally many real tokens.

    Attributes:
        sequences: [G], their numbers in the batch; None for the whole batch, without padding.
        tokens: [G, n], the positions of their real tokens, ascending; None for all.
        positions: [G or 1, n], the same, always given.
    """

    sequences: Tensor | None
    tokens: Tensor | None
    positions: Tensor

    def gather(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """The group's rows of x [B, h, S, d], as [G, h, n, d]: x itself where it is the whole batch in that dtype."""
        if self.sequences is not None and self.tokens is not None:
            x = x.transpose(1, 2)[self.sequences[:, None], self.tokens].transpose(1, 2)
        return x.to(dtype)

    def scatter(self, rows: Tensor, into: Tensor) -> Tensor:
        """Put the rows [G, h, n, d] back where they came from in `into` [B, h, S, d]; returns the whole."""
        if self.sequences is None or self.tokens is None:
            return rows
        into.transpose(1, 2)[self.sequences[:, None], self.tokens] = rows.transpose(1, 2)
        return into


def groups_of_one_length(
    mask: Tensor | None, *, length: int, device: torch.device
) -> Iterator[SequenceGroup]:
    """Split a batch by its padding mask [B, S]; sequences of padding alone are in no group.

    A mask of pairs [B, S, S], like none at all, leaves the batch whole.
    """
    everywhere = torch.arange(length, device=device)[None]
    if mask is None or mask.dim() == 3 or bool(mask.all()):
        yield SequenceGroup(sequences=None, tokens=None, positions=everywhere)
        return
    lengths = mask.sum(1)
    for count in lengths.unique().tolist():
        if count:
            sequences = (lengths == count).nonzero()[:, 0]
            tokens = mask[sequences].nonzero()[:, 1].view(-1, count)
            yield SequenceGroup(sequences=sequences, tokens=tokens, positions=tokens)
