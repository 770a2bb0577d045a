"""Many jobs side by side: a process for each core and a bar for each job."""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

_reports: Any = None  # a worker's way to tell the main process how far it is


def _begin_worker(reports: Any) -> None:
    global _reports
    _reports = reports
    import torch
    from transformers.utils.logging import disable_progress_bar

    torch.set_num_threads(1)
    disable_progress_bar()  # the pool has bars of its own
    logging.getLogger("DeepSpeed").disabled = True  # it warns of machines without a GPU


def _work(name: str, job: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    return job(*arguments, lambda done, total, what: _reports.put((name, done, total, what)))


class ProcessPool:
    """A process for each core, and a bar for each job."""

    def __init__(self, console: Console) -> None:
        self._console = console
        context = multiprocessing.get_context("spawn")
        self._reports = context.Manager().Queue()
        self._pool = ProcessPoolExecutor(
            max_workers=os.cpu_count(),
            mp_context=context,
            initializer=_begin_worker,
            initargs=(self._reports,),
        )

    def run(self, jobs: Mapping[str, tuple[Any, ...]]) -> dict[str, Any]:
        """Do all jobs, a function and its arguments each; returns what they return."""
        with Progress(
            TextColumn("  {task.fields[name]:<28}"), BarColumn(24), TimeElapsedColumn(),
            TextColumn("{task.description}"), console=self._console,
        ) as bars:  # fmt: skip
            lines = {name: bars.add_task("waits", name=name, total=None) for name in jobs}
            futures: dict[Future[Any], str] = {
                self._pool.submit(_work, name, job, arguments): name
                for name, (job, *arguments) in jobs.items()
            }
            results, open_ = {}, set(futures)
            while open_:
                done, open_ = wait(open_, timeout=0.2, return_when=FIRST_COMPLETED)
                self._show(bars, lines)
                for future in done:
                    name = futures[future]
                    results[name] = future.result()
                    bars.update(lines[name], total=1, completed=1, description="done")
        return results

    def _show(self, bars: Progress, lines: Mapping[str, TaskID]) -> None:
        while not self._reports.empty():
            name, done, total, what = self._reports.get()
            bars.update(lines[name], completed=done, total=total or None, description=what)

    def close(self) -> None:
        """End the processes."""
        self._pool.shutdown()
