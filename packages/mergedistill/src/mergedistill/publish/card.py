"""The student's card: what it is, from whom, on what, how well, and its limits; written from the run, nothing by hand."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from mergedistill.publish.curves import draw_curves
from mergedistill.rank.corpus_warnings import corpus_warnings
from mergedistill.recipe.language_teachers import TeacherEnsemble, teachers_in_use
from mergedistill.recipe.recipe import Recipe
from mergedistill.recipe.stages import ensembles_or_refuse, recording_folder, stages
from teacherzoo.catalogue.catalogue import find_teacher
from teacherzoo.catalogue.licence import UNKNOWN, licence_of
from teacherzoo.digests import digest_of_text
from teacherzoo.signals.layout import read_manifest

Scores = Mapping[str, Mapping[str, float]]


def card(
    recipe: Recipe,
    scores: Scores,
    log: Sequence[Mapping[str, float]],
    vocabulary: Mapping[str, Any],
    folder: Path,
) -> str:
    """The model card: `card.md.jinja` filled in, under a header that the Hub reads.

    Args:
        recipe: of a run whose student is trained.
        scores: language to the figures of `held_out_scores`.
        log: of the training.
        vocabulary: `report.json` of the union.
        folder: of the student; the learning curves are drawn into it as `curves.png`.

    Returns:
        Markdown.
    """
    from jinja2 import Environment, StrictUndefined

    draw_curves(log, list(recipe.languages), folder / "curves.png")
    ensembles = ensembles_or_refuse(recipe)
    engine = Environment(undefined=StrictUndefined, trim_blocks=True, autoescape=False)  # noqa: S701  # Markdown
    template = files("mergedistill.publish").joinpath("card.md.jinja").read_text(encoding="utf-8")
    return engine.from_string(template).render(
        metadata=card_metadata(recipe, scores).to_yaml(),
        name=Path(recipe.out).name,
        recipe=recipe,
        vocabulary=vocabulary,
        left_out=[
            f"{teacher['one_to_several']:,} of {teacher['name']}"
            for teacher in vocabulary["teachers"]
            if teacher["languages"] and teacher["one_to_several"]
        ],
        teachers=_teacher_rows(recipe, ensembles),
        teacher_shares=_teacher_shares(recipe),
        encoder=_encoder(recipe),
        texts=[_text_row(recipe, language, ensembles[language]) for language in recipe.languages],
        scores=[_score_row(language, scores.get(language, {})) for language in recipe.languages],
        warnings=corpus_warnings(recipe),
    )


def card_metadata(recipe: Recipe, scores: Scores) -> ModelCardData:
    """What the Hub reads of a card: languages, texts, the models it was made of, licence, and results.

    A licence is stated where all teachers and all texts have the same one; what lies on this machine is not named.
    """
    teachers = [
        find_teacher(teacher.teacher)
        for teacher, _ in teachers_in_use(recipe, ensembles_or_refuse(recipe)).values()
    ]
    if recipe.states is not None:
        teachers.append(find_teacher(recipe.states.encoder))
    stated = [
        *map(licence_of, teachers),
        *(text.licence for text in recipe.languages.values()),
    ]
    licences = {
        (licence or "").lower() for licence in stated
    }  # the Hub's names are SPDX's in lower case
    base_models = _on_the_hub(teachers)
    return ModelCardData(
        language=list(recipe.languages),
        license=(licences.pop() or None) if len(licences) == 1 else None,
        library_name="transformers",
        pipeline_tag="fill-mask",
        datasets=_on_the_hub(text.corpus for text in recipe.languages.values()) or None,
        base_model=base_models or None,
        base_model_relation="finetune" if base_models else None,
        tags=["knowledge-distillation", "mergedistill"],
        model_name=Path(recipe.out).name,
        eval_results=[
            EvalResult(
                task_type="fill-mask",
                dataset_type="held-out",
                dataset_name="held-out text",
                dataset_config=language,
                metric_type=metric,
                metric_value=figures[name],
            )
            for language, figures in scores.items()
            for metric, name in (("bits_per_byte", "student"), ("accuracy", "student_accuracy"))
            if not math.isnan(figures[name])
        ]
        or None,
    )


def _teacher_rows(
    recipe: Recipe, ensembles: Mapping[str, TeacherEnsemble]
) -> list[tuple[str, str, str, str]]:
    return [
        (
            name,
            ", ".join(_part(name, language, ensembles[language]) for language in languages),
            f"`{_shown(teacher.teacher)}`",
            licence_of(find_teacher(teacher.teacher)) or UNKNOWN,
        )
        for name, (teacher, languages) in teachers_in_use(recipe, ensembles).items()
    ]


def _part(name: str, language: str, ensemble: TeacherEnsemble) -> str:
    """A language that a teacher teaches; if with others, in which role and with which weight."""
    if len(ensemble.weights) == 1:
        return language
    role = "leads" if name == ensemble.primary else "joins"
    return f"{language} ({role}, {ensemble.combine}, weight {ensemble.weights[name]:.2f})"


def _teacher_shares(recipe: Recipe) -> dict[str, list[str]]:
    """Where teachers are combined: the share of masked positions, and of masked words, at which each is heard."""
    train = stages(recipe)["train"]
    meetings = train.facts()["meetings"] if train.done else {}
    return {
        language: [
            f"{name} {usage['heard'] / max(1, usage['asked']):.1%}{_words_heard(usage)}"
            for name, usage in usages.items()
        ]
        for language, usages in meetings.items()
    }


def _words_heard(usage: Mapping[str, float]) -> str:
    """Of a training by an earlier version it was not noted."""
    if "words" not in usage:
        return ""
    return f" ({usage['words_heard'] / max(1, usage['words']):.1%} of the words)"


def _encoder(recipe: Recipe) -> dict[str, str] | None:
    """Whose states were learned, and of which share of the words of each language."""
    if recipe.states is None:
        return None
    train = stages(recipe)["train"]
    counts = train.facts()["states"] if train.done else {}
    shares = [f"{code} {count['met'] / count['words']:.1%}" for code, count in counts.items()]
    return {
        "name": f"`{_shown(recipe.states.encoder)}`",
        "licence": licence_of(find_teacher(recipe.states.encoder)) or UNKNOWN,
        "shares": ", ".join(shares),
    }


def _text_row(recipe: Recipe, language: str, ensemble: TeacherEnsemble) -> tuple[str, ...]:
    """A language's text, as its primary teacher was asked about it."""
    text = recipe.languages[language]
    primary = next(teacher for teacher in recipe.teachers if teacher.called == ensemble.primary)
    manifest = read_manifest(recording_folder(recipe, primary, language))
    read = manifest.corpora[language]
    masked = sum(shard.positions for shard in manifest.shards)
    digest = digest_of_text(language, text.corpus)
    shown = f"`{_shown(text.corpus)}`"
    if digest.startswith("hub:"):
        commit = digest.partition("@")[2]
        shown += f" at `{commit}`" if commit else ", its commit not known"
    licence = text.licence or UNKNOWN
    return language, shown, licence, f"{read.documents:,}", f"{read.bytes:,}", f"{masked:,}"


def _score_row(language: str, figures: Mapping[str, float]) -> tuple[str, ...]:
    bits = [figures.get(reader, math.nan) for reader in ("student", "teacher")]
    shares = [figures.get(f"{reader}_accuracy", math.nan) for reader in ("student", "teacher")]
    return (
        language,
        *("not measured" if math.isnan(value) else f"{value:.3f}" for value in bits),
        *("" if math.isnan(share) else f"{100 * share:.1f} %" for share in shares),
    )


def _shown(source: str) -> str:
    """A name on the Hub as it is; of what lies on this machine the name without its folders."""
    return Path(source).name if Path(source).exists() else source


def _on_the_hub(names: Iterable[str]) -> list[str]:
    return sorted({name for name in names if not Path(name).exists()})
