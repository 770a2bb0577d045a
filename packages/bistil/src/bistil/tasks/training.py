"""A model with a task's head, trained by lottery ticket: on gold labels, or on a teacher's predictions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bistil.lottery.config import Evaluation, Sparsity, TrainingPlan
from bistil.lottery.lottery_ticket import (
    Ticket,
    entries_to_keep,
    lottery_ticket,
    trainable_body,
)
from bistil.lottery.training_run import check_arguments
from bistil.tasks.data import TaskBatches, TaskData, dev_score
from bistil.text.batches import examples_per_pass
from teacherzoo.cache import cleared_if_diverged
from teacherzoo.digests import digest_of_arguments
from teacherzoo.encoders.kinds import transformer_folder
from teacherzoo.encoders.teachers import teacher_folder
from teacherzoo.processes import world_size
from teacherzoo.progress import ProgressCallback, no_progress
from teacherzoo.training import arguments
from xeval import Protocol
from xeval.encoder import named
from xeval.finetune.checkpoint import TaskModel, build
from xeval.task_templates.word_tokenization import Pieces

Objective = Callable[[TaskModel, int], nn.Module]

PROTOCOL = Protocol(batch_size=8, warmup=0.0, patience=1000, weight_decay=0.0, max_length=256)
"""LT-SFT trains without weight decay, its rate falls from the first step on, and it takes all its steps."""


@dataclass(frozen=True, kw_only=True)
class TaskTraining:
    """How a task is learnt.

    Args:
        protocol: steps of the last phase, rates, lengths and evaluations, as the judge names them.
        sparsity: what is kept.
        seed: of head, order and dropout.
        checkpoint_every: steps between checkpoints; None for as many as between evaluations.
        arguments: further arguments of `transformers.TrainingArguments`, such as `deepspeed`.
    """

    protocol: Protocol = PROTOCOL
    sparsity: Sparsity = field(default_factory=Sparsity)
    seed: int = 0
    checkpoint_every: int | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {**asdict(self), "arguments": dict(self.arguments)}

    def decides(self) -> dict[str, Any]:
        """What of it decides the outcome, as plain values: of files that are named, the contents."""
        return {**asdict(self), "arguments": digest_of_arguments(self.arguments)}


def plan_of(training: TaskTraining) -> TrainingPlan:
    """How the last phase goes.

    Raises:
        AdaptError: for Trainer arguments that the training cannot honour, and examples that cannot be shared evenly.
    """
    protocol = training.protocol
    plan = TrainingPlan(
        steps=protocol.steps,
        learning_rate=protocol.learning_rate,
        warmup=protocol.warmup,
        weight_decay=protocol.weight_decay,
        evaluate_every=protocol.evaluate_every,
        patience=protocol.patience,
        checkpoint_every=training.checkpoint_every or protocol.evaluate_every,
        bf16=protocol.precision == "auto" and arguments.has_bfloat16(),
        seed=training.seed,
        arguments=training.arguments,
        per_step=protocol.batch_size,
    )
    check_arguments(plan)
    examples_per_pass(protocol.batch_size, plan.passes)
    return plan


def require_entries(model: str | Path, sparsity: Sparsity) -> None:
    """Refuse what cannot be kept of a model's body, by its configuration alone.

    Raises:
        SparseError: where that is nothing, or more than there is.
    """
    if not sparsity.full:
        entries_to_keep(trainable_body(shell(model), sparsity), sparsity)


def shell(model: str | Path) -> Any:
    """An encoder without weights.

    Raises:
        TeacherError, XevalError: where there is none.
    """
    from transformers import AutoConfig, AutoModel

    folder = transformer_folder(teacher_folder(model))
    with named(str(model), "model"), torch.device("meta"):
        return AutoModel.from_config(AutoConfig.from_pretrained(folder, trust_remote_code=False))


def untrained(
    model: str | Path, data: TaskData, training: TaskTraining
) -> tuple[TaskModel, Pieces]:
    """A folder's encoder with a fresh head, the same for the same seed."""
    from transformers import set_seed

    set_seed(training.seed)
    return build(str(model), data.task, data.labels, training.protocol)


def train_task(
    model: TaskModel,
    pieces: Pieces,
    data: TaskData,
    training: TaskTraining,
    work: Path,
    *,
    objective: Objective | None = None,
    unlabelled: Mapping[str, Sequence[Any]] | None = None,
    watch: ProgressCallback = no_progress,
) -> tuple[Ticket, dict[str, Any]]:
    """Train in place; see `lottery_ticket`.

    Args:
        model: with the head to train.
        pieces: its tokenizer.
        data: of the source language.
        training: steps and what is kept.
        work: for checkpoints, a work folder of `teacherzoo.cache.made_once`.
        objective: (model, forward passes of a step over all processes) to what computes the loss; None for the model's own
            on the labels.
        unlabelled: per language examples for the objective alone, drawn as often as others.
        watch: told (done, total, what).

    Returns:
        The differences, and notes for the record: steps, the development score of the model as it is left.
    """
    protocol, task, plan = training.protocol, data.task, plan_of(training)
    encoded, split = task.encode(pieces, data.train, data.labels)
    text = [example for examples in (unlabelled or {}).values() for example in examples]
    encoded_text, split_text = task.encode(pieces, text, data.labels) if text else ([], [])
    dev, _ = task.encode(pieces, data.dev, data.labels)

    def batches(steps: int) -> TaskBatches:
        return TaskBatches(
            [*encoded, *encoded_text], task, pieces.pad_id, steps=steps, examples=protocol.batch_size, unlabelled=len(text),
            passes=plan.passes, seed=training.seed,
        )  # fmt: skip

    def score() -> float:
        return dev_score(model, data, dev, pieces)

    learner = model if objective is None else objective(model, plan.passes * world_size())
    with cleared_if_diverged(work):
        ticket = lottery_ticket(
            learner, model, batches, plan, training.sparsity, work,
            evaluation=Evaluation(measure=score, words=f"{task.metrics[0]} {{:.2f}}"), watch=watch,
        )  # fmt: skip
    record = {
        **ticket.record,
        "dev": {task.metrics[0]: score()},
        "precision": "bfloat16" if plan.bf16 else "float32",
        "sparsity": asdict(training.sparsity),
        "notes": [*data.notes, *split, *(f"text: {note}" for note in split_text)],
    }
    if unlabelled:
        record["text"] = {language: len(examples) for language, examples in unlabelled.items()}
    return ticket, record
