"""Several tasks' data as one sequence of batches: which task has a turn at a step, and with which of its examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from bistil.errors import ExtractError
from bistil.multitask.config import Sampling, TeacherTasks
from bistil.tasks.data import TaskBatches
from teacherzoo.processes import world_size
from xeval import DataSet, FineTunedTask, open_source, task_of
from xeval.data.source import Source, choose_source, digest_of_training
from xeval.task_templates.word_tokenization import Encoded


@dataclass(frozen=True, kw_only=True)
class TrainedTask:
    """One task's data, of all languages that it is learnt in.

    Attributes:
        task: what it is.
        train: examples of all its data sets.
        dev: of each data set.
        labels: of the head.
        digests: of each data set.
    """

    task: FineTunedTask
    train: Sequence[Any]
    dev: Mapping[DataSet, Sequence[Any]]
    labels: tuple[str, ...]
    digests: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class TaskMixture:
    """The tasks with their data, read and checked.

    Attributes:
        asked: how they are learnt.
        tasks: in the order in which they were asked for.
    """

    asked: TeacherTasks
    tasks: tuple[TrainedTask, ...]

    def inputs(self) -> dict[str, Any]:
        """What of them decides the teacher: contents, not where they lie."""
        return {
            "tasks": [[task.task.name, [sets.name for sets in task.dev], task.digests] for task in self.tasks],
            "sampling": self.asked.sampling,
            "protocol": asdict(self.asked.protocol),
            "seed": self.asked.seed,
        }  # fmt: skip


def read_mixture(asked: TeacherTasks) -> TaskMixture:
    """Read training and development data of every task.

    Raises:
        ExtractError: for a task or a language without such data.
        XevalError: for data that is broken, and a language with several sets of a task's data; it says where.
    """
    source = open_source(asked.data)
    tasks: list[TrainedTask] = []
    learnt: set[str] = set()
    for name in asked.tasks:
        task = task_of(name)
        assert isinstance(task, FineTunedTask)  # checked when it was asked for
        sets = source.data_sets(task)
        meant = _sets_of(sets, asked.languages)
        if not meant:
            raise ExtractError(
                f"{asked.data}: there is no training and development data of {name} for {', '.join(asked.languages)}, only the sets "
                f"{', '.join(data_set.short for data_set in sets)}; name another language, or leave the task out."
            )
        learnt |= meant.keys()
        tasks.append(_read(task, source, list(dict.fromkeys(meant.values())), asked))
    if idle := [language for language in asked.languages if language not in learnt]:
        raise ExtractError(
            f"{asked.data}: for {idle[0]} there is no training and development data of {' or '.join(asked.tasks)}; leave the language "
            "out of the teacher's tasks."
        )
    return TaskMixture(asked=asked, tasks=tuple(tasks))


def _sets_of(sets: Sequence[DataSet], wanted: Sequence[str]) -> dict[str, DataSet]:
    """What is learnt from, by the language or the name that asked for it; where a set is named, it is that of its language."""
    meant: dict[str, DataSet] = {}
    for name in wanted:
        fit = [data_set for data_set in sets if name in (data_set.short, data_set.name, data_set.language) and {"train", "dev"} <= {*data_set.splits}]  # fmt: skip
        named = [data_set for data_set in meant.values() if data_set in fit]
        if fit:
            meant[name] = named[0] if named else choose_source(sets, name)
    return meant


def _read(
    task: FineTunedTask, source: Source, sets: Sequence[DataSet], asked: TeacherTasks
) -> TrainedTask:
    def examples(data_set: DataSet, split: str) -> Sequence[Any]:
        return task.view(source.read(task, data_set, split), asked.protocol)[0]

    train = [example for data_set in sets for example in examples(data_set, "train")]
    return TrainedTask(
        task=task,
        train=train,
        dev={data_set: examples(data_set, "dev") for data_set in sets},
        labels=task.labels(train),
        digests=tuple(digest_of_training(source, task, data_set) for data_set in sets),
    )


def turns(sizes: Sequence[int], steps: int, sampling: Sampling, seed: int) -> list[int]:
    """The number of the task of each step.

    Args:
        sizes: training examples of each task.
        steps: how many turns there are.
        sampling: see `TeacherTasks`.
        seed: of the order.

    Example:
        >>> order = turns([900, 100], 1000, "even", 0)
        >>> order.count(1), all({*order[i : i + 2]} == {0, 1} for i in range(0, 1000, 2))
        (500, True)
    """
    generator = torch.Generator().manual_seed(seed)
    if sampling == "size":
        shares = torch.tensor(sizes, dtype=torch.float64)
        return [int(task) for task in torch.multinomial(shares, steps, replacement=True, generator=generator)]  # fmt: skip
    rounds = -(-steps // len(sizes))
    order = [task for _ in range(rounds) for task in torch.randperm(len(sizes), generator=generator).tolist()]  # fmt: skip
    return order[:steps]


class MixedBatches(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Batches of one task each, with its number as `task` []; one item for each forward pass of each process.

    Args:
        encoded: each task's examples.
        tasks: collate them.
        pad_id: fills short rows.
        asked: examples of a step, steps, sampling and seed.
        passes: forward passes of one process in a step.
    """

    def __init__(
        self,
        encoded: Sequence[Sequence[Encoded]],
        tasks: Sequence[FineTunedTask],
        pad_id: int,
        *,
        asked: TeacherTasks,
        passes: int = 1,
    ) -> None:
        protocol = asked.protocol
        self._turns = turns([len(examples) for examples in encoded], protocol.steps, asked.sampling, asked.seed)  # fmt: skip
        self._per_step = passes * world_size()
        steps: Counter[int] = Counter()
        self._earlier = []
        for task in self._turns:
            self._earlier.append(steps[task])
            steps[task] += 1
        self._batches = [
            TaskBatches(
                examples, task, pad_id, steps=steps[number], examples=protocol.batch_size, passes=passes, seed=asked.seed + number
            )
            for number, (examples, task) in enumerate(zip(encoded, tasks, strict=True))
        ]  # fmt: skip

    def __len__(self) -> int:
        return len(self._turns) * self._per_step

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        step, part = divmod(index, self._per_step)
        task = self._turns[step]
        batch = self._batches[task][self._earlier[step] * self._per_step + part]
        return {**batch, "task": torch.tensor(task)}
