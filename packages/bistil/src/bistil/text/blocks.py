"""Raw text of each language as blocks of token ids, cut once and read from disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bistil.errors import ExtractError
from bistil.text.batches import Corruption, MaskedBatches, Schedule, too_short
from teacherzoo import Corpus, CorpusError, Teacher
from teacherzoo.encoders.teachers import read_tokenizer
from teacherzoo.pretrain.text import stream_blocks
from teacherzoo.processes import rank, wait_for_all
from teacherzoo.text.corpora import Part

Watch = Callable[[int, int, str], None]
_HELD_OUT_BATCHES = 8


class TextBlocks:
    """Text as teacher and student read it.

    The first process cuts it into blocks and writes them; every process reads them from disk as batches ask for them, so that
    none holds a corpus in memory, and a run that goes on finds them.

    Args:
        files: per language, the source first.
        teacher: whose vocabulary it is.
        folder: for the blocks.
        length: S, tokens in a block.
        batch: blocks in a batch of held-out text.
        held_out_share: of each corpus, by content.
        mask_rate: share of the positions that are corrupted.
        seed: of the corruption.
        watch: told (done, total, what).

    Raises:
        ExtractError: where blocks are longer than the teacher can read.
        CorpusError: for text that cannot be read.
    """

    def __init__(
        self,
        files: Mapping[str, Sequence[Path]],
        teacher: Teacher,
        folder: Path,
        *,
        length: int,
        batch: int,
        held_out_share: float,
        mask_rate: float,
        seed: int,
        watch: Watch = lambda done, total, what: None,
    ) -> None:
        if length > teacher.max_length:
            raise ExtractError(
                f"length {length} is beyond the teacher's limit of {teacher.max_length} tokens; choose a smaller one."
            )
        self._files = files
        self._length, self._batch, self._held_out_share = length, batch, held_out_share
        self._folder = folder
        self._made: list[Path] = []
        self._watch = watch
        self._tokenizer = read_tokenizer(teacher.folder, teacher.name)
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

    def held_out(self) -> dict[str, MaskedBatches]:
        """Per language a few batches of text that is not trained on; languages without are absent."""
        found = {}
        for language in self._files:
            blocks = {language: self._blocks(language, "held_out")}
            size = self._batch
            batches = min(_HELD_OUT_BATCHES, len(blocks[language]) // size)
            if batches:
                slots = Schedule({language: batches * size}, batches=batches, size=size, seed=0)
                found[language] = MaskedBatches(slots, blocks, self.corruption)
        return found

    def _blocks(self, language: str, part: Part) -> NDArray[np.int32]:
        file = self._folder / f"{language}-{part}.blocks"
        if rank() == 0 and not file.exists():
            self._write(file, language, part)
        wait_for_all()
        shape = (file.stat().st_size // (4 * self._length), self._length)
        if not shape[0]:  # no file of nothing can be mapped
            return np.empty(shape, dtype=np.int32)
        return np.memmap(file, dtype=np.int32, mode="r", shape=shape)

    def _write(self, file: Path, language: str, part: Part) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_suffix(".part")  # what a killed run left of it is written over
        try:
            with unfinished.open("wb") as out:
                for rows in self._cut(language, part):
                    out.write(rows.tobytes())
        except (CorpusError, ExtractError):  # what is refused leaves nothing of its own behind
            for made in (unfinished, *self._made):
                made.unlink(missing_ok=True)
            if not any(self._folder.iterdir()):
                self._folder.rmdir()
            raise
        unfinished.replace(file)
        self._made.append(file)

    def _cut(self, language: str, part: Part) -> Iterator[NDArray[np.int32]]:
        files = tuple(self._files[language])
        corpus = Corpus(language, files, held_out_share=self._held_out_share)
        done = 0
        try:
            for rows in stream_blocks(corpus, self._tokenizer, self._length, part=part):
                yield rows
                done += len(rows)
                self._watch(done, 0, f"cutting {language}")
        except CorpusError:  # a small corpus may hold nothing out
            if part == "train":
                raise
        if part == "train" and not done:
            raise too_short(language)
