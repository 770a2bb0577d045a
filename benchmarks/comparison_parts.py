"""The parts of a comparison that do not wait for one another, several processes at a time: for a GPU that one leaves idle."""

from __future__ import annotations

import importlib
import multiprocessing
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import NamedTuple

from bistil.compare.systems import SYSTEMS
from xeval import FineTunedTask, task_of

_LOADED_ONCE = (  # seconds each, in every process that has to
    "bistil.extract.run",
    "bistil.tasks.adapt",
    "sentence_transformers",
    "sklearn.linear_model",
    "transformers.models.bert.modeling_bert",
    "xeval.finetune.tune",
)
_UNTRAINED = ("trimmed", "small", "cut")  # the second is made of the others


class Part(NamedTuple):
    """What one process makes, one after the other."""

    systems: tuple[str, ...]
    tasks: tuple[str, ...]


def rounds(systems: Sequence[str], tasks: Sequence[str]) -> list[list[Part]]:
    """What may be made side by side, round after round: the models, what learns from labels, what learns from a tuned teacher.

    Args:
        systems: names.
        tasks: names.

    Returns:
        Rounds of parts, each of which makes no model that another of its round makes.

    Example:
        >>> rounds(["whole+full", "bistil+full+labels"], ["bitext", "pos"])[1]
        [Part(systems=('whole+full',), tasks=('pos',)), Part(systems=('bistil+full+labels',), tasks=('pos',))]
    """
    as_they_are = tuple(task for task in tasks if not isinstance(task_of(task), FineTunedTask))
    tuned = tuple(task for task in tasks if task not in as_they_are)
    groups: dict[str, list[str]] = {}
    for system in systems:
        model = SYSTEMS[system].model
        groups.setdefault("cut" if model in _UNTRAINED else model, []).append(system)
    taught = [name for name in systems if SYSTEMS[name].taught]
    by_labels = [name for name in systems if name not in taught]
    if as_they_are:
        models = [Part(tuple(group), as_they_are) for group in groups.values()]
        from_labels = [Part((name,), (task,)) for task in tuned for name in by_labels]
    else:  # what a model learns first makes it
        models = []
        from_labels = [Part(tuple(name for name in group if name in by_labels), tuned) for group in groups.values()]  # fmt: skip
    if "whole" in systems:  # the teacher of every task is there
        from_teachers = [Part((name,), (task,)) for task in tuned for name in taught]
    else:
        from_teachers = [Part(tuple(taught), (task,)) for task in tuned]
    return [models, from_labels, from_teachers]


def make(
    parts: Sequence[Sequence[Part]], one: Callable[[Part], object], *, processes: int
) -> list[Part]:
    """Make the parts, round by round, and say when each began and ended.

    Args:
        parts: of each round.
        one: makes a part, in a process that has what this one has loaded.
        processes: at a time.

    Returns:
        The parts that failed, whose tracebacks were printed.
    """
    for module in _LOADED_ONCE:
        importlib.import_module(module)
    failed = []
    for number, of_round in enumerate(parts, start=1):
        asked = [part for part in of_round if part.systems and part.tasks]
        context = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(processes, context, initializer=_keep, initargs=(one,)) as pool:
            futures = {pool.submit(_timed, part): part for part in asked}
            for future in as_completed(futures):
                part = futures[future]
                error = future.exception()
                if error is not None:
                    failed.append(part)
                    traceback.print_exception(error)
                print(
                    f"round {number}, {' '.join(part.systems)}, {' '.join(part.tasks)}: "
                    f"{'failed' if error else f'{future.result():.0f} s'}",
                    flush=True,
                )
    return failed


_KEPT: list[
    Callable[[Part], object]
] = []  # of this process; a function need not be one that can be sent


def _keep(one: Callable[[Part], object]) -> None:
    _KEPT[:] = [one]


def _timed(part: Part) -> float:
    start = time.monotonic()
    _KEPT[0](part)
    return time.monotonic() - start
