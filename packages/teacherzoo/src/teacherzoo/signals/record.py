"""Record a teacher's top-k predictions at the masked positions of a corpus, once, for all students."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from teacherzoo.cache import alone_at
from teacherzoo.encoders.inference import (
    Engine,
    MaskedBlock,
    PlainEngine,
    Precision,
    predict_blocks,
)
from teacherzoo.encoders.predictions import Predictions
from teacherzoo.encoders.teachers import Teacher, load_teacher
from teacherzoo.errors import CorpusError, RecordError, is_lack_of_memory
from teacherzoo.processes import rank, wait_for_all, world_size
from teacherzoo.progress import ProgressCallback, no_progress
from teacherzoo.signals.folder import finish_folder, refuse_files, refuse_other_recordings
from teacherzoo.signals.layout import (
    FORMAT,
    VERSION,
    Manifest,
    RecordingSettings,
    Sampler,
    read_manifest,
)
from teacherzoo.signals.samples import sampler_options
from teacherzoo.signals.shard_plan import CorpusPlan, ShardPlan, digest_of_documents, plan_shards
from teacherzoo.signals.write import Row, shard_table, write_shard, write_whole
from teacherzoo.text.blocks import Block, blocks_of
from teacherzoo.text.corpora import Corpus, Document
from teacherzoo.text.masking import Masking, corrupt, mask_blocks, sample_keys
from teacherzoo.text.words import WHOLE_WORD_RULE

_TOGETHER = 512  # blocks that are masked at once


def record(
    teacher: str | Path,
    corpora: Sequence[Corpus],
    folder: str | Path,
    *,
    sampler: Sampler = "topk",
    k: int | None = None,
    draws: int | None = None,
    temperatures: Sequence[float] | None = None,
    masking: Masking | None = None,
    mask_draws: int = 1,
    block_length: int | None = None,
    precision: Precision = "float32",
    token_budget: int = 4096,
    shard_bytes: int = 1 << 20,
    offload: str | Path | None = None,
    word_logprobs: bool = False,
    watch: ProgressCallback = no_progress,
) -> Manifest:
    """Record a teacher's predictions at masked positions into a folder of Parquet shards.

    The sampler `topk` keeps at each masked position of a block the k likeliest ids, their log-probabilities and the log of their
    sum, which fixes the tail: all that the student's loss needs (MergeDistill, Khanuja, Johnson and Talukdar 2021, stores the top
    k alike). The sampler `random` draws ids from the whole distribution, with replacement, and keeps how often each was drawn: a
    weight count / draws has the probability as its mean, so that nothing is left over as a tail (Anshumann et al. 2025, "Sparse
    Logit Sampling"). The draws follow from seed and content, as the masks do.

    The same call resumes after any interruption, at the shard, and ends in the same bytes. With another `token_budget` it goes on
    too: batches change at most the last bits, and each shard states the budget that it was recorded with. A call with further
    corpora adds their languages. Under `torchrun` every process records whole shards, and at equal thread counts the bytes are those of one process.

    Args:
        teacher: a model folder, or a name in the catalogue or on the Hub.
        corpora: one for each language.
        folder: where the signals go.
        sampler: `topk` or `random`.
        k: ids that `topk` keeps per masked position; None for 8.
        draws: ids that `random` draws per masked position, at most 255; None for 12.
        temperatures: under `topk`, at which log Σ p^(1/T) over the whole vocabulary is kept, to 1 part in 8,192, so that the student
            may soften its targets; None for 2 and 4. Under `random`, the one T whose p^(1/T) is drawn from, and which the
            student then uses; None for 1.
        masking: policy, rate and seed.
        mask_draws: masks drawn for every block.
        block_length: most teacher tokens in a block; None for 256, or what the teacher reads where that is less.
        precision: of the encoder; `bfloat16` pays where the processor multiplies it. The head is always float32.
        token_budget: most tokens in a batch: lower it where memory ran out, and the recording goes on.
        shard_bytes: text in a shard: what a kill can cost.
        offload: None for a teacher that fits in memory; `"cpu"` shares its weights out among the processes (DeepSpeed
            ZeRO-3), a folder puts them on its disk. The signals are the same.
        word_logprobs: keep the log-probability of each masked word too, 4 bytes a word: what a student needs to learn from
            a teacher that cuts the word into other pieces. It wants masks of whole words.
        watch: told documents read; then bytes of text done, bytes in all, and the speed.

    Returns:
        The manifest, as `signals.json` has it.

    Raises:
        RecordError: for options that make no sense, where another run records into the folder or there can be none, and
            where the disk or the memory is full.
        TeacherError: for a teacher that cannot be asked, or answers NaN.
        CorpusError: for text that cannot be read, or changes meanwhile.
        SignalsError: where the folder holds signals of another teacher, corpus, sampler or k.

    Example:
        With a masked LM in the folder `teacher`, and text in `en.txt`:

        >>> manifest = record("teacher", [Corpus("en", "en.txt")], "signals", k=4, block_length=32)
        >>> manifest.settings.k, [shard.file for shard in manifest.shards]
        (4, ['en-00000.parquet'])
    """
    started = time.time()
    folder = Path(folder)
    refuse_files(folder)
    masking = masking or Masking()
    k, draws, temperatures = sampler_options(sampler, k, draws, temperatures)
    _check_options(temperatures, mask_draws, token_budget, shard_bytes, precision)
    refuse_words_in_pieces(masking, word_logprobs=word_logprobs)
    if word_logprobs and sampler == "random" and temperatures:
        raise RecordError(
            f"Log-probabilities of words are kept beside ids drawn at temperature 1, got temperature {temperatures[0]}; leave one of "
            "the two out, or set sampler topk."
        )
    opened, engine = _open(teacher, offload, precision)
    block_length = min(256, opened.max_length) if block_length is None else block_length
    _check_fit(opened, k, block_length)
    settings = RecordingSettings(
        teacher=opened.name,
        weights=opened.weights_digest,
        tokenizer=opened.tokenizer_digest,
        vocabulary_size=opened.vocabulary_size,
        sampler=sampler,
        k=k,
        draws=draws,
        temperatures=tuple(float(t) for t in temperatures),
        masking=masking,
        space=opened.space,
        mask_draws=mask_draws,
        block_length=block_length,
        precision=precision,
        token_budget=token_budget,
        shard_bytes=shard_bytes,
        word_logprobs=word_logprobs,
        whole_word_rule=WHOLE_WORD_RULE if word_logprobs else None,
    )
    plans = plan_shards(corpora, shard_bytes=shard_bytes, watch=watch)
    return complete(Recording(opened.backend, engine, settings, folder, watch), plans, started)


def complete(recording: Recording, plans: Sequence[CorpusPlan], started: float) -> Manifest:
    """Record what is missing in a recording's folder, all processes together and no other run, and declare it whole."""
    folder, settings = recording.folder, recording.settings
    with alone_at(folder, refuse=RecordError):
        folder.mkdir(parents=True, exist_ok=True)
        refuse_other_recordings(folder, settings, plans)
        wait_for_all()  # what lies in the folder was looked at by all before anyone writes
        recording.run(plans)
        recording.engine.finish()
        wait_for_all()
        if rank() == 0:
            # Another node may have read another text, or other weights, under the same name.
            refuse_other_recordings(folder, settings, plans)
            finish_folder(folder, settings, plans)
            _leave_run_file(folder, settings, started)
        wait_for_all()
        return read_manifest(folder)


@dataclass
class Recording:
    """One process at work: the tokenizer and the engine of the teacher, and the progress so far."""

    backend: Any
    engine: Engine
    settings: RecordingSettings
    folder: Path
    watch: ProgressCallback
    done: int = 0
    total: int = 0
    tokens: int = 0

    def run(self, plans: Sequence[CorpusPlan]) -> None:
        """Record this process's share of the shards that are missing."""
        share = self._share(plans)
        self.total = sum(shard.bytes for plan in plans for shard in plan.shards if shard in share)
        self._begun = time.monotonic()
        for plan in plans:
            for shard, documents in _documents_of(plan, share):
                self._record_shard(plan, shard, documents)

    def predict(self, blocks: Sequence[MaskedBlock], report: Callable[[int], None]) -> Predictions:
        """The teacher's predictions for a shard's blocks.

        Raises:
            RecordError: where memory does not suffice.
        """
        try:
            return predict_blocks(
                self.engine,
                blocks,
                pad=self.settings.space.pad,
                token_budget=self.settings.token_budget,
                k=self.settings.k,
                temperatures=self.settings.temperatures,
                draws=self.settings.draws,
                report=report,
            )
        except (RuntimeError, MemoryError) as error:
            if not is_lack_of_memory(error):
                raise
            raise RecordError(
                f"memory does not suffice for batches of {self.settings.token_budget:,} tokens; whole shards are kept: lower the tokens in a "
                "batch (token_budget) and run the same recording again to go on."
            ) from error

    def _share(self, plans: Sequence[CorpusPlan]) -> set[ShardPlan]:
        shards = [shard for plan in plans for shard in plan.shards]
        return {
            shard
            for number, shard in enumerate(shards)
            if number % world_size() == rank() and not (self.folder / shard.file).exists()
        }

    def _record_shard(
        self, plan: CorpusPlan, shard: ShardPlan, documents: Sequence[Document]
    ) -> None:
        language = plan.corpus.language
        rows = list(self._rows(documents))
        if rows:
            tokens = sum(len(row.token_ids) for row in rows)
            predictions = self.predict(
                _masked_blocks(rows, self.settings, language),
                lambda count: self._report(language, count, shard.bytes / tokens),
            )
            table = shard_table(language, rows, predictions, self.settings.schema)
        else:
            table = self.settings.schema.empty_table()
        metadata = {
            "format": FORMAT,
            "version": VERSION,
            "terms": self.settings.to_json(),
            "language": language,
            "corpus": plan.digest,
        }
        write_shard(self.folder, shard.file, table, language=language, metadata=metadata)
        self.done += shard.bytes
        self.watch(self.done, self.total, language)
        self._part_done = 0.0

    def _rows(self, documents: Sequence[Document]) -> Iterator[Row]:
        settings = self.settings
        blocks = blocks_of(documents, self.backend, length=settings.block_length)
        while some := list(islice(blocks, _TOGETHER)):
            draws = [
                mask_blocks(some, settings.masking, space=settings.space, draw=draw)
                for draw in range(settings.mask_draws)
            ]
            for block, masks in zip(some, zip(*draws, strict=True), strict=True):
                for draw, positions in enumerate(masks):
                    if len(positions):
                        yield self._row(block, draw, positions)

    def _row(self, block: Block, draw: int, positions: NDArray[np.int64]) -> Row:
        return Row(
            block.document,
            block.part,
            draw,
            block.token_ids,
            positions,
            block.words[positions],
            _all_masked(block, positions)
            if self.settings.word_logprobs
            else block.whole[positions],
        )

    _part_done: float = 0.0
    _begun: float = 0.0

    def _report(self, language: str, tokens: int, bytes_per_token: float) -> None:
        self.tokens += tokens
        self._part_done += tokens * bytes_per_token
        speed = self.tokens / max(time.monotonic() - self._begun, 1e-9)
        self.watch(
            min(self.done + int(self._part_done), self.total),
            self.total,
            f"{language}, {speed:,.0f} tokens/s",
        )


def _all_masked(block: Block, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
    """[P], whether the position's word is whole in the block, and each of its pieces is masked."""
    shown = np.ones(len(block.words), dtype=bool)
    shown[positions] = False
    return block.whole[positions] & ~np.isin(block.words[positions], block.words[shown])


def _documents_of(
    plan: CorpusPlan, share: set[ShardPlan]
) -> Iterator[tuple[ShardPlan, list[Document]]]:
    """The wanted shards of a corpus with their documents; reading ends behind the last one.

    Raises:
        CorpusError: where these are no longer the documents of the plan.
    """
    shards = [shard for shard in plan.shards if shard in share]
    if not shards:
        return
    position = shards[0].start
    with closing(plan.corpus.documents(start=position)) as documents:
        for shard in shards:
            for _ in islice(documents, shard.start - position):
                pass
            position = shard.start + shard.documents
            read = list(islice(documents, shard.documents))
            if digest_of_documents(document.digest for document in read) != shard.digest:
                raise CorpusError(
                    f"{plan.corpus.language}: the text has changed since the recording began; put it back and run the same "
                    "recording again, or record what it is now into another folder."
                )
            yield shard, read


def _masked_blocks(
    rows: Sequence[Row], settings: RecordingSettings, language: str
) -> list[MaskedBlock]:
    counts = np.array([len(row.positions) for row in rows])
    gold = np.concatenate([row.token_ids[row.positions] for row in rows])
    positions = np.concatenate([row.positions for row in rows])
    where: dict[str, Any] = {
        "documents": b"".join(row.document for row in rows),
        "parts": np.array([row.part for row in rows]),
        "draws": np.array([row.draw for row in rows]),
        "counts": counts,
    }
    masked = corrupt(gold, positions, **where, masking=settings.masking, space=settings.space)
    keys = sample_keys(positions, **where, seed=settings.masking.seed)
    ends = np.cumsum(counts)
    blocks = []
    for row, start, stop in zip(rows, ends - counts, ends, strict=True):
        input_ids = row.token_ids.copy()
        input_ids[row.positions] = masked[start:stop]
        name = f"{language}, document {row.document.hex()}"
        wanted = gold[start:stop, None].astype(np.int64)
        blocks.append(MaskedBlock(input_ids, row.positions, wanted, name, keys[start:stop]))
    return blocks


def _open(
    teacher: str | Path, offload: str | Path | None, precision: Precision
) -> tuple[Teacher, Engine]:
    if offload is not None:
        from teacherzoo.encoders.zero3 import load_sharded_teacher

        return load_sharded_teacher(teacher, offload=offload, precision=precision)
    opened = load_teacher(teacher)
    return opened, PlainEngine(opened, precision=precision)


def _check_options(
    temperatures: Sequence[float],
    mask_draws: int,
    token_budget: int,
    shard_bytes: int,
    precision: str,
) -> None:
    for name, value in (
        ("mask_draws", mask_draws),
        ("token_budget", token_budget),
        ("shard_bytes", shard_bytes),
    ):
        if value < 1:
            raise RecordError(f"{name} must be at least 1, got {value!r}.")
    for temperature in temperatures:
        if not 0 < temperature < math.inf:
            raise RecordError(f"A temperature must be above 0 and finite, got {temperature!r}.")
    if len(set(temperatures)) < len(temperatures):
        raise RecordError(f"A temperature is given twice: {list(temperatures)}.")
    if precision not in ("float32", "bfloat16"):
        raise RecordError(f"precision must be 'float32' or 'bfloat16', got {precision!r}.")


def refuse_words_in_pieces(masking: Masking, *, word_logprobs: bool) -> None:
    """Likelihoods of words where pieces are masked one by one.

    Raises:
        RecordError: naming the policy.
    """
    if word_logprobs and masking.policy != "whole_word":
        raise RecordError(
            f"Log-probabilities of words need masks of whole words, got the policy {masking.policy!r}; set policy whole_word."
        )


def _check_fit(teacher: Teacher, k: int | None, block_length: int) -> None:
    if k is not None and k > teacher.vocabulary_size:
        raise RecordError(
            f"k must be at most the teacher's {teacher.vocabulary_size:,} ids, got {k:,}."
        )
    if block_length > teacher.max_length:
        raise RecordError(
            f"{teacher.name} reads at most {teacher.max_length} tokens, but block_length is {block_length}; lower it."
        )
    if block_length < 8:
        raise RecordError(f"block_length must be at least 8, got {block_length}.")


def _leave_run_file(folder: Path, settings: RecordingSettings, started: float) -> None:
    """How this came about: unlike the rest of the folder, not the same bytes each time."""
    run = {
        "seconds": round(time.time() - started, 3),
        "processes": world_size(),
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("teacherzoo", "torch", "transformers")},
        "terms": settings.to_json(),
    }
    write_whole(folder / "run.json", (json.dumps(run, indent=1) + "\n").encode())
