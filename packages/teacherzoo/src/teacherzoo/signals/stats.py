"""What a recording weighs and says: bytes per masked position by part, and how good the teacher is at each language."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from teacherzoo.signals.layout import Sampler
from teacherzoo.signals.read import Signals

# The parts that a masked position costs, and the columns they are in.
_PARTS = {
    "positions": ("positions", "words"),
    "ids": ("topk_ids",),
    "values": ("topk_codes",),
    "scale": ("scale",),
    "kept mass": ("log_kept",),
    "partitions": ("log_partition",),
    "drawn ids": ("sampled_ids",),
    "counts": ("sampled_counts",),
    "words": ("word_logprobs",),
}


@dataclass(frozen=True, kw_only=True)
class LanguageStats:
    """A teacher at one language.

    Attributes:
        rows: blocks.
        tokens: in all blocks.
        positions: masked ones.
        accuracy: share of positions where the likeliest id is the gold one; of drawn ids, the one drawn most often.
        loss: mean of -log p(gold), in nats.
        tail: mean probability outside the k ids; 0 where ids are drawn.
    """

    rows: int
    tokens: int
    positions: int
    accuracy: float
    loss: float
    tail: float


@dataclass(frozen=True, kw_only=True)
class SignalStats:
    """A recording.

    Attributes:
        teacher: as it was called.
        sampler: `topk` or `random`.
        k: ids per position that `topk` kept.
        draws: ids per position that `random` drew.
        languages: the teacher at each.
        bytes_per_position: by part; what a masked position costs.
        bytes_per_token: of the text's own ids.
        bytes_per_row: of what names a block.
        bytes: of all shards.
        word_rule: by which text was cut into words.
    """

    teacher: str
    sampler: Sampler
    k: int | None
    draws: int | None
    languages: dict[str, LanguageStats]
    bytes_per_position: dict[str, float]
    bytes_per_token: float
    bytes_per_row: float
    bytes: int
    word_rule: str


def stats(folder: str | Path) -> SignalStats:
    """The size of a recording by part, and the teacher's accuracy and loss in each language.

    Args:
        folder: recorded signals.

    Raises:
        SignalsError: where the signals are unfinished or damaged.

    Example:
        With recorded `signals`:

        >>> sorted(stats("signals").languages)
        ['en']
    """
    signals = Signals(folder, held=1)
    sizes = column_sizes(signals)
    languages = {language: _language(signals, language) for language in signals.languages}
    tokens = sum(stats.tokens for stats in languages.values())
    named = {column for columns in _PARTS.values() for column in columns} | {"token_ids"}
    return SignalStats(
        teacher=signals.settings.teacher,
        sampler=signals.settings.sampler,
        k=signals.settings.k,
        draws=signals.settings.draws,
        languages=languages,
        bytes_per_position=bytes_per_position(signals),
        bytes_per_token=sizes["token_ids"] / tokens,
        bytes_per_row=sum(size for column, size in sizes.items() if column not in named)
        / len(signals),
        bytes=sum(shard.bytes for shard in signals.manifest.shards),
        word_rule=signals.settings.word_rule,
    )


def bytes_per_position(signals: Signals) -> dict[str, float]:
    """What a masked position costs, by part; the text is not counted."""
    sizes = column_sizes(signals)
    positions = sum(shard.positions for shard in signals.manifest.shards)
    return {
        part: sum(sizes[column] for column in columns) / positions
        for part, columns in _PARTS.items()
        if columns[0] in sizes
    }


def column_sizes(signals: Signals) -> dict[str, int]:
    """Compressed bytes of each column over all shards."""
    sizes: dict[str, int] = {}
    for shard in signals.manifest.shards:
        metadata = pq.read_metadata(signals.folder / shard.file)
        for group in range(metadata.num_row_groups):
            for number in range(metadata.num_columns):
                column = metadata.row_group(group).column(number)
                name = column.path_in_schema.split(".")[0]
                sizes[name] = sizes.get(name, 0) + column.total_compressed_size
    return sizes


def _language(signals: Signals, language: str) -> LanguageStats:
    rows = tokens = positions = hits = 0
    loss = tail = 0.0
    for number, shard in enumerate(signals.manifest.shards):
        if shard.language != language or not shard.rows:
            continue
        arrays = signals.shard(number)
        likeliest = arrays.topk_ids[np.arange(shard.positions), arrays.topk_logprobs.argmax(axis=1)]
        rows += shard.rows
        tokens += len(arrays.token_ids)
        positions += shard.positions
        hits += int((likeliest == arrays.labels).sum())
        loss += float(arrays.loss.astype(np.float64) @ np.diff(arrays.position_starts))
        tail += float(arrays.tail.sum(dtype=np.float64))
    return LanguageStats(
        rows=rows,
        tokens=tokens,
        positions=positions,
        accuracy=hits / positions,
        loss=loss / positions,
        tail=tail / positions,
    )
