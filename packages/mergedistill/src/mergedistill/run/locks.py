"""One run at a time in a folder: the second is told who works there, in one sentence."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mergedistill.errors import StageError
from teacherzoo.processes import rank

_LOCK, _HOLDER = ".lock", ".held-by.json"


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Inside, no other process works in `folder`; a killed one leaves it free. Under a launcher the first process holds it.

    Args:
        folder: made if it is not there.

    Raises:
        StageError: where another process is inside, naming it, or where there can be no such folder.
    """
    if rank() != 0:
        yield
        return
    from filelock import FileLock, Timeout

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise StageError(
            f"{folder} is to be a folder to work in, and cannot be ({error.strerror}); choose another."
        ) from error
    lock = FileLock(folder / _LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as held:
        raise StageError(
            f"{folder} is in use by {_holder(folder)}; wait until that is done, or end it, and run the same command again."
        ) from held
    try:
        with suppress(OSError):  # a full disk: the lock holds, and who has it is not told
            _sign(folder)
        yield
    finally:
        (folder / _HOLDER).unlink(missing_ok=True)
        lock.release()


def _sign(folder: Path) -> None:
    part = folder / f"{_HOLDER}.part"
    holder = {
        "process": os.getpid(),
        "machine": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
    part.write_text(json.dumps(holder) + "\n")
    part.replace(folder / _HOLDER)


def _holder(folder: Path) -> str:
    try:
        holder = json.loads((folder / _HOLDER).read_text())
    except (OSError, ValueError):  # it has just begun, or is just ending
        return "another process"
    return f"process {holder['process']} on {holder['machine']} since {holder['since']}"
