"""Joules of a forward pass, where the machine counts them: the processor's own counters, as Linux shows them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from xeval.cost.measure import open_model, torch_threads

# Package domains alone: those below them (cores, memory of some machines) are counted in them, or are not everywhere.
_COUNTERS, _PACKAGES = Path("/sys/class/powercap"), "*-rapl:?"
_SECONDS = 1.0


def counters(folder: Path | None = None) -> dict[Path, int]:
    """Counter to microjoules, of every processor package that this user may read; empty where the machine does not tell."""
    readings = {}
    for place in sorted((folder or _COUNTERS).glob(_PACKAGES)):
        try:
            readings[place] = int((place / "energy_uj").read_text())
        except (OSError, ValueError):  # often only root may
            return {}
    return readings


def joules_between(before: dict[Path, int], after: dict[Path, int]) -> float:
    """Energy from one reading to the next; a counter that went back began anew at its range."""
    spent = 0
    for place, count in after.items():
        spent += count - before[place]
        if count < before[place]:
            spent += int((place / "max_energy_range_uj").read_text())
    return spent / 1e6


def joules_per_example(
    model: str | Path, *, threads: int | None = None, batch: int = 1, length: int = 128
) -> float | None:
    """Energy of the processor packages while what `xeval.cost` times of a model reads one example, whatever else they do meanwhile included.

    Args:
        model: a model folder.
        threads: of torch; its own choice by default.
        batch: examples per pass.
        length: sub-words per example.

    Returns:
        Joules, over passes of a second at least; None where the machine does not tell.
    """
    if not counters():
        return None
    opened: Any = open_model(Path(model)).model.eval()
    ids = torch.randint(opened.get_input_embeddings().num_embeddings, (batch, length))
    mask = torch.ones_like(ids)
    with torch_threads(threads), torch.inference_mode():
        opened(input_ids=ids, attention_mask=mask)
        start, began, passes = counters(), time.monotonic(), 0
        while time.monotonic() - began < _SECONDS:
            opened(input_ids=ids, attention_mask=mask)
            passes += 1
        return joules_between(start, counters()) / (passes * batch)
