"""Ask the teacher again: how far recorded signals are from what it says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
from teacherzoo.text.masking import sample_keys


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
        SignalsError: where the teacher is another than was recorded; where the signals are damaged; for ids that were drawn,
            which `verify_samples` compares.
        TeacherError: for a teacher that cannot be asked.

    Example:
        With the masked LM `teacher`, and `signals` that it recorded:

        >>> verify("signals", "teacher", rows=4).mean_kl < 1e-4
        True
    """
    signals = Signals(folder, held=1)
    if signals.settings.sampler != "topk":
        raise SignalsError(
            f"{folder} was recorded with sampler {signals.settings.sampler!r}, whose ids have no divergence; use verify_samples."
        )
    checks: list[Verification] = []
    for batch, predictions in asked_again(signals, teacher, rows=rows, seed=seed, watch=watch):
        checks.append(_compare(batch, predictions))
    return _together(checks)


def asked_again(
    signals: Signals, teacher: str | Path, *, rows: int, seed: int, watch: ProgressCallback
) -> Iterator[tuple[SignalBatch, Predictions]]:
    """A sample of recorded blocks, shard by shard, and the teacher's predictions of the recorded ids, or its draws again.

    Raises:
        SignalsError: where the teacher is another than was recorded; where the signals are damaged; for a sample that is none.
    """
    for name, value, least in (("rows", rows, 1), ("seed", seed, 0)):
        if value < least:
            raise SignalsError(f"{name} must be at least {least}, got {value}.")
    opened = load_teacher(teacher)
    for subject, recorded, current in (
        ("teacher weights", signals.settings.weights, opened.weights_digest),
        ("the tokenizer", signals.settings.tokenizer, opened.tokenizer_digest),
    ):
        if recorded != current:
            raise SignalsError(
                f"{signals.folder} was recorded with {subject} {recorded!r}, but {teacher} has {current!r}; name the teacher that was recorded."
            )
    sample = np.random.Generator(np.random.Philox(seed)).permutation(len(signals))[:rows]
    engine = PlainEngine(opened, precision=signals.settings.precision)
    settings = signals.settings
    done = 0
    for number, shard in enumerate(signals.manifest.shards):  # one in memory at a time
        start = signals.first_row(number)
        rows_here = sorted(sample[(sample >= start) & (sample < start + shard.rows)].tolist())
        if rows_here:
            batch = signals.batch(rows_here)
            predictions = predict_blocks(
                engine,
                _masked_blocks(batch, settings.masking.seed),
                pad=settings.space.pad,
                token_budget=settings.token_budget,
                k=1,
                temperatures=settings.temperatures,
                draws=settings.draws,
            )
            yield batch, predictions
            done += len(rows_here)
        watch(done, len(sample), "asking again")


def _masked_blocks(batch: SignalBatch, seed: int) -> list[MaskedBlock]:
    blocks = []
    keys = sample_keys(
        batch.positions.numpy(),
        documents=b"".join(batch.documents),
        parts=batch.parts.numpy(),
        draws=batch.draws.numpy(),
        counts=torch.bincount(batch.rows, minlength=len(batch.documents)).numpy(),
        seed=seed,
    )
    for row, length in enumerate(batch.attention_mask.sum(dim=1).tolist()):
        here = batch.rows == row
        blocks.append(
            MaskedBlock(
                batch.input_ids[row, :length].numpy().astype(np.uint32),
                batch.positions[here].numpy(),
                batch.topk_ids[here].clamp(min=0).numpy(),
                f"{batch.languages[row]}, document {batch.documents[row].hex()}",
                keys[here.numpy()],
            )
        )
    return blocks


def _compare(batch: SignalBatch, predictions: Predictions) -> Verification:
    exact = predictions.wanted_logprobs.double()
    divergence = bucket_kl(exact, batch.topk_logprobs.double(), batch.tail.double())
    worst = int(divergence.argmax())
    partition = predictions.log_partition
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
