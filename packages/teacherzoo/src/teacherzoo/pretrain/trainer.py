"""Masked-LM training of a tiny teacher: blocks, masks and order depend on the seed and the step alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from teacherzoo.encoders.heads import split_head
from teacherzoo.errors import CorpusError, TeacherError
from teacherzoo.pretrain.config import PretrainingConfig
from teacherzoo.pretrain.text import pack
from teacherzoo.progress import ProgressCallback
from teacherzoo.text.corpora import Corpus
from teacherzoo.training.arguments import decided_arguments, has_bfloat16, trainer_arguments
from teacherzoo.training.loss_module import LossModule
from teacherzoo.training.trainer import PreparedBatchTrainer
from teacherzoo.training.watch import TrainingWatch

_HELD_OUT_BLOCKS = 256


@dataclass(frozen=True)
class Score:
    """Mean cross-entropy in nats and share of right first guesses at masked positions."""

    loss: float
    accuracy: float


def train(
    model: Any,
    blocks: dict[str, NDArray[np.int32]],
    tokenizer: Any,
    config: PretrainingConfig,
    work: Path,
    *,
    watch: ProgressCallback,
) -> None:
    """Train `model` in place; resumes from the last whole checkpoint in `work`.

    Raises:
        TeacherError: where a language has no block.
        TeacherzooError: where the loss is no longer finite.
    """
    decided = decided_arguments(
        work / "checkpoints",
        steps=config.steps,
        learning_rate=config.learning_rate,
        warmup_steps=math.ceil(config.steps / 10),
        seed=config.seed,
        checkpoint_every=config.checkpoint_every,
        weight_decay=0.01,
        bf16=has_bfloat16(),
        dataloader_pin_memory=False,
    )
    tokens = config.batch * config.length
    advice = "lower the learning rate"
    PreparedBatchTrainer(
        model=MaskedLMLoss(model),
        args=trainer_arguments(decided, {}, where="pretraining", error=TeacherError),
        train_dataset=MaskedBatches(blocks, Masks(tokenizer, config), config),
        callbacks=[
            TrainingWatch(watch, what="pretraining", advice=advice, per_step=tokens, unit="tokens")
        ],
    ).resume()


class MaskedLMLoss(LossModule):
    """Mean cross-entropy at masked positions; the head is applied to these rows alone."""

    def forward(self, *, input_ids: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """The loss of a batch [B, S]; labels are -100 where nothing is masked."""
        logits, gold = masked_logits(self.student, input_ids=input_ids, labels=labels)
        return {"loss": F.cross_entropy(logits.float(), gold)}


def masked_logits(
    model: Any, input_ids: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """[N, V] logits and [N] gold ids at the masked positions of a batch [B, S]."""
    head = split_head(model)
    masked = labels >= 0
    hidden = head.encoder(
        input_ids=input_ids, attention_mask=torch.ones_like(input_ids)
    ).last_hidden_state
    return F.linear(head.transform(hidden[masked]), head.weight, head.bias), labels[masked]


def held_out_scores(
    model: Any, corpora: Sequence[Corpus], tokenizer: Any, config: PretrainingConfig
) -> dict[str, Score]:
    """Per language, how well the model fills masks in text that it has not seen; languages without such text are absent."""
    masks = Masks(tokenizer, config)
    scores = {}
    for corpus in corpora:
        try:
            blocks = pack([corpus], tokenizer, config.length, part="held_out")[corpus.language]
        except CorpusError:  # a small corpus may hold nothing out
            continue
        if len(blocks):
            scores[corpus.language] = _score(model, blocks[:_HELD_OUT_BLOCKS], masks, config.batch)
    return scores


@torch.inference_mode()
def _score(model: Any, blocks: NDArray[np.int32], masks: Masks, size: int) -> Score:
    model.eval()
    items = [masks.apply(block, number) for number, block in enumerate(blocks)]
    loss = correct = count = 0.0
    for start in range(0, len(items), size):
        batch = _stack(items[start : start + size])
        logits, gold = masked_logits(
            model, **{name: tensor.to(model.device) for name, tensor in batch.items()}
        )
        loss += float(F.cross_entropy(logits.float(), gold, reduction="sum"))
        correct += float((logits.argmax(-1) == gold).sum())
        count += len(gold)
    return Score(loss / count, correct / count)


class Masks:
    """Masks of a block: a function of (seed, number) alone. 80 % of the chosen tokens become the mask, 10 % a random one."""

    def __init__(self, tokenizer: Any, config: PretrainingConfig) -> None:
        self._special = np.array(sorted(set(tokenizer.all_special_ids)))
        self._mask = tokenizer.mask_token_id
        self._size = len(tokenizer)
        self._rate, self._seed = config.mask_rate, config.seed

    def apply(self, block: NDArray[np.int32], number: int) -> dict[str, NDArray[np.int64]]:
        """Input ids and labels, -100 where nothing is masked, each [length]."""
        random = np.random.Generator(np.random.Philox(key=[self._seed, number]))
        gold = block.astype(np.int64)
        maskable = np.flatnonzero(~np.isin(gold, self._special))
        count = max(1, round(self._rate * len(maskable)))
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
    """Item i is the i-th batch of the run: which blocks of which languages, and their masks, follow from (seed, i)."""

    def __init__(
        self, blocks: dict[str, NDArray[np.int32]], masks: Masks, config: PretrainingConfig
    ) -> None:
        for language, rows in blocks.items():
            if not len(rows):
                raise TeacherError(f"{language}: the text does not fill one block; give more text.")
        self._blocks = list(blocks.values())
        self._masks = masks
        self._size = config.batch
        self._order = _order([len(rows) for rows in self._blocks], config)

    def __len__(self) -> int:
        return len(self._order) // self._size

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        numbers = range(index * self._size, (index + 1) * self._size)
        if numbers[-1] >= len(self._order):
            raise IndexError(index)
        places = self._order[numbers.start : numbers.stop]
        return _stack(
            [
                self._masks.apply(self._blocks[language][row], number)
                for number, (language, row) in zip(numbers, places, strict=True)
            ]
        )


def _order(sizes: list[int], config: PretrainingConfig) -> NDArray[np.int64]:
    """[steps x batch, 2] pairs (language, block): languages by n^exponent, the blocks of each in shuffled rounds."""
    random = np.random.Generator(np.random.Philox(key=[config.seed, 2**63]))
    weights = np.array(sizes, dtype=float) ** config.sampling_exponent
    count = config.steps * config.batch
    languages = random.choice(len(sizes), size=count, p=weights / weights.sum())
    rows = np.empty_like(languages)
    for language, size in enumerate(sizes):
        places = np.flatnonzero(languages == language)
        rounds = [random.permutation(size) for _ in range(-(-len(places) // size))]
        if rounds:
            rows[places] = np.concatenate(rounds)[: len(places)]
    return np.stack([languages, rows], axis=1)


def _stack(items: list[dict[str, NDArray[np.int64]]]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.stack([item[name] for item in items])) for name in items[0]}
