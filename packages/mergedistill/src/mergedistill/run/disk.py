"""A stage that finds no room on the disk, refused in one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from mergedistill.errors import StageError
from teacherzoo.cli.disk import is_about_room


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
        if not is_about_room(error):
            raise
        raise StageError(
            f"{stage}: {folder} cannot be written, for the disk is full or a quota is spent; what was done before is kept: "
            "make room and run the recipe again."
        ) from error
