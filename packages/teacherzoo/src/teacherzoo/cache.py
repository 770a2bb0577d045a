"""What is dear to make is made once: known by what it is made of, made by one run at a time, there whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from teacherzoo.atomic_write import MARKER, remove, written_whole
from teacherzoo.digests import keep_digests
from teacherzoo.errors import CacheError, DivergenceError
from teacherzoo.processes import rank, wait_for_all
from teacherzoo.progress import ProgressCallback, no_progress

if TYPE_CHECKING:
    from filelock import BaseFileLock

MADE = "made"
"""In a work folder, what becomes the outcome."""
DIGESTS = "digests.json"
"""In a work folder or a cache, digests of the files that were read (see `keep_digests`)."""
NOTE = "made_of.json"
"""In a work folder, what it is made of; in a cache, the digest of that."""
_LOCK, _HOLDER = ".lock", ".held-by.json"
_NOTES = {NOTE, _LOCK, _HOLDER, DIGESTS}


def made_once(
    place: Path,
    inputs: Mapping[str, Any],
    make: Callable[[Path], object],
    *,
    together: bool = False,
    refuse: type[Exception] | None = None,
    exclusive: Sequence[str] | None = None,
    watch: ProgressCallback = no_progress,
) -> Path:
    """`place`, made now unless it is there already, made of these very inputs.

    It is made in a work folder beside it and renamed when it is whole. What a killed run left there is found again by the
    next one of the same inputs, which goes on. Two runs never work there at once.

    In a cache, whoever comes second waits, and what is there of other inputs is made anew. For a name that a user chose,
    both are refused, and so is what exists already: nobody's work is written over.

    Args:
        place: the outcome: in a cache a folder, by a user's name a folder or a file.
        inputs: all that decides it, as plain values: digests of contents (see `teacherzoo.digests`), never paths, so that what
            moved is the same and what changed is not.
        make: given the work folder, it leaves the outcome there as `MADE`, and whatever else it needs to go on.
        together: whether all processes of a launcher make it together; else the first one does, and the others wait.
        refuse: what to raise where a user chose the name; None in a cache.
        exclusive: paths in the work folder whose files are of these inputs alone; all else there is known by what it is made of, and
            serves a call of other inputs, too. None where every file is of these alone.
        watch: told (done, total, what) of waiting.

    Returns:
        `place`.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> def count(work: Path) -> None:
        ...     (work / MADE).mkdir()
        ...     print("counting")
        >>> _ = made_once(folder / "counts", {"text": "58de56"}, count)
        counting
        >>> made_once(folder / "counts", {"text": "58de56"}, count).name
        'counts'
    """
    if refuse is not None:
        refuse_what_exists(place, refuse)
    work = work_dir(place)
    with contextlib.ExitStack() as held:
        if not is_made(place, inputs):
            held.enter_context(alone_in(work, name=place, refuse=refuse, watch=watch))
        wait_for_all()
        made = is_made(place, inputs)
        appeared = refuse is not None and place.exists()  # the run before has just finished
        if not (made or appeared):
            _refuse_other_work(work, inputs, refuse, exclusive)
        wait_for_all()
        if made or appeared:
            if rank() == 0:
                remove(work)
            if refuse is not None:
                refuse_what_exists(place, refuse)
            return place
        if rank() == 0:
            _begin(work, inputs, exclusive)
        wait_for_all()
        if together or rank() == 0:
            with _cleared_of_halves(work):
                make(work)
        wait_for_all()
        if rank() == 0:
            _finish(work, place, inputs, noted=refuse is None)
        wait_for_all()
    return place


@contextlib.contextmanager
def cleared_if_refused(*places: Path) -> Iterator[None]:
    """Inside, what is refused leaves nothing in these places of a work folder.

    The mended call is of other inputs, which would take them for the work of a killed run.
    """
    try:
        yield
    except ValueError:  # of which all refusals are
        for place in places:
            remove(place)
        raise


@contextlib.contextmanager
def gone_if_refused(folder: Path, *, new: bool) -> Iterator[None]:
    """Inside, what is refused takes a new folder along, unless a file was written into it."""
    try:
        yield
    except ValueError:  # of which all refusals are
        if new and not _has_files(folder):
            remove(folder)
        raise


@contextlib.contextmanager
def cleared_if_diverged(work: Path) -> Iterator[None]:
    """Inside, a training that diverges before its first whole checkpoint leaves nothing in a work folder.

    The call with a lower learning rate is of other inputs, which would take what lies there for the work of a killed run.
    Whole checkpoints stay: they may be worth days.
    """
    try:
        yield
    except DivergenceError:
        if rank() == 0 and not any(work.rglob(f"checkpoint-*/{MARKER}")):
            _clear(work)
        raise


def work_dir(place: Path) -> Path:
    """Where `made_once` works on an outcome: `.NAME.making` beside it."""
    return place.with_name(f".{place.name}.making")


def is_made(folder: Path, inputs: Mapping[str, Any]) -> bool:
    """Whether a cache has a folder, made of these very inputs."""
    try:
        noted = json.loads((folder / NOTE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(noted == {"inputs": digest_of_values(inputs)})


def digest_of_values(inputs: Any) -> str:
    """Of plain values, as long as one of bytes; the order of keys does not count, that of lists does.

    Example:
        >>> digest_of_values({"a": 1, "b": [2, 3]}) == digest_of_values({"b": [2, 3], "a": 1})
        True
    """
    return hashlib.blake2b(_as_text(inputs).encode(), digest_size=16).hexdigest()


def refuse_what_exists(place: Path, refuse: type[Exception]) -> None:
    """Refuse to write over something.

    Raises:
        Exception: the given one, where `place` exists.
    """
    if place.name:  # of `.` and `/`, which exist, there is none
        remove(_done_with(place))
    if place.exists():
        raise refuse(f"{place} exists already; remove it, or choose another name.")


@contextlib.contextmanager
def alone_in(
    folder: Path,
    *,
    name: Path | None = None,
    refuse: type[Exception] | None = CacheError,
    watch: ProgressCallback = no_progress,
) -> Iterator[None]:
    """Inside, no other run works in `folder`; a killed one leaves it free. Under a launcher the first process holds it for all.

    Args:
        folder: made if it is not there, and gone again where what is done inside is refused before it has written a file.
        name: what messages call it; the folder itself by default.
        refuse: what to raise where another run is inside; None to wait for it.
        watch: told (done, total, what) of waiting.

    Raises:
        CacheError: or the given one, where another run is inside, naming it, or where there can be no such folder.
    """
    if rank() != 0:
        yield
        return
    new = not folder.exists()
    lock = _locked(folder, name or folder, refuse, watch)
    try:
        # On a full disk the lock holds, and who has it is not told.
        with contextlib.suppress(OSError):
            _sign(folder)
        with gone_if_refused(folder, new=new):
            yield
    finally:
        (folder / _HOLDER).unlink(missing_ok=True)
        lock.release()


@contextlib.contextmanager
def alone_at(place: Path, *, refuse: type[Exception]) -> Iterator[None]:
    """As `alone_in` a folder beside `place`, which is gone afterwards: for what is made in `place` itself, piece by piece.

    Args:
        place: a folder, there or not; one that was not there is gone again where what is done inside is refused before it has
            written a file.
        refuse: what to raise where another run is inside.

    Raises:
        Exception: the given one.
    """
    work, new = work_dir(place), not place.exists()
    with alone_in(work, name=place, refuse=refuse):
        try:
            with gone_if_refused(place, new=new and rank() == 0):
                yield
        finally:
            if rank() == 0:
                remove(work)


def _refuse_other_work(
    work: Path,
    inputs: Mapping[str, Any],
    refuse: type[Exception] | None,
    exclusive: Sequence[str] | None,
) -> None:
    """A run that was refused before it made anything of its own stands in nobody's way."""
    if refuse is not None and not _is_of(work, inputs) and _has_work(work, exclusive):
        raise refuse(
            f"{work} is left from a run with other arguments; remove it, or call it with those again."
        )


