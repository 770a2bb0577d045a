"""The tasks, one file each. To add one: its file, and its line here."""

from xeval.errors import XevalError
from xeval.task_templates.task import FineTunedTask, Task
from xeval.tasks import (
    bitext,
    bpb,
    choice,
    classification,
    dp,
    ner,
    pos,
    pos_probe,
    qa,
    rerank,
    retrieval,
    sts,
    topic_probe,
    topic_ridge,
)

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        pos.TASK,
        pos_probe.TASK,
        dp.TASK,
        ner.TASK,
        *classification.TASKS,
        topic_probe.TASK,
        topic_ridge.TASK,
        choice.TASK,
        qa.TASK,
        bitext.TASK,
        sts.TASK,
        retrieval.TASK,
        rerank.TASK,
        bpb.TASK,
    )
}


def task_of(name: str) -> Task:
    """The task of that name.

    Raises:
        XevalError: listing the names there are.

    Example:
        >>> task_of("dp").metrics
        ('las', 'uas', 'clas')
    """
    if name not in TASKS:
        raise XevalError(f"task {name!r} is not known; known are {', '.join(TASKS)}")
    return TASKS[name]


def task_to_tune(name: str) -> FineTunedTask:
    """The task of that name, which has a head.

    Raises:
        XevalError: it has none, or there is no such task.
    """
    task = task_of(name)
    if not isinstance(task, FineTunedTask):
        raise XevalError(
            f"task {name!r} asks a model as it is and needs no tuning; run `xeval score`"
        )
    return task
