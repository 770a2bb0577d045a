"""Pretraining goes on from an encoder, with or without a masked-LM head."""

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
from teacherzoo.digests import digest_of_model, digest_of_text
from teacherzoo.errors import RecordError
from teacherzoo.pretrain.config import ContinuedPretraining, PretrainedTeacher
from teacherzoo.pretrain.folder import write_teacher
from teacherzoo.pretrain.source import (
    TEXTS,
    TRIMMED,
    check_source,
    open_source,
    trimmed_source,
)
from teacherzoo.progress import ProgressCallback, no_progress
from teacherzoo.text.corpora import Corpus, refuse_repeated_languages

_HEAD_STEPS = 100


def continue_pretraining(
    source: str | Path,
    corpora: Sequence[Corpus],
    out: Path,
    *,
    config: ContinuedPretraining | None = None,
    watch: ProgressCallback = no_progress,
) -> PretrainedTeacher:
    """Make a masked LM of an encoder and train it further on the training part of `corpora`.

    1. The vocabulary is trimmed to the pieces that the languages need (`vocabmerge.trim`).
    2. Of the encoder's layers the chosen ones stay. Where it has no masked-LM head (an encoder alone, a folder of
       sentence-transformers, a classifier), one of transformers' own class is put on, which multiplies by the input embeddings.
    3. A new head is trained alone first, so that its random weights do not spoil the encoder's (Kumar et al. 2022), then all.

    The loss is the mean of -log p(token) over the masked tokens, and, if asked for, w times the mean squared difference
    between the hidden states and those of the untrained source where nothing is masked: BiStil's hidden term (Ansell et al.
    2023), with a source that sees what is to be guessed (data2vec, Baevski et al. 2022). Dropout is 0 in training; the
    configuration says afterwards what the source's says.

    Interrupted in either phase, it resumes from its last checkpoint when called again with the same arguments, source and
    text; the outcome has the same bytes as that of a run without interruption. It runs in one process.

    Args:
        source: a model folder, or a name in the catalogue or on the Hub.
        corpora: one for each language; their held-out parts (by content digest) are kept from training.
        out: the folder to write; it must not exist.
        config: layers, steps, rates and seed.
        watch: told (done, total, what).

    Returns:
        Where it is and how well it did.

    Raises:
        RecordError: where `out` exists, or under a launcher of several processes.
        CorpusError: for text that cannot be read, and a language given twice.
        TeacherError: for a source of an unknown architecture, without a mask token, or without the layers asked for, and
            where the text does not fill a block.
        DivergenceError: where training diverges.
        VocabularyError: for a part of the source that is not understood.

    Example:
        With an encoder in `teacher` and text in `en.txt`:

        >>> from teacherzoo import ContinuedPretraining, Corpus, continue_pretraining
        >>> few = ContinuedPretraining(head_steps=1, steps=2, batch=2, length=16)
        >>> continue_pretraining("teacher", [Corpus("en", "en.txt")], Path("further"), config=few).folder.name
        'further'
    """
    config = config or ContinuedPretraining()
    out = Path(out)
    refuse_what_exists(out, RecordError)
    refuse_repeated_languages(corpora)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RecordError("Teachers are pretrained in one process; start it without a launcher.")
    check_source(source, config)
    from teacherzoo.encoders.teachers import teacher_folder
    from teacherzoo.pretrain.masks import MaskedBatches, Masks
    from teacherzoo.pretrain.text import pack
    from teacherzoo.pretrain.trainer import (
        MaskedLMAndStatesLoss,
        MaskedLMLoss,
        scored_teacher,
        train_head_then_all,
    )
    from teacherzoo.training.loss_module import LossModule
    from vocabmerge.trim.card import stated_licence

    folder = teacher_folder(source)
    inputs = {
        "continued_pretraining": asdict(config),
        "source": digest_of_model(folder),
        "corpora": [
            [corpus.language, digest_of_text(corpus.language, corpus)] for corpus in corpora
        ],
    }
    pretrained: list[PretrainedTeacher] = []

    def make(work: Path) -> None:
        with cleared_if_refused(work / TRIMMED, work / TEXTS):
            trimmed = trimmed_source(folder, corpora, config, work, watch=watch)
            opened = open_source(trimmed, config, name=source)
            model, tokenizer = opened.model, opened.tokenizer
            head_steps = config.head_steps
            if head_steps is None:
                head_steps = _HEAD_STEPS if opened.new_head else 0
            blocks = pack(corpora, tokenizer, config.length, part="train")
            batches = MaskedBatches(blocks, Masks(tokenizer, config), config, before=head_steps)
        module: LossModule = MaskedLMLoss(model)
        if config.states:
            module = MaskedLMAndStatesLoss(model, opened.encoder, opened.layers, config.states)
        start = time.monotonic()
        with cleared_if_diverged(work):
            train_head_then_all(module, batches, config, work, head_steps=head_steps, watch=watch)
        seconds = time.monotonic() - start
        teacher = scored_teacher(out, model, corpora, tokenizer, config, seconds=seconds)
        opened.restore_dropouts()
        what = (
            f"{len(opened.layers)} layers of {Path(source).name}, {len(tokenizer):,} pieces, {teacher.parameters:,} parameters, "
            f"{head_steps} steps of the head and {config.steps} of all"
        )
        notes = {
            "continued_pretraining": asdict(config),
            "source": str(source),
            "layers": opened.layers,
        }
        write_teacher(
            model, tokenizer, corpora, teacher, work / MADE, what=what, notes=notes, licence=stated_licence(folder)
        )  # fmt: skip
        pretrained.append(teacher)

    made_once(out, inputs, make, refuse=RecordError)
    return pretrained[0]
