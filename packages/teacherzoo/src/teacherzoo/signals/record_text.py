"""Blocks and masks of a text as a recording has them, without a teacher: the true pieces are its predictions."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import torch

from teacherzoo.encoders.inference import MaskedBlock
from teacherzoo.encoders.predictions import Predictions
from teacherzoo.encoders.teachers import read_text_side
from teacherzoo.progress import ProgressCallback, no_progress
from teacherzoo.signals.folder import refuse_files
from teacherzoo.signals.layout import Manifest, RecordingSettings
from teacherzoo.signals.record import Recording, complete, refuse_words_in_pieces
from teacherzoo.signals.shard_plan import plan_shards
from teacherzoo.text.corpora import Corpus
from teacherzoo.text.masking import Masking
from teacherzoo.text.words import WHOLE_WORD_RULE


def record_text(
    teacher: str | Path,
    corpora: Sequence[Corpus],
    folder: str | Path,
    *,
    masking: Masking | None = None,
    mask_draws: int = 1,
    block_length: int = 256,
    shard_bytes: int = 1 << 20,
    word_logprobs: bool = False,
    watch: ProgressCallback = no_progress,
) -> Manifest:
    """Lay a corpus out as `record` does, block by block and mask by mask, but let the text speak for itself.

    What is read back are the same batches in the same order as from a recording of `teacher` with these masks; its one
    prediction at each masked position is the piece that stands there, with probability 1. This serves a student whose
    teacher runs beside it, or who has none.

    Args:
        teacher: whose tokenizer cuts the text; its weights are not asked.
        corpora: one for each language.
        folder: where it goes; see `record` for how it resumes.
        masking: policy, rate and seed.
        mask_draws: masks drawn for every block.
        block_length: most tokens in a block.
        shard_bytes: text in a shard.
        word_logprobs: keep which masked words are whole in the masked pieces: 0 for those, NaN for the others.
        watch: told bytes of text done, bytes in all, and the language.

    Returns:
        The manifest, as `signals.json` has it.

    Raises:
        RecordError: where the disk is full, where another run records into the folder or there can be none, and for words
            under masks of single pieces.
        TeacherError: for a teacher that cannot be read.
        CorpusError: for text that cannot be read.
        SignalsError: where the folder holds other signals.
    """
    started = time.time()
    folder = Path(folder)
    refuse_files(folder)
    masking = masking or Masking()
    refuse_words_in_pieces(masking, word_logprobs=word_logprobs)
    tokenized = read_text_side(teacher)
    settings = RecordingSettings(
        teacher=tokenized.name,
        weights="the text itself",
        tokenizer=tokenized.tokenizer_digest,
        vocabulary_size=tokenized.vocabulary_size,
        sampler="topk",
        k=1,
        draws=None,
        temperatures=(),
        masking=masking,
        space=tokenized.space,
        mask_draws=mask_draws,
        block_length=block_length,
        precision="float32",
        token_budget=1,
        shard_bytes=shard_bytes,
        word_logprobs=word_logprobs,
        whole_word_rule=WHOLE_WORD_RULE if word_logprobs else None,
    )
    plans = plan_shards(corpora, shard_bytes=shard_bytes, watch=watch)
    return complete(
        _TextRecording(tokenized.backend, _NoTeacher(), settings, folder, watch), plans, started
    )


class _NoTeacher:
    """The engine of a recording that asks no teacher."""

    def hidden_rows(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, cells: torch.Tensor
    ) -> torch.Tensor:
        """Never called."""
        raise AssertionError("the text speaks for itself")

    def decoder(self) -> AbstractContextManager[tuple[torch.Tensor, torch.Tensor | None]]:
        """Never called."""
        raise AssertionError("the text speaks for itself")

    def finish(self) -> None:
        """See `Engine`."""


class _TextRecording(Recording):
    def predict(self, blocks: Sequence[MaskedBlock], report: Callable[[int], None]) -> Predictions:
        """What stands there, for certain."""
        gold = torch.from_numpy(np.concatenate([block.wanted[:, :1] for block in blocks]))
        certain = torch.zeros(gold.shape)
        report(sum(len(block.input_ids) for block in blocks))
        return Predictions(gold, certain, certain[:, :0], certain)
