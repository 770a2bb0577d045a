"""What a model makes of rows, as a measure of importance looks at it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from bistil.encoders.capture import encoder_of

Batch = Mapping[str, Tensor]
Outputs = Callable[[Any, Batch], Tensor]
Loss = Callable[[Any, Batch], Tensor]

_POSITIONS = 512  # of a batch that is put together of single rows


def last_states(model: Any, batch: Batch) -> Tensor:
    """The last hidden states [B, S, H] of the encoder in a model, 0 at padding."""
    states: Tensor = encoder_of(model)(**batch).last_hidden_state
    return states * batch["attention_mask"][..., None]


def sentence_vectors(model: Any, batch: Batch) -> Tensor:
    """The vectors [B, D] of a `SentenceEncoder`."""
    vectors: Tensor = model(**batch)
    return vectors


def rows_together(
    blocks: Iterable[Tensor | Batch], *, pad: int, device: Any, positions: int = _POSITIONS
) -> Iterator[Batch]:
    """Batches with an attention mask: token ids [B, S] as they are, single rows [1, S] several together, padded.

    Args:
        blocks: token ids [B, S] without padding, or batches as a model takes them.
        pad: id at padding.
        device: where to.
        positions: of a batch of single rows, at most.
    """
    waiting: list[Tensor] = []
    for block in blocks:
        if isinstance(block, Tensor) and len(block) == 1:
            longest = max(row.shape[1] for row in (*waiting, block))
            if waiting and longest * (len(waiting) + 1) > positions:
                yield _padded(waiting, pad, device)
                waiting = []
            waiting.append(block)
        elif isinstance(block, Tensor):
            ids = block.to(device)
            yield {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        else:
            yield {name: tensor.to(device) for name, tensor in block.items()}
    if waiting:
        yield _padded(waiting, pad, device)


def _padded(rows: list[Tensor], pad: int, device: Any) -> Batch:
    longest = max(row.shape[1] for row in rows)
    ids = torch.full((len(rows), longest), pad)
    mask = torch.zeros_like(ids)
    for number, row in enumerate(rows):
        ids[number, : row.shape[1]] = row[0]
        mask[number, : row.shape[1]] = 1
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
