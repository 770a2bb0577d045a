"""A shard on its way to disk: rows, Parquet bytes, a temporary name, the real one."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from teacherzoo.encoders.predictions import Predictions
from teacherzoo.errors import RecordError
from teacherzoo.signals.codes import encode_logprobs, round_float32
from teacherzoo.signals.layout import METADATA_KEY, PARTIAL, SCHEMAS, Shard
from teacherzoo.signals.samples import merge_draws
from teacherzoo.signals.word_logprobs import word_logprobs, word_starts

_ZSTD_LEVEL = 9
_MOST_VALUES = 2**31 - 1  # in a list column of Arrow
_SPLIT = ("scale", "log_kept", "log_partition", "loss", "word_logprobs")
_DICTIONARIES = (
    *("language", "positions", "token_ids", "topk_ids", "topk_codes"),
    *("sampled_ids", "sampled_counts"),
)


@dataclass(frozen=True, slots=True)
class Row:
    """What is known of a block before the teacher speaks."""

    document: bytes
    part: int
    draw: int
    token_ids: NDArray[np.uint32]
    positions: NDArray[np.int64]
    words: NDArray[np.int32]
    whole: NDArray[np.bool_]


def shard_table(
    language: str,
    rows: Sequence[Row],
    predictions: Predictions,
    schema: pa.Schema = SCHEMAS["topk"],
) -> pa.Table:
    """Rows and the teacher's predictions, row by row, as columns of a schema."""
    counts = [len(row.positions) for row in rows]
    columns = _text_columns(language, rows) | {"loss": _loss_column(predictions, counts)}
    if "sampled_ids" in schema.names:
        columns |= _sampled_columns(predictions, counts)
    else:
        columns |= _topk_columns(predictions, counts)
    if "word_logprobs" in schema.names:
        columns["word_logprobs"] = _words_column(rows, predictions)
    return pa.table(columns, schema=schema)


def _text_columns(language: str, rows: Sequence[Row]) -> dict[str, pa.Array]:
    return {
        "language": pa.array([language] * len(rows), pa.string()),
        "document": pa.array([row.document for row in rows], pa.binary(16)),
        "part": pa.array([row.part for row in rows], pa.int32()),
        "draw": pa.array([row.draw for row in rows], pa.int32()),
        "token_ids": _lists([row.token_ids for row in rows], pa.uint32()),
        "positions": _lists([row.positions for row in rows], pa.uint32()),
        "words": _lists([row.words for row in rows], pa.uint32()),
    }


def _loss_column(predictions: Predictions, counts: Sequence[int]) -> pa.Array:
    gold = predictions.wanted_logprobs[:, 0].double().numpy()
    starts = np.cumsum([0, *counts[:-1]])
    return pa.array(-np.add.reduceat(gold, starts) / np.array(counts), pa.float32())


def _topk_columns(predictions: Predictions, counts: Sequence[int]) -> dict[str, pa.Array]:
    ids = predictions.ids.numpy().astype(np.uint32)
    codes, scale, log_kept = encode_logprobs(predictions.logprobs.numpy())
    partition = round_float32(predictions.log_partition.numpy())
    k, temperatures = ids.shape[1], partition.shape[1]
    return {
        "topk_ids": _flat(ids.ravel(), counts, k, pa.uint32()),
        "topk_codes": _flat(codes.ravel(), counts, k, pa.uint8()),
        "scale": _flat(scale, counts, 1, pa.float32()),
        "log_kept": _flat(log_kept, counts, 1, pa.float32()),
        "log_partition": _flat(partition.ravel(), counts, temperatures, pa.float32()),
    }


def _sampled_columns(predictions: Predictions, counts: Sequence[int]) -> dict[str, pa.Array]:
    ids, times, distinct = merge_draws(predictions.ids.numpy())
    rows = np.split(distinct, np.cumsum(counts)[:-1])
    sizes = [int(row.sum()) for row in rows]
    return {
        "sampled_ids": _flat(ids, sizes, 1, pa.uint32()),
        "sampled_counts": _flat(times, sizes, 1, pa.uint8()),
    }


def _words_column(rows: Sequence[Row], predictions: Predictions) -> pa.Array:
    words = np.concatenate([row.words for row in rows])
    position_starts = np.cumsum([0, *(len(row.words) for row in rows)])
    starts = word_starts(words, position_starts)
    gold = predictions.wanted_logprobs[:, 0].numpy()
    values = word_logprobs(gold, np.concatenate([row.whole for row in rows]), starts)
    counts = np.diff(np.searchsorted(starts, position_starts))
    return _flat(values, counts.tolist(), 1, pa.float32())


def write_shard(
    folder: Path, file: str, table: pa.Table, *, language: str, metadata: Mapping[str, Any]
) -> Shard:
    """Write a shard whole or not at all.

    Raises:
        RecordError: where the disk is full or cannot be written; nothing of the shard is left then.
    """
    positions = len(table["positions"].combine_chunks().values)
    inside = dict(metadata) | {"rows": len(table), "positions": positions}
    sink = io.BytesIO()
    described = table.replace_schema_metadata({METADATA_KEY: json.dumps(inside, sort_keys=True)})
    pq.write_table(
        described,
        sink,
        compression="zstd",
        compression_level=_ZSTD_LEVEL,
        use_dictionary=_leaves(table.schema, _DICTIONARIES),
        use_byte_stream_split=_leaves(table.schema, _SPLIT),
        dictionary_pagesize_limit=1 << 25,
        write_statistics=False,
        write_page_checksum=True,
        row_group_size=max(1, len(table)),
    )
    content = sink.getvalue()
    write_whole(folder / file, content)
    return Shard(
        file=file,
        language=language,
        rows=len(table),
        positions=positions,
        bytes=len(content),
        checksum=hashlib.blake2b(content, digest_size=16).hexdigest(),
    )


def write_whole(path: Path, content: bytes) -> None:
    """Write under a temporary name, flush to the disk, rename.

    Raises:
        RecordError: where that fails; the temporary file is removed.
    """
    partial = path.with_name(path.name + PARTIAL)
    try:
        with partial.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise RecordError(
            f"{path} cannot be written ({error.strerror}); what was recorded before is kept: make room and run the same "
            "recording again to go on."
        ) from error


def _leaves(schema: pa.Schema, names: Sequence[str]) -> list[str]:
    """The Parquet paths of those columns that there are: lists have their values one level down."""
    return [
        f"{field.name}.list.element" if pa.types.is_list(field.type) else field.name
        for field in schema
        if field.name in names
    ]


def _lists(arrays: Sequence[NDArray[Any]], kind: pa.DataType) -> pa.Array:
    values = np.concatenate(arrays).astype(kind.to_pandas_dtype())
    return _flat(values, [len(array) for array in arrays], 1, kind)


def _flat(values: NDArray[Any], counts: Sequence[int], width: int, kind: pa.DataType) -> pa.Array:
    offsets = np.concatenate([[0], np.cumsum(counts)]) * width
    if offsets[-1] > _MOST_VALUES:
        raise RecordError(
            f"A shard would hold {offsets[-1]:,} values in one column, where {_MOST_VALUES:,} can be counted; lower shard_bytes, "
            "k, draws or mask_draws."
        )
    list_type = pa.list_(pa.field("element", kind, nullable=False))
    return pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32()), pa.array(values, kind), type=list_type
    )