def _begin(work: Path, inputs: Mapping[str, Any], exclusive: Sequence[str] | None) -> None:
    if not _is_of(work, inputs):
        if exclusive is None:
            _clear(work)
        else:
            for name in exclusive:
                remove(work / name)
        with written_whole(work / NOTE) as part:
            part.write_text(_as_text(inputs), encoding="utf-8")
    remove(work / MADE)
    keep_digests(work / DIGESTS)


def _clear(work: Path) -> None:
    """But for what `made_once` itself notes there."""
    for left in work.iterdir():
        if left.name not in _NOTES:
            remove(left)


@contextlib.contextmanager
def _cleared_of_halves(work: Path) -> Iterator[None]:
    """What was refused or interrupted leaves what it can go on with, and nothing else."""
    try:
        yield
    except BaseException:
        if rank() == 0:
            remove(work / MADE)
            if not _has_work(work):
                remove(work)
        raise


def _finish(work: Path, place: Path, inputs: Mapping[str, Any], *, noted: bool) -> None:
    if noted:
        note = json.dumps({"inputs": digest_of_values(inputs)})
        (work / MADE / NOTE).write_text(note + "\n", encoding="utf-8")
        remove(place)
    (work / MADE).replace(place)
    # Checkpoints take a while to go. In a cache, whoever finds the outcome removes what a kill leaves of them here.
    remove(work if noted else work.rename(_done_with(place)))


