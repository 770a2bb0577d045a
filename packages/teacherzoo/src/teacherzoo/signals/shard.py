"""A shard in memory: Parquet bytes decoded to arrays, in the teacher's ids or through a vocabulary map in a student's."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from teacherzoo.errors import SignalsError
from teacherzoo.signals.codes import decode_logprobs
from teacherzoo.signals.layout import RecordingSettings, Shard
from teacherzoo.signals.samples import decode_draws
from teacherzoo.signals.word_logprobs import softened_word_logprobs, word_starts
from teacherzoo.text.masking import corrupt


@dataclass(frozen=True, kw_only=True)
class ShardArrays:
    """R rows with T tokens and P masked positions in all, K ids each: `settings.width` of the recording.

    Attributes:
        language: of all rows.
        documents: [R, 16] bytes.
        parts: [R].
        draws: [R].
        loss: [R], the teacher's.
        token_starts: [R + 1], where each row's tokens begin.
        position_starts: [R + 1], where each row's masked positions begin.
        token_ids: [T], the text.
        input_ids: [T], the text masked.
        positions: [P], in their rows.
        words: [P], in their documents.
        labels: [P], gold ids; -100 where the student has no single id for one.
        topk_ids: [P, K] ascending in the teacher's ids; -1 where the student has no single id for one, and where fewer than
            K ids were drawn.
        topk_logprobs: [P, K]; minus infinity there. Of ids drawn at temperature T it is T · log(weight), and the log partition 0.
        tail: [P], probability outside the K ids, that of lost ids included.
        lost: [P], probability of the lost ids alone.
        log_partition: [P, number of temperatures].
        word_logprobs: [P, 1 + number of temperatures], of the position's whole word at temperature 1 and at the others; NaN
            where its pieces do not cover the word alone. None where the recording does not have it.
    """

    language: str
    documents: NDArray[np.uint8]
    parts: NDArray[np.int64]
    draws: NDArray[np.int64]
    loss: NDArray[np.float32]
    token_starts: NDArray[np.int64]
    position_starts: NDArray[np.int64]
    token_ids: NDArray[np.int64]
    input_ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    words: NDArray[np.int64]
    labels: NDArray[np.int64]
    topk_ids: NDArray[np.int64]
    topk_logprobs: NDArray[np.float32]
    tail: NDArray[np.float32]
    lost: NDArray[np.float32]
    log_partition: NDArray[np.float32]
    word_logprobs: NDArray[np.float32] | None = None


def read_shard(folder: Path, shard: Shard, settings: RecordingSettings) -> ShardArrays:
    """Read, verify and decode one shard, in the teacher's ids.

    Raises:
        SignalsError: where the file is missing, or not the bytes that were recorded.
    """
    return decode_table(pq.read_table(io.BytesIO(read_verified(folder, shard))), shard, settings)


def read_verified(folder: Path, shard: Shard) -> bytes:
    """The bytes of a shard, checked against the manifest.

    Raises:
        SignalsError: where the file is missing, truncated or changed.
    """
    path = folder / shard.file
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SignalsError(
            f"{path} cannot be read ({error.strerror}); record again to restore it."
        ) from error
    if len(content) != shard.bytes:
        raise SignalsError(
            f"{path} has {len(content):,} bytes where {shard.bytes:,} were recorded; delete it and record again."
        )
    checksum = hashlib.blake2b(content, digest_size=16).hexdigest()
    if checksum != shard.checksum:
        raise SignalsError(
            f"{path} has checksum {checksum} where {shard.checksum} was recorded; delete it and record again."
        )
    return content


def decode_table(table: pa.Table, shard: Shard, settings: RecordingSettings) -> ShardArrays:
    """The columns of a shard as arrays."""
    column = {name: table[name].combine_chunks() for name in table.column_names}
    token_ids, token_starts = _list(column["token_ids"], np.int64)
    positions, position_starts = _list(column["positions"], np.int64)
    document = column["document"]
    first = 16 * document.offset
    documents = np.frombuffer(document.buffers()[1], dtype=np.uint8)[first:][: 16 * len(document)]
    documents = documents.reshape(-1, 16)
    parts = column["part"].to_numpy(zero_copy_only=False).astype(np.int64)
    draws = column["draw"].to_numpy(zero_copy_only=False).astype(np.int64)
    counts = np.diff(position_starts)
    cells = positions + np.repeat(token_starts[:-1], counts)
    gold = token_ids[cells]
    input_ids = token_ids.copy()
    input_ids[cells] = corrupt(
        gold.astype(np.uint32),
        positions,
        documents=documents.tobytes(),
        parts=parts,
        draws=draws,
        counts=counts,
        masking=settings.masking,
        space=settings.space,
    )
    words = _list(column["words"], np.int64)[0]
    topk_ids, topk_logprobs, tail, log_partition = (
        _sampled(column, settings) if settings.sampler == "random" else _topk(column, settings)
    )
    return ShardArrays(
        language=shard.language,
        documents=documents,
        parts=parts,
        draws=draws,
        loss=column["loss"].to_numpy(zero_copy_only=False),
        token_starts=token_starts,
        position_starts=position_starts,
        token_ids=token_ids,
        input_ids=input_ids,
        positions=positions,
        words=words,
        labels=gold,
        topk_ids=topk_ids,
        topk_logprobs=topk_logprobs,
        tail=tail,
        lost=np.zeros(len(tail), dtype=np.float32),
        log_partition=log_partition,
        word_logprobs=None
        if not settings.word_logprobs
        else softened_word_logprobs(
            _list(column["word_logprobs"], np.float32)[0],
            log_partition,
            settings.temperatures,
            word_starts(words, position_starts),
        ),
    )


_Distributions = tuple[
    NDArray[np.int64], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]
]


def _topk(column: dict[str, Any], settings: RecordingSettings) -> _Distributions:
    log_kept = _list(column["log_kept"], np.float32)[0]
    codes = _list(column["topk_codes"], np.uint8)[0].reshape(-1, settings.width)
    scale = _list(column["scale"], np.float32)[0]
    partition = _list(column["log_partition"], np.float32)[0]
    return (
        _list(column["topk_ids"], np.int64)[0].reshape(-1, settings.width),
        decode_logprobs(codes, scale, log_kept),
        -np.expm1(log_kept),
        partition.reshape(len(log_kept), len(settings.temperatures)),
    )


def _sampled(column: dict[str, Any], settings: RecordingSettings) -> _Distributions:
    ids, logprobs = decode_draws(
        _list(column["sampled_ids"], np.int64)[0],
        _list(column["sampled_counts"], np.uint8)[0],
        draws=settings.width,
        temperature=settings.drawn_at,
    )
    zeros = np.zeros((len(ids), 1 + len(settings.temperatures)), dtype=np.float32)
    return ids, logprobs, zeros[:, 0], zeros[:, 1:]


def _list(column: Any, kind: Any) -> tuple[NDArray[Any], NDArray[np.int64]]:
    starts = column.offsets.to_numpy().astype(np.int64)
    values = column.values.to_numpy(zero_copy_only=False)
    return values.astype(kind, copy=False)[starts[0] : starts[-1]], starts - starts[0]
