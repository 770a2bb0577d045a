"""Which blocks every step reads: a function of the seed alone, so that a resumed run reads on where it stopped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mergedistill.online import OnlineSignals
from mergedistill.recipe import Distil
from teacherzoo import SignalBatch, Signals


@dataclass(frozen=True, slots=True)
class Slot:
    """What one process reads in one step: blocks of one language."""

    language: str
    rows: NDArray[np.int64]


def schedule(
    signals: Mapping[str, Signals],
    *,
    batches: int,
    tokens: int,
    block_length: int,
    exponent: float,
    seed: int,
) -> list[Slot]:
    """Draw languages by size to the exponent, and deal each one's blocks in shuffled rounds.

    Args:
        signals: language to the recording that holds it.
        batches: how many to plan: steps times accumulation times processes.
        tokens: of a batch, padding included; a batch has `tokens // block_length` blocks, at least one.
        block_length: the longest block.
        exponent: of the language's number of blocks.
        seed: of everything.
    """
    random = np.random.Generator(np.random.Philox(key=[seed, 0x5C4ED]))
    languages = list(signals)
    sizes = np.array([len(signals[language].rows(language)) for language in languages], dtype=float)
    weights = sizes**exponent
    drawn = random.choice(len(languages), size=batches, p=weights / weights.sum())
    size = max(1, tokens // block_length)
    dealers = [
        _deal(signals[language], language, size, seed=seed * len(languages) + number)
        for number, language in enumerate(languages)
    ]
    return [Slot(languages[number], next(dealers[number])) for number in drawn]


def _deal(signals: Signals, language: str, size: int, *, seed: int) -> Any:
    """Batches of `size` rows without end: every row once in each round, in the reader's own shuffled order."""
    left = np.empty(0, dtype=np.int64)
    for number in range(2**31):
        order = signals.order(seed=seed + (number << 20), languages=[language])
        left = np.concatenate([left, order])
        while len(left) >= size:
            yield left[:size]
            left = left[size:]


class ScheduledBatches(torch.utils.data.Dataset[dict[str, Any]]):
    """Item i is the whole batch of slot i, in the student's ids."""

    def __init__(
        self, slots: Sequence[Slot], signals: Mapping[str, Signals], distil: Distil
    ) -> None:
        self._slots = slots
        self._signals = signals
        self._distil = distil
        self._languages = {language: number for number, language in enumerate(signals)}

    def __len__(self) -> int:
        return len(self._slots)

    def __getitem__(self, index: int) -> dict[str, Any]:
        slot = self._slots[index]
        signals, rows = self._signals[slot.language], slot.rows.tolist()
        taken: dict[str, Any] = {"language": torch.tensor(self._languages[slot.language])}
        if isinstance(signals, OnlineSignals):
            taken["question"] = signals.question(rows)
        return taken | tensors(signals.batch(rows), self._distil)


def tensors(batch: SignalBatch, distil: Distil) -> dict[str, torch.Tensor]:
    """A batch of signals as the student's forward pass takes it."""
    taken = {
        "input_ids": batch.input_ids,
        "attention_mask": batch.attention_mask,
        "rows": batch.rows,
        "positions": batch.positions,
        "labels": batch.labels,
    }
    if distil.online:
        return taken
    taken |= {
        "topk_ids": batch.topk_ids,
        "topk_logprobs": batch.topk_logprobs,
        "tail": batch.tail,
    }
    if distil.temperature != 1.0:
        taken["log_partition"] = batch.log_partition[distil.temperature]
    return taken
