"""Predictions of a teacher: batches by token budget, the head on masked rows only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from teacherzoo.encoders.predictions import Predictions, predict
from teacherzoo.encoders.samples import draw_ids
from teacherzoo.encoders.teachers import Teacher
from teacherzoo.errors import TeacherError
from teacherzoo.processes import own_device

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True, slots=True)
class MaskedBlock:
    """A block of text with masks, and the positions to predict.

    Attributes:
        input_ids: [S], with masks.
        positions: [P], ascending, at least one.
        wanted: [P, W], ids whose log-probabilities are asked for, the gold ones first.
        name: for messages: language and document.
        sample_keys: [P], which seed the ids that are drawn there; needed where some are.
    """

    input_ids: NDArray[np.uint32]
    positions: NDArray[np.int64]
    wanted: NDArray[np.int64]
    name: str
    sample_keys: NDArray[np.uint64] | None = None


class Engine(Protocol):
    """How a teacher's forward pass runs: in this process, or shared among several."""

    def hidden_rows(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, cells: torch.Tensor
    ) -> torch.Tensor:
        """[N, H] after the head's transform, in float32, for the flat cells [N] of a batch [B, S]."""

    def decoder(self) -> AbstractContextManager[tuple[torch.Tensor, torch.Tensor | None]]:
        """Weight [V, H] and bias [V] in float32, whole for as long as the context lasts."""

    def finish(self) -> None:
        """Called when this process has nothing left to predict; engines that share work go on helping the others."""


class PlainEngine:
    """The teacher in this process, which moves to the device.

    Args:
        teacher: that predicts.
        precision: of the encoder.
        device: by default `own_device()`.
    """

    def __init__(
        self,
        teacher: Teacher,
        *,
        precision: Precision = "float32",
        device: torch.device | None = None,
    ) -> None:
        self._device = own_device() if device is None else device
        teacher.model.to(self._device)
        self._head = teacher.masked_lm
        self._autocast = precision == "bfloat16"

    def hidden_rows(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, cells: torch.Tensor
    ) -> torch.Tensor:
        """See `Engine`."""
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._autocast):
            output = self._head.encoder(
                input_ids=input_ids.to(self._device), attention_mask=attention_mask.to(self._device)
            )
            hidden = output.last_hidden_state.flatten(0, 1)[cells.to(self._device)]
            return self._head.transform(hidden).float()

    def decoder(self) -> AbstractContextManager[tuple[torch.Tensor, torch.Tensor | None]]:
        """See `Engine`."""
        # Parameters may have moved to the device; tied ones are the model's own.
        return nullcontext((self._head.weight, self._head.bias))

    def finish(self) -> None:
        """See `Engine`; nothing is shared here."""


@torch.no_grad()
def predict_blocks(
    engine: Engine,
    blocks: Sequence[MaskedBlock],
    *,
    pad: int,
    token_budget: int,
    k: int | None,
    temperatures: Sequence[float],
    draws: int | None = None,
    report: Callable[[int], None] = lambda *_: None,
) -> Predictions:
    """The teacher's predictions at the positions of all blocks, in their order.

    Blocks of like length share a batch, and a batch holds at most `token_budget` tokens, padding included. Which blocks
    meet depends on nothing but the blocks, so the same list always gives the same bits at the same number of threads.

    Args:
        engine: runs the teacher.
        blocks: of any lengths, at least one.
        pad: id that fills up.
        token_budget: most tokens in a batch; a single longer block is a batch of its own.
        k: ids to keep; None where ids are drawn.
        temperatures: for which partitions are wanted; at most one, at which ids are drawn.
        draws: ids to draw at each position.
        report: told the number of tokens after each batch.

    Raises:
        TeacherError: where the teacher's logits are not finite, naming the document.
    """
    parts: list[Predictions] = []
    asked: list[int] = []
    for batch in batches([len(block.input_ids) for block in blocks], token_budget):
        members = [blocks[index] for index in batch]
        predictions = _predict_batch(engine, members, pad, k, temperatures, draws)
        _refuse_infinite(predictions, members)
        parts.append(predictions)
        asked += batch
        report(sum(len(block.input_ids) for block in members))
    return _in_order(parts, asked, np.array([len(block.positions) for block in blocks]))


def batches(lengths: Sequence[int], token_budget: int) -> Iterator[list[int]]:
    """Indices by length, longest first, cut where padding to the longest would pass the budget."""
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    batch: list[int] = []
    for index in order:
        if batch and lengths[batch[0]] * (len(batch) + 1) > token_budget:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _predict_batch(
    engine: Engine,
    members: list[MaskedBlock],
    pad: int,
    k: int | None,
    temperatures: Sequence[float],
    draws: int | None,
) -> Predictions:
    width = len(members[0].input_ids)
    input_ids = torch.full((len(members), width), pad, dtype=torch.int64)
    attention_mask = torch.zeros(len(members), width, dtype=torch.int64)
    for row, block in enumerate(members):
        length = len(block.input_ids)
        input_ids[row, :length] = torch.from_numpy(block.input_ids.astype(np.int64))
        attention_mask[row, :length] = 1
    cells = np.concatenate([block.positions + row * width for row, block in enumerate(members)])
    wanted = torch.from_numpy(np.concatenate([block.wanted for block in members]))
    hidden = engine.hidden_rows(input_ids, attention_mask, torch.from_numpy(cells))
    with engine.decoder() as (weight, bias):
        if draws is not None:
            keys = [block.sample_keys for block in members if block.sample_keys is not None]
            predictions = draw_ids(
                hidden,
                weight,
                bias,
                wanted.to(hidden.device),
                np.concatenate(keys),
                draws=draws,
                temperature=temperatures[0] if temperatures else 1.0,
            )
        else:
            assert k is not None
            predictions = predict(
                hidden, weight, bias, wanted.to(hidden.device), k=k, temperatures=temperatures
            )
    return Predictions(
        predictions.ids.cpu(),
        predictions.logprobs.cpu(),
        predictions.log_partition.cpu(),
        predictions.wanted_logprobs.cpu(),
    )


def _refuse_infinite(predictions: Predictions, members: Sequence[MaskedBlock]) -> None:
    finite = torch.isfinite(predictions.wanted_logprobs).all(dim=1)
    finite &= torch.isfinite(predictions.logprobs).all(dim=1)
    if not finite.all():
        ends = np.cumsum([len(block.positions) for block in members])
        block = members[int(np.searchsorted(ends, int(finite.int().argmin()), side="right"))]
        raise TeacherError(
            f"The teacher's logits are not finite (NaN or infinite) at {block.name}; "
            "its weights are damaged, or the precision is too low: fetch or save it again, or record in float32."
        )


def _in_order(
    parts: Sequence[Predictions], asked: Sequence[int], counts: NDArray[np.int64]
) -> Predictions:
    """Rows of blocks in the order in which they were asked, put into the order of the blocks.

    Args:
        parts: of the batches.
        asked: numbers of the blocks, batch by batch.
        counts: positions of each block.
    """
    blocks = np.repeat(np.array(asked), counts[asked])
    order = torch.from_numpy(np.argsort(blocks, kind="stable"))
    columns = zip(*(vars(part).values() for part in parts), strict=True)
    return Predictions(*(torch.cat(column)[order] for column in columns))
