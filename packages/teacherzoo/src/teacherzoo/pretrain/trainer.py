"""The nursery's training: a Trainer whose masks and order depend on the seed and the step alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from transformers import PrinterCallback, Trainer

from teacherzoo.encoders.heads import split_head
from teacherzoo.errors import CorpusError, TeacherError
from teacherzoo.pretrain.text import pack
from teacherzoo.text.corpora import Corpus
from teacherzoo.training.arguments import trainer_arguments
from teacherzoo.training.watch import TrainingWatch, last_whole_checkpoint

if TYPE_CHECKING:
    from teacherzoo.pretrain.pretrain import Upbringing

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
    plan: Upbringing,
    work: Path,
    *,
    watch: Callable[[int, int, str], None],
) -> None:
    """Train `model` in place; resumes from the last whole checkpoint in `work`.

    Raises:
        TeacherError: where a language has no block.
        TeacherzooError: where the loss is no longer finite.
    """
    arguments = trainer_arguments(
        {
            "output_dir": str(work / "checkpoints"),
            "max_steps": plan.steps,
            "per_device_train_batch_size": plan.batch,
            "learning_rate": plan.learning_rate,
            "warmup_steps": math.ceil(plan.steps / 10),
            "lr_scheduler_type": "linear",
            "weight_decay": 0.01,
            "bf16": bfloat16_pays(),
            "seed": plan.seed,
            "save_strategy": "steps",
            "save_steps": plan.checkpoint_every,
            "save_total_limit": 2,
            "logging_steps": max(1, min(20, plan.steps // 10)),
            "dataloader_pin_memory": False,
        },
        {},
        where="raising a teacher",
        error=TeacherError,
    )
    trainer = _NurseryTrainer(
        model=model,
        args=arguments,
        train_dataset=_MaskedBlocks(blocks, tokenizer, plan),
        data_collator=_stack,
        callbacks=[
            TrainingWatch(
                watch,
                what="raising",
                advice="lower the learning rate",
                per_step=plan.batch * plan.length,
                unit="tokens",
            )
        ],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=last_whole_checkpoint(work / "checkpoints"))


def held_out_scores(
    model: Any, corpora: Sequence[Corpus], tokenizer: Any, plan: Upbringing
) -> dict[str, Score]:
    """Per language, how well the model fills masks in text that it has not seen; languages without such text are absent."""
    scores = {}
    for corpus in corpora:
        try:
            blocks = pack([corpus], tokenizer, plan.length, part="held_out")[corpus.language]
        except CorpusError:  # a small corpus may hold nothing out
            continue
        if len(blocks):
            scores[corpus.language] = _score(model, blocks[:_HELD_OUT_BLOCKS], tokenizer, plan)
    return scores


@torch.inference_mode()
def _score(model: Any, blocks: NDArray[np.int32], tokenizer: Any, plan: Upbringing) -> Score:
    model.eval()
    masked = _MaskedBlocks({"": blocks}, tokenizer, plan)
    items = [masked.mask(block, number) for number, block in enumerate(blocks)]
    loss = right = count = 0.0
    for start in range(0, len(items), plan.batch):
        batch = _stack(items[start : start + plan.batch])
        logits, gold = _masked_logits(
            model, {key: its.to(model.device) for key, its in batch.items()}
        )
        loss += float(F.cross_entropy(logits.float(), gold, reduction="sum"))
        right += float((logits.argmax(-1) == gold).sum())
        count += len(gold)
    return Score(loss / count, right / count)


class _NurseryTrainer(Trainer):
    """Applies the head to masked rows alone, and takes the items in their order."""

    def compute_loss(
        self, model: Any, inputs: dict[str, torch.Tensor], return_outputs: bool = False, **_: Any
    ) -> Any:
        # What accelerate wraps for mixed precision is the model's forward, which is not called here.
        with self.accelerator.autocast():
            logits, gold = _masked_logits(self.accelerator.unwrap_model(model), inputs)
        loss = F.cross_entropy(logits.float(), gold)
        return (loss, None) if return_outputs else loss

    def _get_train_sampler(self, *_: Any) -> Any:
        return torch.utils.data.SequentialSampler(self.train_dataset)


def _masked_logits(model: Any, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """[N, V] logits and [N] gold ids at the masked positions."""
    head = split_head(model)
    chosen = batch["labels"] >= 0
    hidden = head.encoder(
        input_ids=batch["input_ids"], attention_mask=torch.ones_like(batch["input_ids"])
    ).last_hidden_state
    return F.linear(head.transform(hidden[chosen]), head.weight, head.bias), batch["labels"][chosen]


class _MaskedBlocks(torch.utils.data.Dataset[dict[str, NDArray[np.int64]]]):
    """Item i of the whole run: which block of which language, and where its masks are, follow from (seed, i)."""

    def __init__(
        self, blocks: dict[str, NDArray[np.int32]], tokenizer: Any, plan: Upbringing
    ) -> None:
        for language, its in blocks.items():
            if not len(its):
                raise TeacherError(f"{language}: the text does not fill one block; give more text.")
        self._blocks = list(blocks.values())
        self._plan = plan
        self._special = np.array(sorted(set(tokenizer.all_special_ids)))
        self._mask = tokenizer.mask_token_id
        self._size = len(tokenizer)
        self._order = _order([len(its) for its in self._blocks], plan)

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: int) -> dict[str, NDArray[np.int64]]:
        language, row = self._order[index]
        return self.mask(self._blocks[language][row], index)

    def mask(self, block: NDArray[np.int32], number: int) -> dict[str, NDArray[np.int64]]:
        """Input ids and labels (-100 where nothing is asked), each [length]."""
        random = np.random.Generator(np.random.Philox(key=[self._plan.seed, number]))
        gold = block.astype(np.int64)
        open_to = np.flatnonzero(~np.isin(gold, self._special))
        count = max(1, round(self._plan.mask_rate * len(open_to)))
        chosen = random.permutation(open_to)[:count]
        change = random.random(len(chosen))
        inputs = gold.copy()
        inputs[chosen[change < 0.8]] = self._mask
        swapped = chosen[(change >= 0.8) & (change < 0.9)]
        inputs[swapped] = random.integers(0, self._size, len(swapped))
        labels = np.full_like(gold, -100)
        labels[chosen] = gold[chosen]
        return {"input_ids": inputs, "labels": labels}


def _order(sizes: list[int], plan: Upbringing) -> NDArray[np.int64]:
    """[steps x batch, 2] pairs (language, block): languages by n^exponent, each one's blocks in shuffled rounds."""
    random = np.random.Generator(np.random.Philox(key=[plan.seed, 2**63]))
    weights = np.array(sizes, dtype=float) ** plan.sampling_exponent
    languages = random.choice(len(sizes), size=plan.steps * plan.batch, p=weights / weights.sum())
    rows = np.empty_like(languages)
    for language, size in enumerate(sizes):
        places = np.flatnonzero(languages == language)
        rounds = [random.permutation(size) for _ in range(-(-len(places) // size))]
        if rounds:
            rows[places] = np.concatenate(rounds)[: len(places)]
    return np.stack([languages, rows], axis=1)


def _stack(items: list[dict[str, NDArray[np.int64]]]) -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(np.stack([item[key] for item in items])) for key in items[0]}


def bfloat16_pays() -> bool:
    """Whether this machine multiplies bfloat16 in hardware."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    capability = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return bool(capability())
