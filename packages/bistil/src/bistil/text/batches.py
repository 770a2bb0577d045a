"""Monolingual batches mixed evenly: every language once in each round, every block once in each pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from bistil.errors import AdaptError, ExtractError
from teacherzoo.processes import world_size

_SORTED = 64  # batches whose blocks are sorted by length together
_ORDER = 2**63  # the stream that orders batches; the others are numbered by batch


@dataclass(frozen=True, kw_only=True)
class Corruption:
    """How inputs are corrupted, for student and teacher alike.

    Args:
        rate: share of a block's positions that are chosen; of these 80 % become the mask, 10 % a random piece.
        mask: id of the mask token.
        special: ids that are never chosen and never drawn.
        pieces: ids in use are 0 to pieces - 1.
        seed: of all draws.
    """

    rate: float
    mask: int
    special: tuple[int, ...]
    pieces: int
    seed: int

    def positions(self, length: int) -> int:
        """How many positions of a block are chosen, the same for every block."""
        return max(1, round(self.rate * length)) if self.rate else 0

    @cached_property
    def is_special(self) -> NDArray[np.bool_]:
        """[pieces]: whether an id is never chosen."""
        table = np.zeros(self.pieces, dtype=np.bool_)
        table[[piece for piece in self.special if piece < self.pieces]] = True
        return table

    @cached_property
    def ordinary(self) -> NDArray[np.int64]:
        """The ids that a random piece is drawn from."""
        return np.flatnonzero(~self.is_special)


class Schedule:
    """The language and the blocks of each batch, from the seed alone; what is not asked for is not made.

    Batches may be asked for in any order; made are the orders of blocks and languages at the place that was last asked for.

    Args:
        sizes: number of blocks per language.
        batches: how many there are: steps times accumulation times processes.
        size: blocks in a batch.
        seed: of the order.
        lengths: tokens of each block, where they differ: then a batch is of blocks of much the same length, and what does
            not fill a batch is left out of a pass (others in each).

    Raises:
        ExtractError: for a language without a block.
    """

    def __init__(
        self,
        sizes: Mapping[str, int],
        *,
        batches: int,
        size: int,
        seed: int,
        lengths: Mapping[str, NDArray[np.int64]] | None = None,
    ) -> None:
        for language, count in sizes.items():
            if not count:
                raise too_short(language)
        self._batches, self._size = batches, size
        languages = list(sizes)
        self._turns = _Stream([seed, _ORDER], len(languages))
        self._passes = {
            language: _Stream([seed, _ORDER + 1 + number], sizes[language])
            if lengths is None
            else _LengthStream([seed, _ORDER + 1 + number], lengths[language], size)
            for number, language in enumerate(languages)
        }
        self._sizes = {language: self._passes[language].count for language in languages}

    def __len__(self) -> int:
        return self._batches

    def __getitem__(self, index: int) -> tuple[str, NDArray[np.int64]]:
        if not 0 <= index < self._batches:
            raise IndexError(index)
        turn, place = divmod(index, len(self._sizes))  # every language once in each turn
        language = list(self._sizes)[self._turns.order(turn)[place]]
        count, passes = self._sizes[language], self._passes[language]
        first, last = turn * self._size, (turn + 1) * self._size
        rows = [
            passes.order(number)[max(0, first - number * count) : last - number * count]
            for number in range(first // count, (last - 1) // count + 1)
        ]
        return language, np.concatenate(rows)


class _Stream:
    """Random orders of the numbers below `count`, one behind another; one further back is drawn from the start again."""

    def __init__(self, key: list[int], count: int) -> None:
        self._key, self.count = key, count
        self._drawn, self._order = 0, np.empty(0, dtype=np.int64)

    def order(self, number: int) -> NDArray[np.int64]:
        """The order of this number, from 0."""
        if number < self._drawn - 1 or not self._drawn:
            self._random, self._drawn = np.random.Generator(np.random.Philox(key=self._key)), 0
        while self._drawn <= number:
            self._order = self._draw(self._random)
            self._drawn += 1
        return self._order

    def _draw(self, random: np.random.Generator) -> NDArray[np.int64]:
        return random.permutation(self.count)


class _LengthStream(_Stream):
    """Orders in which the members of a batch are of much the same length: chunks of batches are sorted by it, then mixed."""

    def __init__(self, key: list[int], lengths: NDArray[np.int64], size: int) -> None:
        super().__init__(key, max(len(lengths) // size * size, min(size, len(lengths))))
        self._lengths, self._size = lengths, size

    def _draw(self, random: np.random.Generator) -> NDArray[np.int64]:
        order = random.permutation(len(self._lengths))[: self.count]
        chunks = [
            order[first : first + _SORTED * self._size]
            for first in range(0, self.count, _SORTED * self._size)
        ]
        order = np.concatenate([chunk[np.argsort(self._lengths[chunk], kind="stable")] for chunk in chunks])  # fmt: skip
        batches = [order[first : first + self._size] for first in range(0, self.count, self._size)]
        return np.concatenate([batches[number] for number in random.permutation(len(batches))])


def examples_per_pass(examples: int, passes: int, *, unit: str = "examples") -> int:
    """How many of a step's examples one forward pass of one process takes.

    Raises:
        AdaptError: where they cannot be shared evenly.
    """
    shares = passes * world_size()
    if examples < 1 or examples % shares:
        raise AdaptError(
            f"{examples} {unit} per step cannot be shared by {shares} forward passes; choose a multiple of {shares}."
        )
    return examples // shares


def too_short(language: str) -> ExtractError:
    """The refusal of a corpus without a block."""
    return ExtractError(
        f"{language}: its corpus does not fill one block; give more text, or a smaller length."
    )


class MaskedBatches(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Item i is batch i of the schedule; its corruption follows from (seed, i).

    Args:
        slots: language and blocks of each.
        blocks: per language [N, S].
        corruption: of the inputs.
    """

    def __init__(
        self,
        slots: Schedule,
        blocks: Mapping[str, NDArray[np.int32]],
        corruption: Corruption,
    ) -> None:
        self._slots = slots
        self._blocks = blocks
        self._corruption = corruption
        self._languages = {language: number for number, language in enumerate(blocks)}

    def __len__(self) -> int:
        return len(self._slots)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        language, rows = self._slots[index]
        gold = self._blocks[language][rows].astype(np.int64)
        inputs, labels = corrupt(gold, self._corruption, number=index)
        return {
            "input_ids": torch.from_numpy(inputs),
            "labels": torch.from_numpy(labels),
            "language": torch.tensor(self._languages[language]),
        }


def corrupt(
    gold: NDArray[np.int64], corruption: Corruption, *, number: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Inputs and labels (-100 where nothing is asked), each [B, S], of batch `number`.

    Every row has the same number of labels, as far as it has pieces that are not special: then the mean over several
    batches is the mean over all their positions.
    """
    random = np.random.Generator(np.random.Philox(key=[corruption.seed, number]))
    inputs, labels = gold.copy(), np.full_like(gold, -100)
    open_to = ~corruption.is_special[gold]
    for row, pieces in enumerate(gold):
        places = np.flatnonzero(open_to[row])
        chosen = random.permutation(places)[: corruption.positions(len(pieces))]
        change = random.random(len(chosen))
        inputs[row, chosen[change < 0.8]] = corruption.mask
        swapped = chosen[(change >= 0.8) & (change < 0.9)]
        inputs[row, swapped] = random.choice(corruption.ordinary, len(swapped))
        labels[row, chosen] = pieces[chosen]
    return inputs, labels
