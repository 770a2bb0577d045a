"""Monolingual batches mixed evenly: every language once in each round, every block once in each pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from bistil.errors import ExtractError

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


def even_schedule(
    sizes: Mapping[str, int], *, batches: int, size: int, seed: int
) -> list[tuple[str, NDArray[np.int64]]]:
    """The language and the blocks of each batch, from the seed alone.

    Args:
        sizes: number of blocks per language.
        batches: how many to plan: steps times accumulation times processes.
        size: blocks in a batch.
        seed: of the order.

    Raises:
        ExtractError: for a language without a block.
    """
    for language, count in sizes.items():
        if not count:
            raise too_short(language)
    random = np.random.Generator(np.random.Philox(key=[seed, _ORDER]))
    languages = list(sizes)
    dealers = {
        language: _deal(count, size, np.random.Generator(np.random.Philox(key=[seed, _ORDER + 1 + number])))
        for number, (language, count) in enumerate(sizes.items())
    }  # fmt: skip
    slots: list[tuple[str, NDArray[np.int64]]] = []
    while len(slots) < batches:
        turn = [languages[number] for number in random.permutation(len(languages))]
        slots += [(language, next(dealers[language])) for language in turn]
    return slots[:batches]


def too_short(language: str) -> ExtractError:
    """The refusal of a corpus without a block."""
    return ExtractError(
        f"{language}: its corpus does not fill one block; give more text, or a smaller length."
    )


def _deal(count: int, size: int, random: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    left = np.empty(0, dtype=np.int64)
    while True:
        while len(left) < size:
            left = np.concatenate([left, random.permutation(count)])
        yield left[:size]
        left = left[size:]


class MaskedBatches(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Item i is batch i of the schedule; its corruption follows from (seed, i).

    Args:
        slots: see `even_schedule`.
        blocks: per language [N, S].
        corruption: of the inputs.
    """

    def __init__(
        self,
        slots: Sequence[tuple[str, NDArray[np.int64]]],
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
    special = np.array(corruption.special, dtype=np.int64)
    ordinary = np.setdiff1d(np.arange(corruption.pieces), special)
    for row, its in enumerate(gold):
        open_to = np.flatnonzero(~np.isin(its, special))
        chosen = random.permutation(open_to)[: corruption.positions(len(its))]
        change = random.random(len(chosen))
        inputs[row, chosen[change < 0.8]] = corruption.mask
        swapped = chosen[(change >= 0.8) & (change < 0.9)]
        inputs[row, swapped] = random.choice(ordinary, len(swapped))
        labels[row, chosen] = its[chosen]
    return inputs, labels
