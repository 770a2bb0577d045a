"""A fine-tuned folder is made once: by one process at a time, there whole or not at all, and gone on with where it stopped."""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from xeval.progress import ProgressCallback

_INPUTS = "made_of.json"
_LOCK = ".lock"


@contextlib.contextmanager
def work_folder(out: Path, inputs: Mapping[str, Any], watch: ProgressCallback) -> Iterator[Path]:
    """Where `out` is worked on: `.NAME.making` beside it, this process's alone.

    What an interrupted or killed process left there of the same inputs is still there; what is of others is removed. A
    process that comes second waits. The folder goes when its work is done or has failed.

    Args:
        out: the folder to be made; the caller looks whether it is there once it has the work folder.
        inputs: all that decides it: digests of contents and settings, never paths.
        watch: told of waiting.
    """
    folder = work_folder_of(out)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            watch(0, 1, f"waiting for another process that makes {out}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        folder.mkdir(exist_ok=True)  # the other process may have finished and tidied up
        _keep_what_is_of(folder, json.dumps(inputs, sort_keys=True, ensure_ascii=False))
        try:
            yield folder
        except Exception:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)


def work_folder_of(out: Path) -> Path:
    """The name of `out`'s work folder."""
    return out.with_name(f".{out.name}.making")


def _keep_what_is_of(folder: Path, inputs: str) -> None:
    noted = folder / _INPUTS
    if noted.is_file() and noted.read_text(encoding="utf-8") == inputs:
        return
    for left in folder.iterdir():
        if left.is_dir():
            shutil.rmtree(left)
    part = noted.with_suffix(".part")
    part.write_text(inputs, encoding="utf-8")
    part.replace(noted)
