"""Ask the teacher again: how far recorded signals are from what it says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from teacherzoo.encoders.inference import MaskedBlock, PlainEngine, predict_blocks
from teacherzoo.encoders.predictions import Predictions
from teacherzoo.encoders.teachers import load_teacher
from teacherzoo.errors import SignalsError
from teacherzoo.progress import ProgressCallback, no_progress
from teacherzoo.signals.read import SignalBatch, Signals


@dataclass(frozen=True, kw_only=True)
class Verification:
    """The distance of recorded distributions from the teacher's, over a sample.

    The divergence is KL(teacher ‖ recorded) over the k recorded ids and the tail as one more outcome, in nats.

    Attributes:
        rows: blocks asked again.
        positions: masked positions in them.
        mean_kl: over the positions.
        worst_kl: the largest at one position.
        worst_document: digest of the document it is in, as hexadecimal digits.
        worst_partition_error: the largest difference of a log partition.
    """

    rows: int
    positions: int
    mean_kl: float
    worst_kl: float
    worst_document: str
    worst_partition_error: float


def verify(
    folder: str | Path,
    teacher: str | Path,
    *,
    rows: int = 256,
    seed: int = 0,
    watch: ProgressCallback = no_progress,
) -> Verification:
    """Ask the teacher again about a sample of recorded blocks, and measure what the recording lost.

    At each masked position that is KL(p ‖ q), with p the teacher's exact probabilities of the recorded ids and of the rest
    together, and q what is decoded from the folder.

    Args:
        folder: recorded signals.
        teacher: the teacher that was recorded, by folder or name.
        rows: sample size; all rows where there are fewer.
        seed: of the sample.
        watch: told blocks asked, blocks in all, and what is done.

    Raises:
        SignalsError: where the teacher is another than was recorded; where the signals are damaged.
        TeacherError: for a teacher that cannot be asked.

    Example:
        With the masked LM `teacher`, and `signals` that it recorded:

        >>> verify("signals", "teacher", rows=4).mean_kl < 1e-4
        True
    """
    signals = Signals(folder, held=1)
    opened = load_teacher(teacher)
    for subject, recorded, current in (
        ("teacher weights", signals.settings.weights, opened.weights_digest),
        ("the tokenizer", signals.settings.tokenizer, opened.tokenizer_digest),
    ):
        if recorded != current:
            raise SignalsError(
                f"{folder} was recorded with {subject} {recorded!r}, but {teacher} has {current!r}; name the teacher that was recorded."
            )
    sample = np.random.Generator(np.random.Philox(seed)).permutation(len(signals))[:rows]
    engine = PlainEngine(opened, precision=signals.settings.precision)
    checks = []
    done = 0
    for number, shard in enumerate(signals.manifest.shards):  # one in memory at a time
        start = signals.first_row(number)
        rows_here = sorted(sample[(sample >= start) & (sample < start + shard.rows)].tolist())
        if rows_here:
            batch = signals.batch(rows_here)
            predictions = predict_blocks(
                engine,
                _masked_blocks(batch),
                pad=signals.settings.space.pad,
                token_budget=signals.settings.token_budget,
                k=1,
                temperatures=signals.settings.temperatures,
            )
            checks.append(_compare(batch, predictions))
            done += len(rows_here)
        watch(done, len(sample), "asking again")
    return _together(checks)


def _masked_blocks(batch: SignalBatch) -> list[MaskedBlock]:
    blocks = []
    for row, length in enumerate(batch.attention_mask.sum(dim=1).tolist()):
        here = batch.rows == row
        blocks.append(
            MaskedBlock(
                batch.input_ids[row, :length].numpy().astype(np.uint32),
                batch.positions[here].numpy(),
                batch.topk_ids[here].numpy(),
                f"{batch.languages[row]}, document {batch.documents[row].hex()}",
            )
        )
    return blocks


def _compare(batch: SignalBatch, predictions: list[Predictions]) -> Verification:
    exact = torch.cat([prediction.wanted_logprobs for prediction in predictions]).double()
    divergence = bucket_kl(exact, batch.topk_logprobs.double(), batch.tail.double())
    worst = int(divergence.argmax())
    partition = torch.cat([prediction.log_partition for prediction in predictions])
    recorded = (
        torch.stack(list(batch.log_partition.values()), dim=1) if batch.log_partition else partition
    )
    errors = (partition - recorded).abs()
    return Verification(
        rows=len(batch.languages),
        positions=len(divergence),
        mean_kl=float(divergence.mean()),
        worst_kl=float(divergence[worst]),
        worst_document=batch.documents[int(batch.rows[worst])].hex(),
        worst_partition_error=float(errors.max()) if errors.numel() else 0.0,
    )


def _together(checks: Sequence[Verification]) -> Verification:
    worst = max(checks, key=lambda shard_check: shard_check.worst_kl)
    positions = sum(shard_check.positions for shard_check in checks)
    return Verification(
        rows=sum(shard_check.rows for shard_check in checks),
        positions=positions,
        mean_kl=sum(shard_check.mean_kl * shard_check.positions for shard_check in checks)
        / positions,
        worst_kl=worst.worst_kl,
        worst_document=worst.worst_document,
        worst_partition_error=max(shard_check.worst_partition_error for shard_check in checks),
    )


def bucket_kl(
    exact: torch.Tensor, recorded: torch.Tensor, recorded_tail: torch.Tensor
) -> torch.Tensor:
    """KL(exact ‖ recorded) over K ids and one bucket for all others.

    Args:
        exact: [N, K] log-probabilities.
        recorded: [N, K] log-probabilities of the same ids.
        recorded_tail: [N] probability of all others.

    Returns:
        [N], at least 0 up to rounding.
    """
    p = exact.exp()
    tail = (1 - p.sum(dim=1)).clamp(min=0)
    inside = (p * (exact - recorded)).sum(dim=1)
    return inside + torch.xlogy(tail, tail) - torch.xlogy(tail, recorded_tail.clamp(min=1e-12))
