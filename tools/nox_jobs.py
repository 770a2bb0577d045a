"""Jobs of nox side by side: while one waits for a process or a disk, others have the processors.

What a job prints is kept until it has ended, and comes whole.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A job that has ended.

    Attributes:
        job: its name.
        result: `success` or `failed`.
        seconds: that it took, beside the others.
        processor_seconds: of itself and of all processes that it started and waited for.
        printed: all that it printed.
    """

    job: str
    result: str
    seconds: float
    processor_seconds: float
    printed: str


def run_jobs(jobs: Sequence[str], *, at_once: int, **environment: str) -> Iterator[Ended]:
    """Run jobs of nox in the current folder, which begin in their order; each comes when it has ended.

    Args:
        jobs: their names, such as `tests(xeval)`.
        at_once: how many run at a time.
        environment: variables that they see beside those of this process.
    """
    pool = ThreadPoolExecutor(at_once)
    running = [pool.submit(_run, job, environment) for job in jobs]
    try:
        for future in as_completed(running):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _run(job: str, environment: dict[str, str]) -> Ended:
    begun = time.monotonic()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "nox", "-s", job],
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        return Ended(
            job=job,
            result="failed" if process.returncode else "success",
            seconds=time.monotonic() - begun,
            processor_seconds=usage.ru_utime + usage.ru_stime,
            printed=output.read().decode(errors="replace"),
        )
