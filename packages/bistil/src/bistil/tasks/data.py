"""A task's examples as the batches of a run, in an order that follows from the seed alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bistil.errors import AdaptError
from bistil.text.batches import examples_per_pass
from xeval import DataSet, FineTunedTask, Protocol, task_of
from xeval.data.source import Source, choose_source, digest_of_training
from xeval.finetune.checkpoint import TaskModel, predict
from xeval.task_templates.word_tokenization import Encoded, Pieces


@dataclass(frozen=True, kw_only=True)
class TaskData:
    """The source language's training and development data of one task.

    Attributes:
        task: what it is.
        data_set: where it comes from.
        train: examples.
        dev: examples.
        labels: of a head.
        notes: what was mapped or cut.
        digest: of both, as the judge takes it.
    """

    task: FineTunedTask
    data_set: DataSet
    train: Sequence[Any]
    dev: Sequence[Any]
    labels: tuple[str, ...]
    notes: list[str]
    digest: str


def read_task(task: str, source: Source, language: str, protocol: Protocol) -> TaskData:
    """Read a task's source data.

    Raises:
        AdaptError: for a task without a head.
        XevalError: for data that is absent or broken; it says where.
    """
    chosen = task_of(task)
    if not isinstance(chosen, FineTunedTask):
        raise AdaptError(f"The task {task!r} asks a model as it is, so there is nothing to adapt; choose a task with a head.")  # fmt: skip
    data_set = choose_source(source.data_sets(chosen), language)
    train, notes = chosen.view(source.read(chosen, data_set, "train"), protocol)
    dev, _ = chosen.view(source.read(chosen, data_set, "dev"), protocol)
    return TaskData(
        task=chosen,
        data_set=data_set,
        train=train,
        dev=dev,
        labels=chosen.labels(train),
        notes=notes,
        digest=digest_of_training(source, chosen, data_set),
    )


class TaskBatches(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Examples of like length together, steps in random order; one item for each forward pass of each process.

    How many examples a step takes does not depend on how many forward passes or processes it is shared by, and neither
    does which they are.

    Args:
        encoded: examples.
        task: collates them.
        pad_id: fills short rows.
        steps: optimizer steps.
        examples: in a step.
        unlabelled: so many at the end of `encoded` have labels that stand for nothing, as their batches say.
        passes: forward passes of one process in a step.
        seed: of the order.

    Raises:
        AdaptError: where the examples of a step cannot be shared evenly.
    """

    def __init__(
        self,
        encoded: Sequence[Encoded],
        task: FineTunedTask,
        pad_id: int,
        *,
        steps: int,
        examples: int,
        unlabelled: int = 0,
        passes: int,
        seed: int,
    ) -> None:
        part = examples_per_pass(examples, passes)
        self._encoded, self._task, self._pad_id = encoded, task, pad_id
        self._labelled = len(encoded) - unlabelled
        order = _order([example.length for example in encoded], examples, seed)
        self._items = [
            step[i : i + part] for _, step in zip(range(steps), order, strict=False) for i in range(0, examples, part)
        ]  # fmt: skip

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        numbers = self._items[index]
        batch = self._task.collate([self._encoded[i] for i in numbers], self._pad_id)
        if self._labelled < len(self._encoded):
            batch["unlabelled"] = torch.tensor([i >= self._labelled for i in numbers])
        return batch


def _order(lengths: Sequence[int], examples: int, seed: int) -> Iterator[list[int]]:
    """Steps of `examples` numbers, without end: each pass over the data in a new order, its rest carried to the next pass."""
    generator = torch.Generator().manual_seed(seed)
    left: list[int] = []
    while True:
        order = left + torch.randperm(len(lengths), generator=generator).tolist()
        whole = len(order) // examples * examples
        order, left = order[:whole], order[whole:]
        steps = []
        for start in range(0, whole, 32 * examples):
            near = sorted(order[start : start + 32 * examples], key=lengths.__getitem__)
            steps += [near[i : i + examples] for i in range(0, len(near), examples)]
        for number in torch.randperm(len(steps), generator=generator).tolist():
            yield steps[number]


def dev_score(model: TaskModel, data: TaskData, dev: Sequence[Encoded], pieces: Pieces) -> float:
    """The task's first metric on the development set."""
    guesses = predict(model, data.task, dev, labels=data.labels, pad_id=pieces.pad_id, what="dev")
    items = data.task.items(data.dev, guesses, data.labels, data.data_set.language)
    return next(item for item in items if item.metric == data.task.metrics[0]).value()
