"""Recorded signals, read back: by row, by batch, in a stream, shuffled, with several workers."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from teacherzoo.errors import SignalsError
from teacherzoo.signals.layout import Manifest, read_manifest
from teacherzoo.signals.mapping import StudentIds
from teacherzoo.signals.shard import ShardArrays, read_shard, read_verified
from vocabmerge import VocabularyMap

_WINDOW = 4  # shards that are shuffled together, and so are held together


@dataclass(frozen=True, kw_only=True)
class SignalBatch:
    """B blocks of at most S tokens, with N masked positions in all and K ids at each.

    Attributes:
        languages: of the B blocks.
        documents: their documents' digests.
        parts: [B] int64, which block of the document.
        draws: [B] int64.
        teacher_loss: [B] float32, the teacher's mean -log p(gold).
        token_ids: [B, S] int64, the text, padded.
        input_ids: [B, S] int64, the text masked, padded.
        attention_mask: [B, S] int64, 0 at padding.
        rows: [N] int64, the block of each masked position.
        positions: [N] int64, its place in the block: hidden rows are `hidden[rows, positions]`.
        words: [N] int64, its word in the document.
        labels: [N] int64, the gold ids; -100 where the student has no single id for one.
        topk_ids: [N, K] int64; -1 where the student has no single id for one.
        topk_logprobs: [N, K] float32; minus infinity there.
        tail: [N] float32, probability outside the ids given.
        lost: [N] float32, the part of it that the vocabulary map moved there.
        log_partition: for each declared temperature T, [N] float32: log Σ p^(1/T).
    """

    languages: list[str]
    documents: list[bytes]
    parts: torch.Tensor
    draws: torch.Tensor
    teacher_loss: torch.Tensor
    token_ids: torch.Tensor
    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    rows: torch.Tensor
    positions: torch.Tensor
    words: torch.Tensor
    labels: torch.Tensor
    topk_ids: torch.Tensor
    topk_logprobs: torch.Tensor
    tail: torch.Tensor
    lost: torch.Tensor
    log_partition: dict[float, torch.Tensor]


class Signals(torch.utils.data.Dataset[SignalBatch]):
    """A finished recording; row numbers run through all shards.

    A `DataLoader` with any batch sampler and number of workers reads it: workers hold nothing but shards.

    Args:
        folder: what `record` wrote.
        vocabulary: the map from the teacher's ids to a student's; everything then comes in the student's ids.
        max_lost: with a map, fail where more than this share of a shard's probability is on ids that the student lacks.
        held: decoded shards kept in memory.
        spell_masked: with a map, see `StudentIds`.

    Raises:
        SignalsError: for an unfinished recording, for missing, truncated or extra shards, for a map of another teacher;
            reading raises it for a shard whose bytes have changed.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        vocabulary: VocabularyMap | None = None,
        max_lost: float = 0.05,
        held: int = 2 * _WINDOW,
        spell_masked: bool = False,
    ) -> None:
        self.folder = Path(folder)
        self.manifest: Manifest = read_manifest(self.folder)
        self.settings = self.manifest.settings
        self.languages: tuple[str, ...] = tuple(self.manifest.corpora)
        _check_files(self.folder, self.manifest)
        self._student = (
            None
            if vocabulary is None
            else StudentIds(vocabulary, self.settings, max_lost=max_lost, spell_masked=spell_masked)
        )
        self._pad = self._student.pad if self._student else self.settings.space.pad
        self._starts = np.cumsum([0, *(shard.rows for shard in self.manifest.shards)])
        self._held = held
        self._arrays: OrderedDict[int, ShardArrays] = OrderedDict()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> SignalBatch:
        """One row, as a batch of one."""
        return self.batch([index])

    def __getitems__(self, indices: Sequence[int]) -> SignalBatch:
        """What a `DataLoader` calls; give it `collate_fn=lambda batch: batch`."""
        return self.batch(indices)

    def first_row(self, shard: int) -> int:
        """The number of a shard's first row."""
        return int(self._starts[shard])

    def rows(self, language: str) -> NDArray[np.int64]:
        """The numbers of all rows of a language.

        Raises:
            SignalsError: where the recording does not have it.
        """
        if language not in self.languages:
            raise self._has_no(language)
        spans = [
            self._rows_of(number)
            for number, shard in enumerate(self.manifest.shards)
            if shard.language == language
        ]
        return np.concatenate(spans)

    def order(
        self, *, seed: int | None = None, languages: Sequence[str] | None = None
    ) -> NDArray[np.int64]:
        """Row numbers in reading order.

        With a seed they are shuffled: the shards, and then the rows within every few shards, so that a reader holds only
        those. The same seed gives the same order; a reader that stopped after n rows goes on with `order(...)[n:]`.

        Args:
            seed: None for the order of recording.
            languages: only these.

        Returns:
            [rows] int64.
        """
        wanted = set(languages or self.languages)
        if missing := sorted(wanted - set(self.languages)):
            raise self._has_no(missing[0])
        shards = [
            number
            for number, shard in enumerate(self.manifest.shards)
            if shard.language in wanted and shard.rows
        ]
        if not shards:
            return np.empty(0, dtype=np.int64)
        if seed is None:
            return np.concatenate([self._rows_of(shard) for shard in shards])
        generator = np.random.Generator(np.random.Philox(seed))
        places = generator.permutation(len(self._starts))
        ends = np.cumsum([self.manifest.shards[shard].rows for shard in shards])
        keys = dict(zip(shards, np.split(generator.random(ends[-1]), ends[:-1]), strict=True))
        shuffled = sorted(shards, key=lambda shard: int(places[shard]))
        order, done = np.empty(ends[-1], dtype=np.int64), 0
        for start in range(0, len(shuffled), _WINDOW):
            window = sorted(shuffled[start : start + _WINDOW])
            turns = np.argsort(np.concatenate([keys[shard] for shard in window]), kind="stable")
            rows = np.concatenate([self._rows_of(shard) for shard in window])
            order[done : done + len(rows)] = rows[turns]
            done += len(rows)
        return order

    def _rows_of(self, shard: int) -> NDArray[np.int64]:
        return np.arange(self._starts[shard], self._starts[shard + 1])

    def _has_no(self, language: str) -> SignalsError:
        return SignalsError(
            f"{self.folder} holds {', '.join(self.languages)}, but no {language!r}."
        )

    def stream(
        self,
        *,
        batch_size: int,
        seed: int | None = None,
        languages: Sequence[str] | None = None,
        start: int = 0,
        workers: int = 0,
    ) -> Iterator[SignalBatch]:
        """Batches in the order of `order`, exactly resumable.

        Args:
            batch_size: rows in a batch; the last one may have fewer.
            seed: shuffles; None keeps the order of recording.
            languages: only these.
            start: rows already seen; a multiple of `batch_size` gives the same batches as without stopping.
            workers: processes that decode ahead; the batches are the same for any number.
        """
        order = self.order(seed=seed, languages=languages)[start:]
        # Numbers as Python has them, of one batch at a time: all of them would take five times what the order does.
        plan = (order[at : at + batch_size].tolist() for at in range(0, len(order), batch_size))
        yield from torch.utils.data.DataLoader(
            self, batch_sampler=plan, num_workers=workers, collate_fn=_as_it_is
        )

    def batch(self, indices: Sequence[int]) -> SignalBatch:
        """Any rows, in the order given.

        Raises:
            SignalsError: for a row number outside; for a damaged shard.
        """
        places = [self._place(int(index)) for index in indices]
        shards = [self.shard(shard) for shard, _ in places]
        rows = [row for _, row in places]
        return _gather(shards, rows, self._pad, self.settings.temperatures)

    def shard(self, number: int) -> ShardArrays:
        """All of a shard, decoded; the latest are kept.

        Raises:
            SignalsError: where its bytes have changed.
        """
        if number not in self._arrays:
            arrays = read_shard(self.folder, self.manifest.shards[number], self.settings)
            self._arrays[number] = self._student.translate(arrays) if self._student else arrays
            if len(self._arrays) > self._held:
                self._arrays.popitem(last=False)
        self._arrays.move_to_end(number)
        return self._arrays[number]

    def check(self) -> None:
        """Verify every shard's checksum.

        Raises:
            SignalsError: naming the first that differs.
        """
        for shard in self.manifest.shards:
            read_verified(self.folder, shard)

    def _place(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise SignalsError(f"{self.folder} has rows 0 to {len(self) - 1}, got {index}.")
        shard = bisect_right(self._starts, index) - 1
        return shard, index - int(self._starts[shard])

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_arrays": OrderedDict()}


def _as_it_is(batch: Any) -> Any:
    return batch


def _check_files(folder: Path, manifest: Manifest) -> None:
    sizes = {path.name: path.stat().st_size for path in folder.glob("*.parquet")}
    for shard in manifest.shards:
        if shard.file not in sizes:
            raise SignalsError(
                f"{folder / shard.file} is missing; run the same recording again to restore it."
            )
        if sizes[shard.file] != shard.bytes:
            raise SignalsError(
                f"{folder / shard.file} has {sizes[shard.file]:,} bytes where {shard.bytes:,} were recorded; "
                "delete it and record again."
            )
    extra = sorted(sizes.keys() - {shard.file for shard in manifest.shards})
    if extra:
        raise SignalsError(
            f"{folder / extra[0]} is not listed in signals.json; finish the recording it belongs to, or move it elsewhere."
        )


def _gather(
    shards: Sequence[ShardArrays], rows: Sequence[int], pad: int, temperatures: Sequence[float]
) -> SignalBatch:
    pairs = list(zip(shards, rows, strict=True))
    tokens = [slice(*s.token_starts[r : r + 2].tolist()) for s, r in pairs]
    spots = [slice(*s.position_starts[r : r + 2].tolist()) for s, r in pairs]
    lengths = np.array([span.stop - span.start for span in tokens])
    attention = np.arange(lengths.max()) < lengths[:, None]

    def padded(name: str) -> torch.Tensor:
        filled = np.full(attention.shape, pad, dtype=np.int64)
        filled[attention] = np.concatenate(
            [getattr(s, name)[span] for s, span in zip(shards, tokens, strict=True)]
        )
        return torch.from_numpy(filled)

    def joined(name: str) -> torch.Tensor:
        parts = [getattr(s, name)[span] for s, span in zip(shards, spots, strict=True)]
        return torch.from_numpy(np.concatenate(parts))

    def per_row(name: str) -> torch.Tensor:
        return torch.from_numpy(np.array([getattr(s, name)[r] for s, r in pairs]))

    partition = joined("log_partition")
    counts = torch.tensor([span.stop - span.start for span in spots])
    return SignalBatch(
        languages=[s.language for s in shards],
        documents=[s.documents[r].tobytes() for s, r in pairs],
        parts=per_row("parts"),
        draws=per_row("draws"),
        teacher_loss=per_row("loss"),
        token_ids=padded("token_ids"),
        input_ids=padded("input_ids"),
        attention_mask=torch.from_numpy(attention.astype(np.int64)),
        rows=torch.repeat_interleave(torch.arange(len(rows)), counts),
        positions=joined("positions"),
        words=joined("words"),
        labels=joined("labels"),
        topk_ids=joined("topk_ids"),
        topk_logprobs=joined("topk_logprobs"),
        tail=joined("tail"),
        lost=joined("lost"),
        log_partition={t: partition[:, i] for i, t in enumerate(temperatures)},
    )
