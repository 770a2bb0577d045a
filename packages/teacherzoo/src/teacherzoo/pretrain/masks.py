"""Masked batches of a pretraining: blocks, masks and order depend on the seed and the step alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from teacherzoo.errors import TeacherError
from teacherzoo.pretrain.config import MaskedLMTraining


class Masks:
    """Masks of a block: a function of (seed, number) alone. 80 % of the chosen tokens become the mask, 10 % a random one."""

    def __init__(self, tokenizer: Any, config: MaskedLMTraining) -> None:
        self._special = np.array(sorted(set(tokenizer.all_special_ids)))
        self._mask = tokenizer.mask_token_id
        self._size = len(tokenizer)
        self._rate, self._seed = config.final_mask_rate, config.seed

    def apply(
        self, block: NDArray[np.int32], number: int, rate: float | None = None
    ) -> dict[str, NDArray[np.int64]]:
        """Input ids and labels, -100 where nothing is masked, each [length]; `rate` is that of the last step by default."""
        random = np.random.Generator(np.random.Philox(key=[self._seed, number]))
        gold = block.astype(np.int64)
        maskable = np.flatnonzero(~np.isin(gold, self._special))
        count = max(1, round((self._rate if rate is None else rate) * len(maskable)))
        chosen = random.permutation(maskable)[:count]
        change = random.random(len(chosen))
        inputs = gold.copy()
        inputs[chosen[change < 0.8]] = self._mask
        swapped = chosen[(change >= 0.8) & (change < 0.9)]
        inputs[swapped] = random.integers(0, self._size, len(swapped))
        labels = np.full_like(gold, -100)
        labels[chosen] = gold[chosen]
        return {"input_ids": inputs, "labels": labels}


class MaskedBatches(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Item i is the i-th batch of the run: which blocks of which languages, how many, and their masks, follow from (seed, i).

    Args:
        blocks: per language [N, length].
        masks: of a block.
        config: of the training.
        before: steps in front of the training's own, with its first batch size and mask rate.

    Raises:
        TeacherError: where a language has no block.
    """

    def __init__(
        self,
        blocks: dict[str, NDArray[np.int32]],
        masks: Masks,
        config: MaskedLMTraining,
        *,
        before: int = 0,
    ) -> None:
        for language, rows in blocks.items():
            if not len(rows):
                raise TeacherError(f"{language}: the text does not fill one block; give more text.")
        self._blocks = list(blocks.values())
        self._masks = masks
        self._ends = np.cumsum(config.batch_sizes(before=before))
        self._rates = config.mask_rates(before=before)
        self._order = block_order(
            [len(rows) for rows in self._blocks], config, count=int(self._ends[-1])
        )

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if index >= len(self):
            raise IndexError(index)
        numbers = range(int(self._ends[index - 1]) if index else 0, int(self._ends[index]))
        places = self._order[numbers.start : numbers.stop]
        return stack(
            [
                self._masks.apply(self._blocks[language][row], number, self._rates[index])
                for number, (language, row) in zip(numbers, places, strict=True)
            ]
        )


def block_order(sizes: list[int], config: MaskedLMTraining, *, count: int) -> NDArray[np.int64]:
    """[count, 2] pairs (language, block): languages by n^exponent, the blocks of each in shuffled rounds."""
    random = np.random.Generator(np.random.Philox(key=[config.seed, 2**63]))
    weights = np.array(sizes, dtype=float) ** config.sampling_exponent
    languages = random.choice(len(sizes), size=count, p=weights / weights.sum())
    rows = np.empty_like(languages)
    for language, size in enumerate(sizes):
        places = np.flatnonzero(languages == language)
        rounds = [random.permutation(size) for _ in range(-(-len(places) // size))]
        if rounds:
            rows[places] = np.concatenate(rounds)[: len(places)]
    return np.stack([languages, rows], axis=1)


def stack(items: list[dict[str, NDArray[np.int64]]]) -> dict[str, torch.Tensor]:
    """Rows of a batch, one above the other."""
    return {name: torch.from_numpy(np.stack([item[name] for item in items])) for name in items[0]}
