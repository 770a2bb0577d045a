"""The rank stage: every candidate measured on held-out text of its languages, each measure kept for itself."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mergedistill.errors import StageError
from mergedistill.recipe.corpora import corpus, held_out_corpus
from mergedistill.recipe.language_teachers import needs_ranking
from mergedistill.recipe.recipe import Recipe, Teaching
from mergedistill.recipe.stages import rating_file
from teacherzoo import Corpus
from teacherzoo import rank as rank_teachers
from teacherzoo.atomic_write import written_whole
from teacherzoo.catalogue.catalogue import find_teacher
from teacherzoo.errors import EmptyCorpusError
from teacherzoo.progress import ProgressCallback


def rank_candidates(recipe: Recipe, watch: ProgressCallback) -> dict[str, Any]:
    """Measure the teachers that have not been measured yet, and write the ratings of all.

    Teachers kept outside of memory are not measured: that would take as long as recording them.

    Returns:
        Language to teacher to its measures, under `ratings`.

    Raises:
        StageError: where such teachers are to be chosen among.
        TeacherzooError: for text and teachers that do not serve.
    """
    if recipe.record.offload is not None:
        if needs_ranking(recipe):
            raise StageError(
                "record.offload: teachers larger than memory are not ranked; state a `weight` for each, "
                "or one teacher for each language."
            )
        return {"ratings": {language: {} for language in recipe.languages}}
    texts = {language: _measured_text(recipe, language) for language in recipe.languages}
    for teacher in recipe.teachers:
        unrated = [
            language
            for language in recipe.languages
            if teacher in recipe.candidates(language)
            and not rating_file(recipe, teacher, language).is_file()
        ]
        if unrated:
            _measure(recipe, teacher, [texts[language] for language in unrated], watch)
    ratings = {
        language: {
            teacher.called: json.loads(rating_file(recipe, teacher, language).read_text())
            for teacher in recipe.candidates(language)
        }
        for language in recipe.languages
    }
    return {"ratings": ratings}


def _measured_text(recipe: Recipe, language: str) -> Corpus:
    """Held-out text; where a corpus is too small to hold any out, the text there is."""
    held_out = held_out_corpus(recipe, language)
    try:
        next(held_out.documents())
    except EmptyCorpusError:
        return corpus(recipe, language)
    return held_out


def _measure(
    recipe: Recipe, teacher: Teaching, corpora: Sequence[Corpus], watch: ProgressCallback
) -> None:
    ranking = rank_teachers(
        [find_teacher(teacher.teacher)],
        corpora,
        documents=recipe.rank.documents,
        max_length=recipe.distil.block_length,
        watch=lambda done, total, what: watch(done, total, f"ranking {what}"),
    )
    parts = {corpus.language: corpus for corpus in corpora}
    for rating in ranking.ratings:
        measured = parts[rating.language]
        _write(
            rating_file(recipe, teacher, rating.language),
            {
                "bits_per_byte": rating.bits_per_byte,
                "charged": rating.charged_bits_per_byte,
                "pieces_per_word": rating.pieces_per_word,
                "left_out": rating.left_out,
                "words": rating.words,
                "letters": letter_entropy(measured, recipe.rank.documents),
                "part": measured.part,
            },
        )


def letter_entropy(measured: Corpus, documents: int) -> float:
    """Bits per byte of a text under the frequencies of its own letters: -Σ n_c log2(n_c / n) / Σ n_c b_c.

    n_c counts character c, white space apart, and b_c is its length in UTF-8.
    """
    counts: Counter[str] = Counter()
    for number, document in enumerate(measured.documents()):
        if number == documents:
            break
        counts.update("".join(document.text.split()))
    total = counts.total()
    bits = -sum(count * math.log2(count / total) for count in counts.values())
    return bits / sum(len(letter.encode()) * count for letter, count in counts.items())


def _write(file: Path, measures: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(file) as part:
        part.write_text(json.dumps(measures, indent=1) + "\n")
