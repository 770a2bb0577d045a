"""Ask the teacher again: whether recorded draws are drawn once more."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from teacherzoo.errors import SignalsError
from teacherzoo.progress import ProgressCallback, no_progress
from teacherzoo.signals.read import Signals
from teacherzoo.signals.verify import asked_again


@dataclass(frozen=True, kw_only=True)
class SampleVerification:
    """How many draws of a sample of blocks are others when the teacher is asked again.

    Attributes:
        rows: blocks asked again.
        positions: masked positions in them.
        differing: share of all draws.
        worst_differing: the largest share at one position.
        worst_document: digest of the document it is in, as hexadecimal digits.
    """

    rows: int
    positions: int
    differing: float
    worst_differing: float
    worst_document: str


def verify_samples(
    folder: str | Path,
    teacher: str | Path,
    *,
    rows: int = 256,
    seed: int = 0,
    watch: ProgressCallback = no_progress,
) -> SampleVerification:
    """Draw again at a sample of recorded blocks, with the same seeds, and compare.

    At each masked position that is Σ |c - c'| / 2D, with c and c' how often an id was drawn among the D draws, then and now.
    A machine that rounds logits otherwise may differ in single draws.

    Args:
        folder: signals recorded with sampler `random`.
        teacher: the teacher that was recorded, by folder or name.
        rows: sample size; all rows where there are fewer.
        seed: of the sample.
        watch: told blocks asked, blocks in all, and what is done.

    Raises:
        SignalsError: where the teacher is another than was recorded; where the signals are damaged, or hold top k.
        TeacherError: for a teacher that cannot be asked.

    Example:
        With the masked LM `teacher`:

        >>> from teacherzoo import Corpus, record
        >>> _ = record("teacher", [Corpus("en", "en.txt")], "drawn", sampler="random", block_length=32)
        >>> verify_samples("drawn", "teacher", rows=4).differing < 0.01
        True
    """
    signals = Signals(folder, held=1)
    if signals.settings.sampler != "random":
        raise SignalsError(
            f"{folder} was recorded with sampler {signals.settings.sampler!r}, which draws nothing; use verify."
        )
    checked = positions = 0
    total, worst, document = 0.0, -1.0, ""
    for batch, predictions in asked_again(signals, teacher, rows=rows, seed=seed, watch=watch):
        again = predictions.ids
        # Of an id that stands among the draws of now, how often it stood among those of then.
        recorded = (
            (batch.topk_logprobs.double() / signals.settings.drawn_at).exp() * again.shape[1]
        ).round()
        drawn = (batch.topk_ids[:, :, None] == again[:, None, :]).sum(dim=2)
        differing = 1 - torch.minimum(recorded, drawn.double()).sum(dim=1) / again.shape[1]
        checked += len(batch.documents)
        positions += len(differing)
        total += float(differing.sum())
        if float(differing.max()) > worst:
            worst = float(differing.max())
            document = batch.documents[int(batch.rows[differing.argmax()])].hex()
    return SampleVerification(
        rows=checked,
        positions=positions,
        differing=total / positions,
        worst_differing=worst,
        worst_document=document,
    )
