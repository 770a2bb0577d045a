"""Fine-tuning a model on the source language, with early stopping on its development set."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

from xeval.data.folder import DataSet
from xeval.data.source import Source, choose_source, digest_of_training
from xeval.encoder import model_digest, model_name
from xeval.errors import XevalError
from xeval.finetune.callbacks import NotFiniteError
from xeval.finetune.checkpoint import (
    FineTunedModel,
    build,
    leave_deepspeed_alone,
    predict,
    write_finetuned,
)
from xeval.finetune.made_once import work_folder, work_folder_of
from xeval.finetune.record import read_record
from xeval.finetune.trainer import (
    FineTuningTrainer,
    has_bf16,
    is_lack_of_memory,
    refuse_launcher,
    training_arguments,
)
from xeval.progress import ProgressCallback, no_progress
from xeval.protocol import Protocol
from xeval.task_templates.task import FineTunedTask
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
    watch: ProgressCallback = no_progress,
) -> dict[str, Any]:
    """Tune a model on one task and language, and write it to a folder.

    Encoder and head are trained together (Devlin et al. 2019, section 3.2) by AdamW, with linear warm-up and decay. Every
    `evaluate_every` steps the development set of the source language is scored; the best checkpoint is kept, and
    `patience` evaluations without a better one end the training. What a killed process leaves, the next call goes on with,
    to the same bytes. A loss that is not finite starts the tuning again in
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
        >>> from xeval import LocalFolder
        >>> source = LocalFolder(Path("data"))  # with ud/xx_made/train.conllu.xz and dev.conllu.xz
        >>> brief = Protocol(steps=4, evaluate_every=2, batch_size=8)
        >>> notes = tune("small", Path("new"), task="pos", source=source, language="xx", protocol=brief)
        >>> notes["steps"], sorted(notes["dev"])
        (4, ['accuracy'])
    """
    model, protocol = str(model), protocol or Protocol()
    chosen = task_to_tune(task)
    refuse_launcher()
    data_set = choose_source(source.data_sets(chosen), language)
    watch(0, 1, f"reading {data_set.name}")
    inputs: dict[str, Any] = {
        "task": task,
        "source": data_set.name,
        "model": model_digest(model),
        "protocol": chosen.settings(protocol),
        "seed": seed,
        "data": digest_of_training(source, chosen, data_set),
    }
    if out.exists():
        happened = _notes_of_same(out, inputs)
        if work_folder_of(out).exists():  # of a process that was killed behind its last write
            with work_folder(out, inputs, watch):
                pass
        return happened
    with work_folder(out, inputs, watch) as work:
        if out.exists():  # another process made it meanwhile
            return _notes_of_same(out, inputs)
        train, notes = chosen.view(source.read(chosen, data_set, "train"), protocol)
        dev, _ = chosen.view(source.read(chosen, data_set, "dev"), protocol)
        attempts = _Attempts(
            model=model, task=chosen, train=train, dev=dev, data_set=data_set,
            protocol=protocol, seed=seed, work=work, watch=watch,
        )  # fmt: skip
        (network, pieces), record = attempts.until_it_fits()
        record["notes"] = [*notes, *record["notes"]]
        finetuned = FineTunedModel(
            model=network,
            pieces=pieces,
            task=task,
            labels=attempts.labels,
            protocol=protocol,
            source=data_set.name,
            source_language=data_set.language,
            seed=seed,
            base=model_name(model),
            base_digest=inputs["model"],
            train_digest=inputs["data"],
            notes=record,
        )
        made = work / "made"
        shutil.rmtree(made, ignore_errors=True)  # of a process that was killed before it moved it
        write_finetuned(made, finetuned)
        made.rename(out)
    return record


def _notes_of_same(out: Path, inputs: dict[str, Any]) -> dict[str, Any]:
    """What happened when the folder was made of these very inputs."""
    if not (out / "xeval.json").is_file():
        raise XevalError(
            f"{out}: is there already, and `xeval tune` did not write it; choose another folder or remove it"
        )
    record = read_record(out)
    there = {
        "task": record["task"],
        "source": record["source"],
        "model": record["base_digest"],
        "protocol": task_of(record["task"]).settings(Protocol(**record["protocol"])),
        "seed": record["seed"],
    }
    differ = [name for name, value in there.items() if inputs[name] != value]
    if differ:
        raise XevalError(
            f"{out}: holds a model of another tuning (other {', '.join(differ)}); choose another folder or remove it"
        )
    if record.get("train_digest") not in (None, inputs["data"]):
        raise XevalError(
            f"{out}: holds a model that was tuned before the training or development data of {inputs['source']} changed; "
            "remove it to tune anew, or choose another folder"
        )
    notes: dict[str, Any] = record["notes"]
    return notes


class _Attempts:
    """One tuning, tried with what the machine can do; each attempt has a folder of its own for its checkpoints."""

    def __init__(
        self,
        *,
        model: str,
        task: FineTunedTask,
        train: Sequence[Any],
        dev: Sequence[Any],
        data_set: DataSet,
        protocol: Protocol,
        seed: int,
        work: Path,
        watch: ProgressCallback,
    ) -> None:
        self.model, self.task, self.train, self.dev = model, task, train, dev
        self.language, self.protocol, self.seed = data_set.language, protocol, seed
        self.work, self.watch = work, watch
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
                if not is_lack_of_memory(error):
                    raise
                smaller = self._fewer_at_a_time()
                if not smaller:
                    raise XevalError(
                        f"{self.model}: one example at a time does not fit into memory; lower max_length, now {self.protocol.window}"
                    ) from error
                self.at_a_time = smaller
                self._note(
                    f"memory did not suffice, so tuning began again with {smaller} examples at a time"
                )
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _fewer_at_a_time(self) -> int:
        """The next smaller divisor of the batch size, at most half of now; 0 where there is none."""
        divisors = (
            n for n in range(self.at_a_time // 2, 0, -1) if self.protocol.batch_size % n == 0
        )
        return next(divisors, 0)

    def _note(self, sentence: str) -> None:
        self.notes.append(sentence)
        _log.warning("%s: %s", self.model, sentence)

    def _once(self) -> tuple[Any, dict[str, Any]]:
        set_seed(self.seed)
        leave_deepspeed_alone()
        self.watch(0, 1, f"opening {self.model}")
        model, pieces = build(self.model, self.task, self.labels, self.protocol)
        self.watch(0, 1, f"encoding {len(self.train):,} and {len(self.dev):,} examples")
        train, split = self.task.encode(pieces, self.train, self.labels)
        dev, _ = self.task.encode(pieces, self.dev, self.labels)
        metric = self.task.metrics[0]

        def dev_score() -> float:
            guesses = predict(
                model, self.task, dev, labels=self.labels, pad_id=pieces.pad_id,
                watch=self.watch, what="development set",
            )  # fmt: skip
            items = self.task.items(self.dev, guesses, self.labels, self.language)
            return next(i for i in items if i.metric == metric).value()

        precision = "bfloat16" if self.bf16 else "float32"
        trainer = FineTuningTrainer(
            model,
            train=train,
            collate=lambda chosen: self.task.collate(chosen, pieces.pad_id),
            score=dev_score,
            metric=metric,
            patience=self.protocol.patience,
            arguments=training_arguments(
                self.work / f"{precision}-{self.at_a_time}",
                self.protocol,
                metric=metric,
                at_a_time=self.at_a_time,
                bf16=self.bf16,
                seed=self.seed,
            ),
            watch=self.watch,
        )
        state = trainer.train_to_the_end()
        record = {
            "steps": state.global_step,
            "best_step": state.best_global_step,
            "dev": {metric: state.best_metric},
            "precision": precision,
            "at_a_time": self.at_a_time,
            "notes": [*split, *self.notes],
        }
        return (model.cpu(), pieces), record
