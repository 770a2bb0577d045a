"""Files and folders that are there whole or not at all."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

MARKER = "complete"
"""The last file of a folder that a library writes piece by piece, such as a checkpoint: what a killed run leaves looks whole without it."""


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, for a file or a folder, that becomes `path` at the end of the block.

    Nothing stays of writing that fails. What a killed process of this machine left goes with the next writing of `path`.

    Args:
        path: to be written, or written anew.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "note.txt"
        >>> with written_whole(file) as part:
        ...     _ = part.write_text("whole")
        >>> [left.name for left in file.parent.iterdir()]
        ['note.txt']
    """
    with temporary_beside(path) as part:
        yield part
        if part.is_dir() and path.is_dir():
            shutil.rmtree(path)
        part.replace(path)


@contextlib.contextmanager
def temporary_beside(path: Path) -> Iterator[Path]:
    """A name beside `path` for a file or folder that is gone after the block; those of killed processes of this machine go first."""
    stem = f".{path.name}.{socket.gethostname()}-"
    for left in path.parent.glob(f"{glob.escape(stem)}*.part"):
        process = left.name.removeprefix(stem).removesuffix(".part")
        if process.isdecimal() and not _alive(int(process)):
            remove(left)
    part = path.with_name(f"{stem}{os.getpid()}.part")
    try:
        yield part
    finally:
        remove(part)


def remove(path: Path) -> None:
    """A file or a folder with all that is in it; nothing where there is none."""
    if path.is_dir() and not path.is_symlink():
        # On a network file system a file that is still open stays, hidden, until its process ends.
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def _alive(process: int) -> bool:
    if process == os.getpid():  # the number of one that is gone
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True
