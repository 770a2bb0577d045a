"""Raw text of each language as blocks of token ids, cut once and read from disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from bistil.errors import ExtractError
from bistil.text.batches import Corruption, MaskedBatches, Schedule, too_short
from teacherzoo import Corpus, Teacher
from teacherzoo.cache import MADE, digest_of_values, made_once
from teacherzoo.digests import TOKENIZER_FILES, digest_of_model, digest_of_text
from teacherzoo.encoders.teachers import read_tokenizer
from teacherzoo.errors import EmptyCorpusError
from teacherzoo.pretrain.text import stream_blocks
from teacherzoo.progress import ProgressCallback, no_progress
from teacherzoo.text.corpora import Part

_HELD_OUT_BATCHES = 8
_TOGETHER = 8  # blocks of a sample
_BLOCKS = "blocks.int32"  # row after row, as the machine holds them


class TextBlocks:
    """Text as teacher and student read it.

    The first process cuts it into blocks and writes them; every process reads them from disk as batches ask for them, so that
    none holds a corpus in memory, and a run that goes on, or another of the same text and tokenizer, finds them.

    Args:
        files: per language, the source first.
        teacher: whose vocabulary it is.
        cache_dir: where blocks are made once and stay.
        length: S, tokens in a block.
        batch: blocks in a batch of held-out text.
        held_out_share: of each corpus, by content.
        mask_rate: share of the positions that are corrupted.
        seed: of the corruption.
        watch: told (done, total, what).

    Raises:
        ExtractError: where blocks are longer than the teacher can read, or shall be masked by a tokenizer without a mask token.
        CorpusError: for text that cannot be read.
    """

    def __init__(
        self,
        files: Mapping[str, Sequence[Path]],
        teacher: Teacher,
        cache_dir: Path,
        *,
        length: int,
        batch: int,
        held_out_share: float,
        mask_rate: float,
        seed: int,
        watch: ProgressCallback = no_progress,
    ) -> None:
        require_length(length, teacher.max_length)
        if mask_rate and teacher.space.mask < 0:
            raise ExtractError(
                f"{teacher.name}: its tokenizer has no mask token, so mask_rate must be 0, got {mask_rate!r}."
            )
        self._files = files
        self._length, self._batch, self._held_out_share = length, batch, held_out_share
        self._cache_dir, self._watch, self._seed = cache_dir, watch, seed
        self._tokenizer_digest = digest_of_model(teacher.tokenizer_folder, TOKENIZER_FILES)
        self._tokenizer = read_tokenizer(teacher.tokenizer_folder, teacher.name, needs_mask=bool(mask_rate))  # fmt: skip
        self._tokenizer.backend_tokenizer.no_truncation()
        self._tokenizer.backend_tokenizer.no_padding()
        if self._tokenizer.cls_token_id is None or self._tokenizer.sep_token_id is None:
            raise ExtractError(
                f"{teacher.name}: its tokenizer names no first and no separating token, which blocks begin with and "
                "documents end with; set cls_token and sep_token."
            )
        self.corruption = Corruption(
            rate=mask_rate,
            mask=teacher.space.mask,
            special=teacher.space.special,
            pieces=teacher.space.size,
            seed=seed,
        )

    @cached_property
    def blocks(self) -> dict[str, NDArray[np.int32]]:
        """Per language [N, S], to train on."""
        return {language: self._blocks(language, "train") for language in self._files}

    @property
    def sizes(self) -> dict[str, int]:
        """Blocks per language, to train on."""
        return {language: len(blocks) for language, blocks in self.blocks.items()}

    @property
    def masked_positions(self) -> int:
        """Of each block."""
        return self.corruption.positions(self._length)

    def batches(self, count: int) -> MaskedBatches:
        """So many batches; the languages take turns."""
        slots = Schedule(self.sizes, batches=count, size=self._batch, seed=self._seed)
        return MaskedBatches(slots, self.blocks, self.corruption)

    def sample(self, positions: int) -> list[torch.Tensor]:
        """About so many positions of text without masks, shared evenly by the languages, a few blocks [B, S] at a time."""
        rows = max(1, positions // (self._length * len(self.blocks)))
        chosen = [torch.from_numpy(ids[:rows].astype(np.int64)) for ids in self.blocks.values()]
        return [part for ids in chosen for part in ids.split(_TOGETHER)]

    def held_out(self) -> dict[str, MaskedBatches]:
        """Per language a few batches of text that is not trained on, or one smaller batch of all; languages without are absent."""
        held_out = {}
        # A text that fills no block is refused here, before this part of it stays.
        for language in self.blocks:
            blocks = {language: self._blocks(language, "held_out")}
            size = min(self._batch, len(blocks[language]))
            if size:
                batches = min(_HELD_OUT_BATCHES, len(blocks[language]) // size)
                slots = Schedule({language: batches * size}, batches=batches, size=size, seed=0)
                held_out[language] = MaskedBatches(slots, blocks, self.corruption)
        return held_out

    def _blocks(self, language: str, part: Part) -> NDArray[np.int32]:
        files = self._files[language]
        inputs = {
            "text": digest_of_text(language, files),
            "tokenizer": self._tokenizer_digest,
            "length": self._length,
            "held_out_share": self._held_out_share,
            "part": part,
        }
        folder = self._cache_dir / f"{language}-{part}-{digest_of_values(inputs)[:16]}"

        def make(work: Path) -> None:
            (work / MADE).mkdir()
            with (work / MADE / _BLOCKS).open("wb") as out:
                for rows in self._cut(language, part):
                    out.write(rows.tobytes())

        file = made_once(folder, inputs, make, watch=self._watch) / _BLOCKS
        shape = (file.stat().st_size // (4 * self._length), self._length)
        if not shape[0]:  # no file of nothing can be mapped
            return np.empty(shape, dtype=np.int32)
        return np.memmap(file, dtype=np.int32, mode="r", shape=shape)

    def _cut(self, language: str, part: Part) -> Iterator[NDArray[np.int32]]:
        files = tuple(self._files[language])
        corpus = Corpus(language, files, held_out_share=self._held_out_share)
        done = 0
        try:
            for rows in stream_blocks(corpus, self._tokenizer, self._length, part=part):
                yield rows
                done += len(rows)
                self._watch(done, 0, f"cutting {language}")
        except EmptyCorpusError:  # a small corpus may hold nothing out
            if part == "train":
                raise
        if part == "train" and not done:
            raise too_short(language)


def require_length(length: int, longest: int) -> None:
    """Refuse rows that are longer than a teacher can read.

    Args:
        length: of a row, in tokens.
        longest: that the teacher reads.

    Raises:
        ExtractError: naming both.
    """
    if length > longest:
        raise ExtractError(
            f"length {length} is beyond the teacher's limit of {longest} tokens; choose a smaller one."
        )