def _done_with(place: Path) -> Path:
    """A work folder whose outcome is in its place, on its way out."""
    work = work_dir(place)
    return work.with_name(f"{work.name}.done")


def _is_of(work: Path, inputs: Mapping[str, Any]) -> bool:
    note = work / NOTE
    return note.is_file() and note.read_text(encoding="utf-8") == _as_text(inputs)


def _has_work(work: Path, exclusive: Sequence[str] | None = None) -> bool:
    if exclusive is None:
        return any(file.name not in _NOTES for file in work.iterdir())
    return any(_has_files(work / name) for name in exclusive)


def _has_files(place: Path) -> bool:
    """Whether there is a file, in a folder or below it, but for what is noted there."""
    return any(file.is_file() and file.name not in _NOTES for file in (place, *place.rglob("*")))


def _as_text(inputs: Any) -> str:
    return json.dumps(inputs, indent=1, sort_keys=True, default=str)


def _locked(
    folder: Path, name: Path, refuse: type[Exception] | None, watch: ProgressCallback
) -> BaseFileLock:
    from filelock import FileLock, Timeout

    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError, PermissionError) as error:
            raise (refuse or CacheError)(
                f"{name} is to be a folder to work in, and cannot be ({error.strerror}); choose another."
            ) from error
        lock = FileLock(folder / _LOCK)
        try:
            try:
                lock.acquire(timeout=0)
            except Timeout as held:
                if refuse is not None:
                    raise refuse(
                        f"{name} is in use by {_holder(folder)}; wait until that is done, or end it, and run the same command again."
                    ) from held
                watch(0, 0, f"waiting for {_holder(folder)}, which makes {name}")
                lock.acquire()
        except (
            FileNotFoundError,
            FileExistsError,
        ):  # the other run is done and took the folder away
            continue
        return lock


def _sign(folder: Path) -> None:
    holder = {
        "process": os.getpid(),
        "machine": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
    with written_whole(folder / _HOLDER) as part:
        part.write_text(json.dumps(holder) + "\n")


def _holder(folder: Path) -> str:
    try:
        holder = json.loads((folder / _HOLDER).read_text())
    except (OSError, ValueError):  # it has just begun, or is just ending
        return "another process"
    return f"process {holder['process']} on {holder['machine']} since {holder['since']}"
