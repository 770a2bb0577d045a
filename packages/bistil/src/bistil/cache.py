"""The folder beside an outcome in which a run keeps what it needs to go on."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bistil.errors import AdaptError, BistilError
from teacherzoo.processes import rank, wait_for_all

if TYPE_CHECKING:
    from filelock import BaseFileLock

_NOTES = {"plan.json", "lock"}
_LOCKS: dict[Path, BaseFileLock] = {}  # held by this process, by the folder they are in


def work_folder(
    out: Path, stated: Mapping[str, Any], *, error: type[BistilError] = AdaptError
) -> Path:
    """The folder for what makes `out`; one that is left from other arguments, or that another process works in, is refused.

    From here on the folder is this process's until `remove_work`, or until the process ends, killed or not: two would write
    the same checkpoints. Under a launcher the first process holds it for all.

    Args:
        out: which must not exist.
        stated: everything that decides the outcome, as plain values.
        error: the kind of refusal.

    Raises:
        BistilError: of that kind, where `out` exists, another run was interrupted there, or one is going on.
    """
    refuse_what_exists(out, error)
    work = out.with_name(f".{out.name}.making")
    if rank() == 0:
        _lock(out, work, error)
    wait_for_all()
    note, text = work / "plan.json", json.dumps(stated, indent=1, sort_keys=True, default=str)
    other = note.exists() and note.read_text(encoding="utf-8") != text
    # A run that was refused before it made anything stands in nobody's way.
    if other and {file.name for file in work.iterdir()} - _NOTES:
        _unlock(work)
        raise error(
            f"{work} is left from a run with other arguments; remove it, or call it with those again."
        )
    if rank() == 0 and (other or not note.exists()):
        part = work / "plan.json.part"
        part.write_text(text, encoding="utf-8")
        part.replace(note)
    wait_for_all()
    return work


def refuse_what_exists(out: Path, error: type[BistilError]) -> None:
    """Refuse to write over something.

    Raises:
        BistilError: of that kind, where `out` exists.
    """
    if out.exists():
        raise error(f"{out} exists already; remove it, or choose another name.")


def _lock(out: Path, work: Path, error: type[BistilError]) -> None:
    from filelock import FileLock, Timeout

    folder = work.absolute()
    if folder in _LOCKS:
        if (work / "lock").exists():
            return
        _unlock(work)  # somebody removed the folder
    work.mkdir(parents=True, exist_ok=True)
    lock = FileLock(work / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as held:
        raise error(
            f"{out}: another process is making it; wait until that one is done, or choose another name."
        ) from held
    if out.exists():  # the other one has just finished
        lock.release()
        remove_work(work)
        refuse_what_exists(out, error)
    _LOCKS[folder] = lock


@contextlib.contextmanager
def alone_in(folder: Path, watch: Callable[[int, int, str], None]) -> Iterator[None]:
    """Wait until no other process is in this block for this folder, which may be one that several runs take from."""
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        watch(0, 0, f"waiting for another run that fills {folder}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def remove_work(work: Path) -> None:
    """Remove such a folder. On a network file system a file that is still open stays, hidden, until its process ends."""
    shutil.rmtree(work, ignore_errors=True)
    _unlock(work)


def _unlock(work: Path) -> None:
    if lock := _LOCKS.pop(work.absolute(), None):
        lock.release()
