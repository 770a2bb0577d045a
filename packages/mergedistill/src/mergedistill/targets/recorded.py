"""What the teachers of each language said: recorded by language and teacher, read back in the student's ids."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from mergedistill.recipe.language_teachers import Faculty, teachers_in_use
from mergedistill.recipe.recipe import Recipe, Teaching
from mergedistill.recipe.stages import recording_folder
from mergedistill.targets.combined import MetSignals
from teacherzoo import Corpus, Masking, Signals, record
from teacherzoo.catalogue.catalogue import find_teacher
from teacherzoo.signals.record_text import record_text
from vocabmerge import load_map

Watch = Callable[[int, int, str], None]


def record_language(
    recipe: Recipe, each: Teaching, text: Corpus, folder: Path, watch: Watch
) -> None:
    """Ask a teacher about a language's text, or lay out what it will be asked; interrupted, the same call goes on."""
    distil = recipe.distil

    def told(done: int, total: int, what: str) -> None:
        watch(done, total, f"recording {what}")

    if distil.online:
        record_text(
            find_teacher(each.teacher),
            [text],
            folder,
            masking=masking(recipe),
            draws=distil.draws,
            block_length=distil.block_length,
            watch=told,
        )
        return
    record(
        find_teacher(each.teacher),
        [text],
        folder,
        k=distil.k,
        temperatures=() if distil.temperature == 1.0 else (distil.temperature,),
        masking=masking(recipe),
        draws=distil.draws,
        block_length=distil.block_length,
        precision=recipe.record.precision,
        token_budget=recipe.record.tokens,
        offload=recipe.record.offload,
        watch=told,
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
    recipe: Recipe, found: Mapping[str, Faculty], vocabulary: Path
) -> dict[str, Signals]:
    """Language to what its teachers said, in the student's ids.

    Args:
        recipe: of the run.
        found: who teaches what.
        vocabulary: the folder of the merged vocabulary.

    Raises:
        SignalsError: for recordings that are damaged or not there.
        StageError: for recordings that do not meet.
    """
    used = teachers_in_use(recipe, found)
    maps = {name: load_map(vocabulary / "maps" / f"{name}.safetensors") for name in used}
    opened: dict[str, Signals] = {}
    for language, faculty in sorted(found.items()):
        folders = {
            name: recording_folder(recipe, used[name][0], language) for name in faculty.weights
        }
        if len(folders) == 1:
            opened[language] = Signals(
                folders[faculty.lead],
                vocabulary=maps[faculty.lead],
                max_lost=recipe.distil.max_lost,
            )
        else:
            opened[language] = MetSignals(
                folders,
                maps,
                faculty,
                temperature=recipe.distil.temperature,
                max_lost=recipe.distil.max_lost,
            )
    return opened
