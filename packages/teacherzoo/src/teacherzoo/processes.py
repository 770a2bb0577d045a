"""Several processes started by `torchrun`: which one this is, and waiting for the others."""

from __future__ import annotations

import logging
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_PATIENCE = timedelta(days=1)  # one process may read a corpus for hours while the others wait


def rank() -> int:
    """The number of this process, from 0."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """The number of processes; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def own_device() -> torch.device:
    """The GPU that a launcher means for this process, without one the current GPU; the CPU where there is none."""
    import torch

    if not torch.cuda.is_available():
        return torch.device("cpu")
    local = os.environ.get("LOCAL_RANK")
    number = torch.cuda.current_device() if local is None else int(local)
    return torch.device("cuda", number % torch.cuda.device_count())


def wait_for_all() -> None:
    """Return when every process is here."""
    if world_size() == 1:
        return
    import torch.distributed as dist

    join_processes()
    dist.barrier()


def join_processes() -> None:
    """Make the process group that collectives need; one process alone gets one, too."""
    import torch
    import torch.distributed as dist

    if dist.is_initialized():
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    if "MASTER_ADDR" in os.environ:
        dist.init_process_group(backend, timeout=_PATIENCE)
    else:
        os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed asks for it
        store = dist.HashStore()  # type: ignore[attr-defined]  # public, but its stub forgets it
        dist.init_process_group(backend, store=store, rank=0, world_size=1)


def tell_of_locks() -> None:
    """Say which operators DeepSpeed would wait for without a word: another process builds them, or was killed while it did."""
    from torch.utils.cpp_extension import get_default_build_root

    if stated := os.environ.get("TORCH_EXTENSIONS_DIR"):
        root, folders = Path(stated), "*"
    else:
        python = f"py{sys.version_info.major}{sys.version_info.minor}"
        root, folders = Path(get_default_build_root()), f"{python}*/*"
    for lock in sorted(root.glob(f"{folders}/lock")):
        logging.getLogger("teacherzoo").warning(
            "%s: this run waits for the process that builds DeepSpeed's %s; where there is none, it was killed: stop this run, remove that file and start again.",
            lock,
            lock.parent.name,
        )
