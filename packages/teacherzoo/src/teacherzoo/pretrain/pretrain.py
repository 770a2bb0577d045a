"""Pretrain a tiny teacher from text in minutes on a CPU: tokenizer and masked LM, in any family."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from teacherzoo.cache import (
    MADE,
    cleared_if_diverged,
    cleared_if_refused,
    made_once,
    refuse_what_exists,
)
from teacherzoo.digests import digest_of_text
from teacherzoo.errors import RecordError
from teacherzoo.pretrain.config import PretrainedTeacher, PretrainingConfig
from teacherzoo.pretrain.folder import write_teacher
from teacherzoo.pretrain.shapes import build_masked_lm
from teacherzoo.progress import ProgressCallback, no_progress
from teacherzoo.text.corpora import Corpus, refuse_repeated_languages


def pretrain_teacher(
    corpora: Sequence[Corpus],
    out: Path,
    *,
    config: PretrainingConfig | None = None,
    watch: ProgressCallback = no_progress,
) -> PretrainedTeacher:
    """Train a tokenizer and a masked LM on the training part of `corpora`, and write them as one model folder.

    The loss is the mean of -log p(token) over the masked tokens (Devlin et al. 2019, section 3.1): of those chosen 80 %
    become the mask and 10 % a random token. A language with n blocks is drawn in proportion to n^exponent (Conneau & Lample
    2019, section 3.1). It is for tests and demonstrations.

    Interrupted, it resumes from its last checkpoint when called again with the same arguments and text, wherever that lies
    by then; the outcome is the one of a run without interruption. It runs in one process. Two runs from nothing give the
    same bytes with the families `bpe` and `wordpiece`; the trainer of `unigram` in `tokenizers` breaks ties in an order that
    changes from run to run, so a few rare pieces and the numbering of all may differ.

    Args:
        corpora: one for each language; their held-out parts (by content digest) are kept from training.
        out: the folder to write; it must not exist.
        config: sizes, steps and seed.
        watch: told (done, total, what).

    Returns:
        Where it is and how well it did.

    Raises:
        RecordError: where `out` exists, or under a launcher of several processes.
        CorpusError: for text that cannot be read, and a language given twice.
        TeacherError: where the text does not fill a block.
        DivergenceError: where training diverges.

    Example:
        With text in `en.txt`:

        >>> from teacherzoo import Corpus, PretrainingConfig
        >>> tiny = PretrainingConfig(vocabulary=80, layers=1, width=16, heads=1, steps=2, batch=2, length=16)
        >>> pretrain_teacher([Corpus("en", "en.txt", held_out_share=0)], Path("tiny"), config=tiny).folder.name
        'tiny'
    """
    from teacherzoo.pretrain.masks import MaskedBatches, Masks
    from teacherzoo.pretrain.text import pack, train_tokenizer
    from teacherzoo.pretrain.trainer import MaskedLMLoss, scored_teacher, train

    config = config or PretrainingConfig()
    out = Path(out)
    refuse_what_exists(out, RecordError)
    refuse_repeated_languages(corpora)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RecordError("Teachers are pretrained in one process; start it without a launcher.")
    inputs = {
        "pretraining": asdict(config),
        "corpora": [
            [corpus.language, digest_of_text(corpus.language, corpus)] for corpus in corpora
        ],
    }
    pretrained: list[PretrainedTeacher] = []

    def make(work: Path) -> None:
        file = work / "tokenizer.json"
        with cleared_if_refused(file):
            tokenizer = train_tokenizer(corpora, config, file, watch=watch)
            blocks = pack(corpora, tokenizer, config.length, part="train")
            batches = MaskedBatches(blocks, Masks(tokenizer, config), config)
        model = build_masked_lm(config.shape, tokenizer, seed=config.seed)
        start = time.monotonic()
        with cleared_if_diverged(work):
            train(MaskedLMLoss(model), batches, config, work, watch=watch)
        seconds = time.monotonic() - start
        teacher = scored_teacher(out, model, corpora, tokenizer, config, seconds=seconds)
        what = (
            f"{config.architecture}, {config.layers} layers of width {config.width}, {teacher.parameters:,} parameters, "
            f"a {config.family} vocabulary, {config.steps} steps"
        )
        notes = {"pretraining": asdict(config)}
        write_teacher(model, tokenizer, corpora, teacher, work / MADE, what=what, notes=notes)
        pretrained.append(teacher)

    made_once(out, inputs, make, refuse=RecordError)
    return pretrained[0]
