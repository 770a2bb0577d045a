"""A disk without room, told from other errors by what the libraries that write say of it."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from mergedistill.errors import StageError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def refusing_full_disks(stage: str, folder: Path) -> Iterator[None]:
    """Inside, writing that fails for want of room ends in one sentence.

    Args:
        stage: that writes.
        folder: where.

    Raises:
        StageError: naming both.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if not _is_about_room(error):
            raise
        raise StageError(
            f"{stage}: {folder} cannot be written, for the disk is full or a quota is spent; what was done before is kept: "
            "make room and run the recipe again."
        ) from error


def _is_about_room(error: Exception) -> bool:
    said = str(error)
    return (
        getattr(error, "errno", None) in _NO_ROOM
        or any(f"os error {number})" in said for number in _NO_ROOM)  # safetensors
        or "inline_container.cc" in said  # torch.save, which does not say why
    )
