"""What a model costs, at one thread and at several: parameters by place, bytes, operations, time, energy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bistil.export.energy import joules_per_example
from teacherzoo.progress import ProgressCallback, no_progress
from xeval.cost.measure import Cost, cost


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One model.

    Attributes:
        one: at one thread.
        many: at as many as were asked for.
        joules: of the processor for one example at `many`'s threads; None where the machine does not tell.
    """

    one: Cost
    many: Cost
    joules: float | None = None


def measure(
    model: str | Path,
    *,
    threads: int | None = None,
    batch: int = 1,
    length: int = 128,
    repeats: int = 20,
    watch: ProgressCallback = no_progress,
) -> Measured:
    """Measure a model folder as the judge does, at one thread and at `threads`.

    Parameters by place, bytes on disk, operations of the encoder for one example (a multiply-add is two), the median time
    of a forward pass, and, where the processor's counters may be read, the joules of one example: the columns that Ansell
    et al. (2023) compare models by, and energy.

    Args:
        model: a model folder.
        threads: of torch; its own choice by default.
        batch: examples per pass.
        length: sub-words per example.
        repeats: timed passes.
        watch: told passes done.

    Returns:
        The two measurements and the energy.

    Raises:
        XevalError: for a folder that is no model, or a length beyond its limit.

    Example:
        >>> measured = measure("teacher", length=16, repeats=2)
        >>> measured.one.threads, measured.one.flops == measured.many.flops
        (1, True)
    """
    one, many = (
        cost(model, threads=count, batch=batch, length=length, repeats=repeats, watch=watch)
        for count in (1, threads)
    )
    joules = joules_per_example(model, threads=threads, batch=batch, length=length)
    return Measured(one=one, many=many, joules=joules)
