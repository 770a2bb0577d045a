"""Which blocks every step reads: a function of the seed alone, so that a resumed run reads on where it stopped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray

from mergedistill.errors import StageError
from mergedistill.recipe.recipe import Distil
from mergedistill.targets.batch import OnlineTargets, RecordedTargets, Targets
from mergedistill.targets.encoder_words import WordsOfBatch
from mergedistill.targets.online import OnlineSignals
from mergedistill.targets.words import WordSignals
from teacherzoo import SignalBatch, Signals

_DRAWN_AT_ONCE = 1 << 16
_COUNTED_AT_ONCE = 1 << 12


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
) -> Sequence[Slot]:
    """Draw languages by size to the exponent, and deal each one's blocks in shuffled rounds.

    Args:
        signals: language to the recording that holds it.
        batches: how many to plan: steps times accumulation times processes.
        tokens: of a batch, padding included; a batch has `tokens // block_length` blocks, at least one.
        block_length: the longest block.
        exponent: of the language's number of blocks.
        seed: of everything.

    Returns:
        The slots, each made when it is asked for.

    Raises:
        StageError: for a language without a block.
    """
    sizes = [_blocks(reader, language) for language, reader in signals.items()]
    for language, blocks in zip(signals, sizes, strict=True):
        if not blocks:
            raise StageError(
                f"{language}: nothing of its text was masked, so there is nothing to learn from; give more text."
            )
    weights = np.array(sizes, dtype=float) ** exponent
    random = np.random.Generator(np.random.Philox(key=[seed, 0x5C4ED]))
    # Two bytes for each batch are all that is kept of a long run on many processes.
    drawn = np.empty(batches, dtype=np.uint16)
    for start in range(0, batches, _DRAWN_AT_ONCE):
        part = drawn[start : start + _DRAWN_AT_ONCE]
        part[:] = random.choice(len(signals), size=len(part), p=weights / weights.sum())
    return _Slots(signals, sizes, drawn, size=max(1, tokens // block_length), seed=seed)


def _blocks(signals: Signals, language: str) -> int:
    return sum(shard.rows for shard in signals.manifest.shards if shard.language == language)


class _Slots(Sequence[Slot]):
    """Batch i holds the next blocks of the language drawn for it; how many it had before follows from the draws.

    Args:
        signals: language to the recording that holds it.
        sizes: blocks of each.
        drawn: [batches] the number of a language.
        size: blocks in a batch.
        seed: of the rounds.
    """

    def __init__(
        self,
        signals: Mapping[str, Signals],
        sizes: Sequence[int],
        drawn: NDArray[np.uint16],
        *,
        size: int,
        seed: int,
    ) -> None:
        self._signals = signals
        self._languages = list(signals)
        self._sizes = sizes
        self._drawn = drawn
        self._size = size
        self._seed = seed
        chunks = [
            np.bincount(drawn[start : start + _COUNTED_AT_ONCE], minlength=len(signals))
            for start in range(0, len(drawn), _COUNTED_AT_ONCE)
        ]
        # [chunks + 1, languages]: batches of each language before each chunk.
        self._before = np.cumsum([np.zeros(len(signals), dtype=np.int64), *chunks], axis=0)
        self._rounds: dict[int, tuple[int, NDArray[np.int64]]] = {}

    def __len__(self) -> int:
        return len(self._drawn)

    @overload
    def __getitem__(self, index: int) -> Slot: ...
    @overload
    def __getitem__(self, index: slice) -> list[Slot]: ...
    def __getitem__(self, index: int | slice) -> Slot | list[Slot]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        number = int(self._drawn[index])
        chunk, inside = divmod(index, _COUNTED_AT_ONCE)
        start = index - inside
        earlier = self._before[chunk, number] + (self._drawn[start:index] == number).sum()
        return Slot(self._languages[number], self._rows(number, int(earlier) * self._size))

    def _rows(self, number: int, start: int) -> NDArray[np.int64]:
        """The next `size` blocks from place `start` of a language's rounds, which follow one another without end."""
        parts, missing = [], self._size
        while missing:
            turn, place = divmod(start, self._sizes[number])
            part = self._round(number, turn)[place : place + missing]
            parts.append(part)
            start, missing = start + len(part), missing - len(part)
        return np.concatenate(parts)

    def _round(self, number: int, turn: int) -> NDArray[np.int64]:
        """Every block once, in the reader's own shuffled order; the latest round of each language is kept."""
        kept = self._rounds.get(number)
        if kept is None or kept[0] != turn:
            language = self._languages[number]
            seed = self._seed * len(self._languages) + number + (turn << 20)
            kept = turn, self._signals[language].order(seed=seed, languages=[language])
            self._rounds[number] = kept
        return kept[1]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_rounds": {}}


class ScheduledBatches(torch.utils.data.Dataset[dict[str, Any]]):
    """Item i is the whole batch of slot i, in the student's ids.

    Args:
        slots: of `schedule`.
        signals: language to its recording.
        distil: what the student learns from.
        words: language to the words whose states are learned of an encoder; empty without one.
    """

    def __init__(
        self,
        slots: Sequence[Slot],
        signals: Mapping[str, Signals],
        distil: Distil,
        words: Mapping[str, WordsOfBatch] | None = None,
    ) -> None:
        self._slots = slots
        self._signals = signals
        self._distil = distil
        self._words = words or {}
        self._languages = {language: number for number, language in enumerate(signals)}

    def __len__(self) -> int:
        return len(self._slots)

    def __getitem__(self, index: int) -> dict[str, Any]:
        slot = self._slots[index]
        # A number stays a number: read back from a GPU, it would make the host wait for it.
        return {
            "language": self._languages[slot.language],
            **batch_inputs(
                self._signals[slot.language],
                slot.rows.tolist(),
                self._distil,
                self._words.get(slot.language),
            ),
        }


def batch_inputs(
    signals: Signals, rows: list[int], distil: Distil, words: WordsOfBatch | None = None
) -> dict[str, Any]:
    """Some blocks of a recording as the forward pass of `DistillationLoss` takes them."""
    batch = signals.batch(rows)
    return {
        "input_ids": batch.input_ids,
        "attention_mask": batch.attention_mask,
        "rows": batch.rows,
        "positions": batch.positions,
        "labels": batch.labels,
        "targets": _targets(signals, batch, rows, distil),
        **({} if words is None else {"states": words(batch)}),
    }


def _targets(signals: Signals, batch: SignalBatch, rows: list[int], distil: Distil) -> Targets:
    if isinstance(signals, OnlineSignals):
        return OnlineTargets(teacher=signals.number, query=signals.query(rows))
    return RecordedTargets(
        topk_ids=batch.topk_ids,
        topk_logprobs=batch.topk_logprobs,
        tail=batch.tail,
        log_partition=None
        if distil.temperature == 1.0
        else batch.log_partition[distil.temperature],
        words=signals.word_targets(rows) if isinstance(signals, WordSignals) else None,
    )
