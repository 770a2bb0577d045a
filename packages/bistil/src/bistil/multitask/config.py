"""What a teacher is tuned on before a student is distilled from it: tasks, where their data lies, how they take turns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from bistil.errors import ExtractError
from xeval import FineTunedTask, Protocol, task_of

Sampling = Literal["even", "size"]

PROTOCOL = Protocol(batch_size=16, steps=1000, learning_rate=5e-5, weight_decay=0.0, patience=1000)
"""Without weight decay, so that embeddings of pieces which the tasks' data never shows stay as they are."""


@dataclass(frozen=True, kw_only=True)
class TeacherTasks:
    """The tasks that a teacher is tuned on together (ERNIE 3.0 Tiny; Liu et al. 2023), for `bistil.extract`.

    One body and a head for each task; a step is of one task. The heads are dropped afterwards, and the student is distilled from
    the body as from any other.

    Args:
        tasks: of the judge, with a head: pos, dp, ner, nli, paraphrase, topic, qa, choice.
        data: a folder of data as xeval reads it, or `hub:NAME`.
        languages: whose data is learnt, or data sets' own names, these first; a task learns from those that have training and
            development data of it.
        sampling: "even": a round has one step of each task; "size": a step is of a task with the probability that its share of
            the training examples is.
        protocol: steps, rates, lengths and evaluations, as the judge names them; the weights with the best mean over the tasks'
            development sets are kept.
        seed: of heads, order and dropout.

    Raises:
        ExtractError: for no task, one twice, or one that tunes nothing.
        XevalError: for a task that is not known.

    Example:
        >>> TeacherTasks(tasks=("pos", "topic"), languages=("en", "de")).protocol.steps
        1000
    """

    tasks: tuple[str, ...]
    data: str | Path = "data"
    languages: tuple[str, ...] = ("en",)
    sampling: Sampling = "even"
    protocol: Protocol = PROTOCOL
    seed: int = 0

    def __post_init__(self) -> None:
        for name, values in (("tasks", self.tasks), ("languages", self.languages)):
            if not values or len({*values}) != len(values):
                raise ExtractError(
                    f"{name} of a teacher must name one or more, each once, got {', '.join(values) or 'none'}."
                )
        for task in self.tasks:
            if not isinstance(task_of(task), FineTunedTask):
                raise ExtractError(
                    f"The task {task!r} asks a model as it is and tunes nothing; leave it out of the teacher's tasks."
                )
        if self.sampling not in get_args(Sampling):
            raise ExtractError(
                f"sampling must be one of {', '.join(get_args(Sampling))}, got {self.sampling!r}."
            )
