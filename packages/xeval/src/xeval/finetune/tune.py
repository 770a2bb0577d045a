"""Tuning a model on the source language, with early stopping on its development set."""

from __future__ import annotations

import hashlib
import logging
import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler
from transformers import PrinterCallback, Trainer, TrainingArguments, set_seed

from xeval.data.folder import DataSet
from xeval.data.source import Source, choose_source
from xeval.encoder import model_digest
from xeval.errors import XevalError
from xeval.finetune.callbacks import Keeper, LossMeter, NotFiniteError
from xeval.finetune.checkpoint import (
    FineTunedModel,
    build,
    leave_deepspeed_alone,
    predict,
    write_finetuned,
)
from xeval.finetune.record import read_record
from xeval.progress import Watch, silent
from xeval.protocol import Protocol
from xeval.task_templates.task import FineTunedTask
from xeval.task_templates.word_tokenization import Encoded
from xeval.tasks import task_of, task_to_tune

_log = logging.getLogger("xeval")


def tune(
    model: str | Path,
    out: Path,
    *,
    task: str,
    source: Source,
    language: str,
    protocol: Protocol | None = None,
    seed: int = 0,
    watch: Watch = silent,
) -> dict[str, Any]:
    """Tune a model on one task and language, and write it to a folder.

    The checkpoint with the best development score is kept. A loss that is not finite starts the tuning again in
    float32; memory that does not suffice starts it again with half the examples at a time and as many per step.

    Args:
        model: a model folder or Hub name.
        out: the folder to write; when it holds the outcome of the same tuning on the same data already, nothing is done.
        task: name of a task with a head.
        source: where the data lies.
        language: the source language, or a data set's own name.
        protocol: its settings.
        seed: of head, order and dropout.
        watch: told the steps done, with loss and examples per second, and each score on the development set.

    Returns:
        What happened: steps, development score, precision, examples at a time.

    Raises:
        XevalError: when model or data cannot be used, or `out` holds something else.

    Example:
        >>> source = LocalFolder(Path("data"))  # doctest: +SKIP
        >>> tune("small", Path("tuned"), task="pos", source=source, language="en")["dev"]  # doctest: +SKIP
        {'accuracy': 91.65}
    """
    model, protocol = str(model), protocol or Protocol()
    chosen = task_to_tune(task)
    _one_process()
    data_set = choose_source(source.data_sets(chosen), language)
    watch(0, 1, f"reading {data_set.name}")
    digest = model_digest(model)
    train_digest = digest_of_training(source, chosen, data_set)
    if out.exists():
        return _notes_of_same(out, chosen, data_set, digest, train_digest, protocol, seed)
    train, notes = chosen.view(source.read(chosen, data_set, "train"), protocol)
    dev, _ = chosen.view(source.read(chosen, data_set, "dev"), protocol)
    attempt = _Attempt(
        model=model, task=chosen, train=train, dev=dev, language=data_set.language,
        protocol=protocol, seed=seed, watch=watch,
    )  # fmt: skip
    tuned, record = attempt.until_it_fits()
    record["notes"] = [*notes, *record["notes"]]
    write_finetuned(
        out,
        FineTunedModel(
            model=tuned[0],
            pieces=tuned[1],
            task=task,
            labels=attempt.labels,
            protocol=protocol,
            source=data_set.name,
            source_language=data_set.language,
            seed=seed,
            base=Path(model).name if Path(model).is_dir() else model,
            base_digest=digest,
            train_digest=train_digest,
            notes=record,
        ),
    )
    return record


def digest_of_training(source: Source, task: FineTunedTask, data_set: DataSet) -> str:
    """A digest of the training and development data of a data set."""
    parts = [source.digest(task, data_set, split) for split in ("train", "dev")]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _notes_of_same(
    out: Path,
    task: FineTunedTask,
    data_set: DataSet,
    digest: str,
    train_digest: str,
    protocol: Protocol,
    seed: int,
) -> dict[str, Any]:
    record = read_record(out)
    expected = (task.name, data_set.name, digest, task.settings(protocol), seed)
    there = task_of(record["task"]).settings(Protocol(**record["protocol"]))
    found = (record["task"], record["source"], record["base_digest"], there, record["seed"])
    if expected != found:
        names = ("task", "source", "model", "protocol", "seed")
        differ = [n for n, a, b in zip(names, expected, found, strict=True) if a != b]
        raise XevalError(
            f"{out}: holds a model of another tuning (other {', '.join(differ)}); choose another folder or remove it"
        )
    if record.get("train_digest") not in (None, train_digest):
        raise XevalError(
            f"{out}: holds a model that was tuned before the training or development data of {data_set.name} changed; "
            "remove it to tune anew, or choose another folder"
        )
    notes: dict[str, Any] = record["notes"]
    return notes


