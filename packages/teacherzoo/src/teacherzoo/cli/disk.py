"""A disk without room, told from other errors by what the libraries that write say of it."""

from __future__ import annotations

import errno

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_about_room(error: Exception) -> bool:
    """Whether Python, safetensors or torch could not write because the disk is full or a quota is spent."""
    message = str(error)
    return (
        getattr(error, "errno", None) in _NO_ROOM
        or any(f"os error {number})" in message for number in _NO_ROOM)  # safetensors
        or "inline_container.cc" in message  # torch.save, which does not say why
    )
