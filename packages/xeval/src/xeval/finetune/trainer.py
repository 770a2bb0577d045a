"""The one Trainer set-up: batches of like length, early stopping by the development score, exact resume, one device."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    Trainer,
    TrainerState,
    TrainingArguments,
)
from transformers.utils import SAFE_WEIGHTS_NAME

from xeval.errors import XevalError
from xeval.finetune.callbacks import LossMeter, TrainingProgress
from xeval.progress import ProgressCallback
from xeval.protocol import Protocol
from xeval.task_templates.word_tokenization import Encoded

_log = logging.getLogger("xeval")
_WHOLE = "whole"


class FineTuningTrainer(Trainer):
    """Trains on encoded examples, evaluates by a score, and keeps the weights that do best.

    Each evaluation is followed by a checkpoint, from which the next process goes on if this one is killed, with the same
    outcome; of checkpoints the best and the last are kept.

    Args:
        model: encoder and head.
        train: encoded examples.
        collate: of some of them, the tensors of a batch.
        score: the score on the development set, the higher the better.
        metric: its name.
        patience: evaluations without a better one after which the training stops.
        arguments: of `training_arguments`.
        watch: told.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        train: Sequence[Encoded],
        collate: Callable[[Sequence[Encoded]], dict[str, Tensor]],
        score: Callable[[], float],
        metric: str,
        patience: int,
        arguments: TrainingArguments,
        watch: ProgressCallback,
    ) -> None:
        self.losses = LossMeter()
        self._score, self._metric = score, metric
        batch_size = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps
        progress = TrainingProgress(self.losses, batch_size=batch_size, metric=metric, watch=watch)
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=train,
            eval_dataset=[],  # `score` knows it
            data_collator=collate,
            callbacks=[progress, EarlyStoppingCallback(patience)],
        )
        self.remove_callback(PrinterCallback)

    def train_to_the_end(self) -> TrainerState:
        """Train, from the last whole checkpoint where there is one, and put the best weights back."""
        checkpoint = _last_whole_checkpoint(Path(str(self.args.output_dir)))
        if checkpoint is None or not _ended(checkpoint):
            self.train(resume_from_checkpoint=checkpoint and str(checkpoint))
        else:  # a Trainer would take one step more
            self.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
            best = checkpoint.with_name(f"checkpoint-{self.state.best_global_step}")
            self._load_from_checkpoint(str(best))
        return self.state

    def evaluate(self, *_arguments: Any, **_options: Any) -> dict[str, float]:
        """The score, told to the callbacks."""
        metrics = {f"eval_{self._metric}": self._score()}
        self.control: Any = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **options: Any) -> Any:
        """The loss, handed to the meter."""
        loss: Tensor = super().compute_loss(model, inputs, *args, **options)
        self.losses.add(loss.detach(), self.state.global_step)
        return loss

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        (folder / _WHOLE).touch()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, _model: Any = None) -> None:
        weights = load_file(Path(resume_from_checkpoint) / SAFE_WEIGHTS_NAME)
        with torch.no_grad():
            for name, tensor in self.model.state_dict().items():
                tensor.copy_(weights[name])

    def _load_best_model(self) -> None:
        self._load_from_checkpoint(str(self.state.best_model_checkpoint))

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        encoded = self.train_dataset if train_dataset is None else train_dataset
        step = self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps
        return LikeLengths(encoded, step, self.args.seed)


class LikeLengths(Sampler[int]):
    """A random order in which an optimizer step takes examples of like length, and steps come in random order.

    It depends on the seed, the epoch and the examples per step alone, not on how many are taken at a time.
    """

    def __init__(self, encoded: Sequence[Encoded], step: int, seed: int) -> None:
        self._lengths = [example.length for example in encoded]
        self._step = step
        self._seed = seed
        self._epoch = 0

    def __len__(self) -> int:
        return len(self._lengths)

    def set_epoch(self, epoch: int) -> None:
        """The epoch whose order comes next."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._epoch)
        self._epoch += 1
        order = torch.randperm(len(self._lengths), generator=generator).tolist()
        pool = 32 * self._step
        steps = []
        for start in range(0, len(order), pool):
            near = sorted(order[start : start + pool], key=self._lengths.__getitem__)
            steps += [near[i : i + self._step] for i in range(0, len(near), self._step)]
        full = [step for step in steps if len(step) == self._step]
        rest = [i for step in steps if len(step) < self._step for i in step]
        for number in torch.randperm(len(full), generator=generator).tolist():
            yield from full[number]
        yield from rest


def training_arguments(
    folder: Path, protocol: Protocol, *, metric: str, at_a_time: int, bf16: bool, seed: int
) -> TrainingArguments:
    """What a fine-tuning tells its Trainer.

    Args:
        folder: for checkpoints.
        protocol: the settings.
        metric: of the evaluations.
        at_a_time: examples per forward pass, a divisor of the batch size.
        bf16: whether it multiplies in bfloat16.
        seed: of order and dropout.
    """
    cuda = torch.cuda.is_available()
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=at_a_time,
        gradient_accumulation_steps=protocol.batch_size // at_a_time,
        max_steps=protocol.steps,
        learning_rate=protocol.learning_rate,
        warmup_steps=math.ceil(protocol.warmup * protocol.steps),
        weight_decay=protocol.weight_decay,
        bf16=bf16,
        use_cpu=not cuda,
        seed=seed,
        data_seed=seed,
        eval_strategy="steps",
        eval_steps=protocol.evaluate_every,
        save_strategy="steps",
        save_steps=protocol.evaluate_every,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model=metric,
        greater_is_better=True,
        restore_callback_states_from_checkpoint=True,
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=["labels"],
        dataloader_pin_memory=cuda,
    )
    _use_one_device(arguments)
    return arguments


def refuse_launcher() -> None:
    """Fine-tuning is one process's.

    Raises:
        XevalError: a launcher started several.
    """
    if (processes := int(os.environ.get("WORLD_SIZE", "1"))) > 1:
        raise XevalError(
            f"tuning runs in one process and on one device, but a launcher started {processes}; start it without torchrun"
        )


def has_bf16() -> bool:
    """Whether this machine multiplies bfloat16 in hardware."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def is_lack_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return "allocate memory" in str(error) or "out of memory" in str(error)


def _use_one_device(arguments: TrainingArguments) -> None:
    """Keep to the first of several visible GPUs: a Trainer would split a batch over them, which is no batch of its own size.

    How many there are is counted when `device` is asked for, so the number is put right behind that.
    """
    if arguments.device.type == "cuda" and (visible := arguments.n_gpu) > 1:
        _log.warning(
            "tuning uses %s, one of %d visible GPUs; CUDA_VISIBLE_DEVICES chooses another",
            *(arguments.device, visible),
        )
        arguments._n_gpu = 1


def _last_whole_checkpoint(folder: Path) -> Path | None:
    whole = [mark.parent for mark in folder.glob(f"checkpoint-*/{_WHOLE}")]
    return max(whole, key=lambda checkpoint: int(checkpoint.name.rpartition("-")[2]), default=None)


def _ended(checkpoint: Path) -> bool:
    """Whether patience or the number of steps ended the training that wrote a checkpoint."""
    state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    control: Any = state.stateful_callbacks["TrainerControl"]
    return bool(control["args"]["should_training_stop"])