class _Attempt:
    """One tuning, tried with what the machine can do."""

    def __init__(
        self,
        *,
        model: str,
        task: FineTunedTask,
        train: Sequence[Any],
        dev: Sequence[Any],
        language: str,
        protocol: Protocol,
        seed: int,
        watch: Watch,
    ) -> None:
        self.model, self.task, self.train, self.dev = model, task, train, dev
        self.language, self.protocol, self.seed, self.watch = language, protocol, seed, watch
        self.labels = task.labels(train)
        self.at_a_time = protocol.batch_size
        self.bf16 = protocol.precision == "auto" and has_bf16()
        self.notes: list[str] = []

    def until_it_fits(self) -> tuple[Any, dict[str, Any]]:
        """Try; on a loss that is not finite in float32, on too little memory with fewer examples at a time."""
        while True:
            try:
                return self._once()
            except NotFiniteError as error:
                if not self.bf16:
                    raise XevalError(
                        f"{self.model}: {error} in float32 too; lower the learning rate, now {self.protocol.learning_rate!r}"
                    ) from error
                self.bf16 = False
                self._note(f"{error} in bfloat16, so tuning began again in float32")
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not _is_memory(error):
                    raise
                smaller = next(
                    (
                        n
                        for n in range(self.at_a_time // 2, 0, -1)
                        if self.protocol.batch_size % n == 0
                    ),
                    0,
                )
                if not smaller:
                    raise XevalError(
                        f"{self.model}: one example at a time does not fit into memory; lower max_length, now {self.protocol.max_length}"
                    ) from error
                self.at_a_time = smaller
                self._note(
                    f"memory did not suffice, so tuning began again with {smaller} examples at a time"
                )
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _note(self, what: str) -> None:
        self.notes.append(what)
        _log.warning("%s: %s", self.model, what)

    def _once(self) -> tuple[Any, dict[str, Any]]:
        set_seed(self.seed)
        leave_deepspeed_alone()
        self.watch(0, 1, f"opening {self.model}")
        model, pieces = build(self.model, self.task, self.labels, self.protocol)
        self.watch(0, 1, f"encoding {len(self.train):,} and {len(self.dev):,} examples")
        train, split = self.task.encode(pieces, self.train, self.labels)
        dev, _ = self.task.encode(pieces, self.dev, self.labels)

        def dev_score() -> float:
            guesses = predict(
                model, self.task, dev, labels=self.labels, pad_id=pieces.pad_id,
                watch=self.watch, what="development set",
            )  # fmt: skip
            items = self.task.items(self.dev, guesses, self.labels, self.language)
            return next(i for i in items if i.metric == self.task.metrics[0]).value()

        losses = LossMeter()
        keeper = Keeper(
            model, dev_score, losses, protocol=self.protocol, metric=self.task.metrics[0],
            watch=self.watch,
        )  # fmt: skip
        with tempfile.TemporaryDirectory() as scratch:
            trainer = _LabelledTrainer(
                model=model,
                args=self._arguments(scratch),
                train_dataset=train,
                data_collator=lambda chosen: self.task.collate(chosen, pieces.pad_id),
                callbacks=[keeper],
            )
            trainer.losses = losses
            trainer.remove_callback(PrinterCallback)
            trainer.train()
        keeper.restore()
        record = {
            "steps": keeper.steps,
            "best_step": keeper.best_step,
            "dev": {self.task.metrics[0]: keeper.best},
            "precision": "bfloat16" if self.bf16 else "float32",
            "at_a_time": self.at_a_time,
            "notes": [*split, *self.notes],
        }
        return (model.cpu(), pieces), record

    def _arguments(self, scratch: str) -> TrainingArguments:
        p = self.protocol
        arguments = TrainingArguments(
            output_dir=scratch,
            per_device_train_batch_size=self.at_a_time,
            gradient_accumulation_steps=p.batch_size // self.at_a_time,
            max_steps=p.steps,
            learning_rate=p.learning_rate,
            warmup_steps=math.ceil(p.warmup * p.steps),
            weight_decay=p.weight_decay,
            bf16=self.bf16,
            use_cpu=not torch.cuda.is_available(),
            seed=self.seed,
            data_seed=self.seed,
            eval_strategy="no",
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
            label_names=["labels"],
            dataloader_pin_memory=torch.cuda.is_available(),
        )
        _one_device(arguments)
        return arguments


def _one_process() -> None:
    if (processes := int(os.environ.get("WORLD_SIZE", "1"))) > 1:
        raise XevalError(
            f"tuning runs in one process and on one device, but a launcher started {processes}; start it without torchrun"
        )


def _one_device(arguments: TrainingArguments) -> None:
    """Keep to the first of several visible GPUs: a Trainer would split a batch over them, which is no batch of its own size.

    How many there are is counted when `device` is asked for, so the number is put right behind that.
    """
    if arguments.device.type == "cuda" and (visible := arguments.n_gpu) > 1:
        _log.warning(
            "tuning uses %s, one of %d visible GPUs; CUDA_VISIBLE_DEVICES chooses another",
            *(arguments.device, visible),
        )
        arguments._n_gpu = 1


class _LabelledTrainer(Trainer):
    """A Trainer that hands every loss to a meter and batches examples of like length."""

    losses: LossMeter

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **options: Any) -> Any:
        loss: Tensor = super().compute_loss(model, inputs, *args, **options)
        self.losses.add(loss.detach(), self.state.global_step)
        return loss

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        encoded = self.train_dataset if train_dataset is None else train_dataset
        step = self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps
        return _LikeLengths(encoded, step, self.args.seed)


class _LikeLengths(Sampler[int]):
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


def has_bf16() -> bool:
    """Whether this machine multiplies bfloat16 in hardware."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def _is_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return "allocate memory" in str(error) or "out of memory" in str(error)
