"""The teachers' predictions of each language: recorded by language and teacher, read back in the student's ids."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tokenizers import Tokenizer

from mergedistill.recipe.language_teachers import TeacherEnsemble, teachers_in_use
from mergedistill.recipe.recipe import Recipe, Teaching
from mergedistill.recipe.stages import recording_folder
from mergedistill.targets.combined import CombinedSignals
from mergedistill.targets.spellings import WordSpellings, spell_words
from mergedistill.targets.words import WordSignals
from teacherzoo import Corpus, Masking, Signals, record
from teacherzoo.catalogue.catalogue import find_teacher
from teacherzoo.encoders.teachers import read_text_side
from teacherzoo.progress import ProgressCallback
from teacherzoo.signals.record_text import record_text
from vocabmerge import load_map


def record_language(
    recipe: Recipe, teaching: Teaching, text: Corpus, folder: Path, watch: ProgressCallback
) -> None:
    """Record a teacher's predictions on a language's text, or its inputs for an online run; interrupted, the same call goes on."""
    distil = recipe.distil

    def report(done: int, total: int, what: str) -> None:
        watch(done, total, f"recording {what}")

    if distil.online:
        record_text(
            find_teacher(teaching.teacher),
            [text],
            folder,
            masking=masking(recipe),
            mask_draws=distil.mask_draws,
            block_length=distil.block_length,
            watch=report,
        )
        return
    record(
        find_teacher(teaching.teacher),
        [text],
        folder,
        sampler=distil.sampler,
        k=distil.k if distil.sampler == "topk" else None,
        draws=distil.ids_drawn,
        temperatures=() if distil.temperature == 1.0 else (distil.temperature,),
        masking=masking(recipe),
        mask_draws=distil.mask_draws,
        block_length=distil.block_length,
        precision=recipe.record.precision,
        token_budget=recipe.record.tokens,
        offload=recipe.record.offload,
        word_logprobs=recipe.combination(text.language) == "words",
        watch=report,
    )


def masking(recipe: Recipe) -> Masking:
    """The masks of teachers and student.

    Pieces are masked as BERT does, 80 % of the chosen by the mask token. Whole words are all masked: teachers with
    different tokenizers then see the same, which random pieces could not be.
    """
    distil = recipe.distil
    if distil.policy == "bert":
        return Masking(rate=distil.rate, seed=distil.mask_seed)
    return Masking(
        policy="whole_word",
        rate=distil.rate,
        seed=distil.mask_seed,
        mask_share=1.0,
        random_share=0.0,
    )


def open_signals(
    recipe: Recipe, ensembles: Mapping[str, TeacherEnsemble], vocabulary: Path
) -> dict[str, Signals]:
    """Language to its teachers' signals, in the student's ids.

    Args:
        recipe: of the run.
        ensembles: who teaches what.
        vocabulary: the folder of the merged vocabulary.

    Raises:
        SignalsError: for recordings that are damaged or not there.
        StageError: for recordings whose positions cannot be aligned.
    """
    used = teachers_in_use(recipe, ensembles)
    maps = {name: load_map(vocabulary / "maps" / f"{name}.safetensors") for name in used}
    opened: dict[str, Signals] = {}
    for language, ensemble in sorted(ensembles.items()):
        folders = {
            name: recording_folder(recipe, used[name][0], language) for name in ensemble.weights
        }
        if ensemble.combine == "words":
            opened[language] = WordSignals(
                folders,
                maps,
                ensemble,
                spellings={
                    name: _spellings(used[name][0], vocabulary, language) for name in folders
                },
                temperature=recipe.distil.temperature,
                max_lost=recipe.distil.max_lost,
            )
        elif len(folders) == 1:
            opened[language] = Signals(
                folders[ensemble.primary],
                vocabulary=maps[ensemble.primary],
                max_lost=recipe.distil.max_lost,
            )
        else:
            opened[language] = CombinedSignals(
                folders,
                maps,
                ensemble,
                temperature=recipe.distil.temperature,
                max_lost=recipe.distil.max_lost,
            )
    return opened


def _spellings(teaching: Teaching, vocabulary: Path, language: str) -> WordSpellings:
    """A teacher's pieces that are words, as the student reads them in a language."""
    teacher = read_text_side(find_teacher(teaching.teacher))
    student = Tokenizer.from_file(str(vocabulary / "languages" / language / "tokenizer.json"))
    return spell_words(teacher.backend, student, special=teacher.space.special)
