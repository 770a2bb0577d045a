"""How well the student and its teachers read the same held-out text: the figures of the card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from mergedistill.recipe.language_teachers import teachers_in_use
from mergedistill.recipe.recipe import Recipe
from mergedistill.recipe.stages import ensembles_or_refuse
from mergedistill.training.held_out import held_out_texts, score, score_languages
from teacherzoo import Masking
from teacherzoo.atomic_write import written_whole
from teacherzoo.catalogue.catalogue import find_teacher
from teacherzoo.encoders.teachers import load_teacher
from teacherzoo.processes import own_device
from teacherzoo.progress import ProgressCallback
from teacherzoo.text.words import BITS_PER_BYTE_RULE
from vocabmerge.open_models import quiet_transformers

MEASURED = 200  # held-out documents of a language that models are measured on


def held_out_scores(
    recipe: Recipe, student: Path, *, kept: Path, watch: ProgressCallback
) -> dict[str, dict[str, float]]:
    """Per language, bits per byte and masked accuracy of the student and of its teacher on the same held-out documents.

    The student reads each language by that language's own tokenizer, as it was trained; a language without held-out text
    is absent.

    Args:
        recipe: of the run.
        student: its folder.
        kept: where the teachers' figures are kept for students to come, beside what was recorded of them.
        watch: told (done, total, what).
    """
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    texts = held_out_texts(recipe, MEASURED)
    teachers = _teacher_scores(recipe, texts, kept / "held_out.json", watch)
    watch(0, 1, "the student on held-out text")
    with quiet_transformers():
        model = AutoModelForMaskedLM.from_pretrained(student)
    of_student = score_languages(
        model.to(own_device()),
        {code: AutoTokenizer.from_pretrained(student / "languages" / code) for code in texts},
        texts,
        masking=Masking(seed=recipe.distil.mask_seed),
        block_length=recipe.distil.block_length,
    )
    watch(1, 1, "the student on held-out text")
    return {
        language: {
            "student": student_score.bits_per_byte,
            "student_accuracy": student_score.accuracy,
            **{
                f"teacher{part}": teachers[language][name]
                for part, name in (("", "bits_per_byte"), ("_accuracy", "accuracy"))
                if language in teachers
            },
        }
        for language, student_score in of_student.items()
    }


def _teacher_scores(
    recipe: Recipe,
    texts: Mapping[str, list[str]],
    file: Path,
    watch: ProgressCallback,
) -> dict[str, dict[str, float]]:
    """Of each language's primary teacher; those that do not fit into memory are not measured."""
    kept: dict[str, dict[str, float]] = json.loads(file.read_text()) if file.is_file() else {}
    ensembles = ensembles_or_refuse(recipe)
    wanted = {
        language: f"{ensembles[language].primary} on {language}, {BITS_PER_BYTE_RULE}"
        for language in texts
    }
    used = teachers_in_use(recipe, ensembles) if recipe.record.offload is None else {}
    for number, (name, (entry, languages)) in enumerate(used.items()):
        missing = [
            language
            for language in languages
            if language in texts
            and ensembles[language].primary == name
            and wanted[language] not in kept
        ]
        if not missing:
            continue
        watch(number, len(used), f"{name} on held-out text")
        teacher = load_teacher(find_teacher(entry.teacher))
        teacher.model.to(own_device())
        for language in missing:
            kept[wanted[language]] = asdict(
                score(
                    teacher,
                    texts[language],
                    masking=Masking(seed=recipe.distil.mask_seed),
                    block_length=recipe.distil.block_length,
                )
            )
        watch(number + 1, len(used), f"{name} on held-out text")
    with written_whole(file) as part:
        part.write_text(json.dumps(kept))
    return {language: kept[name] for language, name in wanted.items() if name in kept}
