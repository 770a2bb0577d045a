"""The student's card: what it is, from whom, on what, how well, and its limits; written from the run, nothing by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from huggingface_hub.repocard import metadata_load

from mergedistill.publish.curves import draw_curves
from mergedistill.rank.corpus_warnings import corpus_warnings
from mergedistill.recipe.language_teachers import TeacherEnsemble, teachers_in_use
from mergedistill.recipe.recipe import Recipe
from mergedistill.recipe.stages import ensembles_or_refuse, recording_folder, stages
from mergedistill.training.held_out import held_out_texts, score, score_languages
from teacherzoo import Masking
from teacherzoo.atomic_write import written_whole
from teacherzoo.catalogue.catalogue import find_teacher, read_catalogue
from teacherzoo.digests import digest_of_text
from teacherzoo.encoders.teachers import load_teacher
from teacherzoo.processes import own_device
from teacherzoo.signals.layout import read_manifest

MEASURED = 200  # held-out documents of a language that models are measured on


def held_out_scores(
    recipe: Recipe, student: Path, *, kept: Path, watch: Callable[[int, int, str], None]
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
    teachers = _teachers_scores(recipe, texts, kept / "held_out.json", watch)
    watch(0, 1, "the student on held-out text")
    found = score_languages(
        AutoModelForMaskedLM.from_pretrained(student).to(own_device()),
        {code: AutoTokenizer.from_pretrained(student / "languages" / code) for code in texts},
        texts,
        masking=Masking(seed=recipe.distil.mask_seed),
        block_length=recipe.distil.block_length,
    )
    watch(1, 1, "the student on held-out text")
    return {
        language: {
            "student": its.bits_per_byte,
            "student_accuracy": its.accuracy,
            **{
                f"teacher{part}": teachers[language][name]
                for part, name in (("", "bits_per_byte"), ("_accuracy", "accuracy"))
                if language in teachers
            },
        }
        for language, its in found.items()
    }


def _teachers_scores(
    recipe: Recipe,
    texts: Mapping[str, list[str]],
    file: Path,
    watch: Callable[[int, int, str], None],
) -> dict[str, dict[str, float]]:
    """Of each language's primary teacher; those that do not fit into memory are not measured."""
    kept: dict[str, dict[str, float]] = json.loads(file.read_text()) if file.is_file() else {}
    found = ensembles_or_refuse(recipe)
    wanted = {language: f"{found[language].primary} on {language}" for language in texts}
    used = teachers_in_use(recipe, found) if recipe.record.offload is None else {}
    for number, (name, (each, languages)) in enumerate(used.items()):
        missing = [
            language
            for language in languages
            if language in texts
            and found[language].primary == name
            and wanted[language] not in kept
        ]
        if not missing:
            continue
        watch(number, len(used), f"{name} on held-out text")
        teacher = load_teacher(find_teacher(each.teacher))
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


def card(
    recipe: Recipe,
    scores: Mapping[str, Mapping[str, float]],
    log: Sequence[Mapping[str, float]],
    facts: Mapping[str, Any],
    folder: Path,
) -> str:
    """The model card's Markdown; draws the learning curves into `folder` as `curves.png`."""
    draw_curves(log, list(recipe.languages), folder / "curves.png")
    teaching = ensembles_or_refuse(recipe)
    used = teachers_in_use(recipe, teaching)
    teachers = [
        f"| {name} | {', '.join(_taught(name, language, teaching[language]) for language in languages)} | `{_shown(each.teacher)}` "
        f"| {_licence(find_teacher(each.teacher))} |"
        for name, (each, languages) in used.items()
    ]
    table = [
        f"| {language} | {_figure(scores, language, 'student')} | {_figure(scores, language, 'teacher')} "
        f"| {_share(scores, language, 'student')} | {_share(scores, language, 'teacher')} |"
        for language in recipe.languages
    ]
    distil = recipe.distil
    return "\n".join(
        [
            "---",
            "library_name: transformers",
            "pipeline_tag: fill-mask",
            f"language: {json.dumps(list(recipe.languages))}",
            f"datasets: {json.dumps(_on_the_hub(text.corpus for text in recipe.languages.values()))}",
            f"base_model: {json.dumps(_on_the_hub(find_teacher(each.teacher) for each, _ in used.values()))}",
            "tags: [knowledge-distillation, mergedistill]",
            "---",
            "",
            f"# {Path(recipe.out).name}",
            "",
            f"One masked language model for {', '.join(recipe.languages)}, distilled from {len(used)} teachers "
            "(after MergeDistill, Khanuja et al. 2021). It is a stock "
            f"{recipe.student.architecture} model; no further code is needed to use it.",
            "",
            "The tokenizer in this folder is the union of the teachers'. `languages/CODE` holds a tokenizer for each "
            "language that cuts text exactly as its teacher did, into this model's ids: the model was trained on that "
            "segmentation. (Such a tokenizer shows a piece that its language lacks as `[hole …]`; the common one shows it as it "
            "is.)",
            "",
            "```python",
            "from transformers import AutoTokenizer, pipeline",
            "",
            'fill = pipeline("fill-mask", model=STUDENT)  # this folder, or its name on the Hub',
            f'tokenizer = AutoTokenizer.from_pretrained(STUDENT, subfolder="languages/{next(iter(recipe.languages))}")  # to fine-tune',
            "```",
            "",
            "| teacher | languages | model | licence |",
            "| --- | --- | --- | --- |",
            *teachers,
            "",
            *_heard(recipe),
            "It read this text, a share of its documents held out:",
            "",
            "| language | text | licence | documents | bytes | masked pieces |",
            "| --- | --- | --- | --- | --- | --- |",
            *(_read(recipe, language, teaching[language]) for language in recipe.languages),
            "",
            "On text that was held out: bits per byte (lower is better) and the share of masked pieces that come first.",
            "",
            "| language | student, bits per byte | its teacher | student, accuracy | its teacher |",
            "| --- | --- | --- | --- | --- |",
            *table,
            "",
            "![what each language learned, by step](curves.png)",
            "",
            f"Vocabulary: {facts['size']:,} pieces ({facts['family']}). Student: {recipe.student.layers} layers of width "
            f"{recipe.student.width}. Trained for {recipe.train.steps:,} steps of {recipe.train.tokens:,} tokens; "
            f"{'teachers asked in each step' if distil.online else f'top {distil.k} predictions recorded'}, alpha {distil.alpha:g}, temperature {distil.temperature:g}, tail "
            f"{distil.tail}; start: {recipe.student.start}; seed {recipe.seed}. `run.json` holds the whole recipe.",
            "",
            "## Limits",
            "",
            "It knows what its text and its teachers know, their errors and biases included. Text in other languages, or "
            "cut by another tokenizer, is outside of what it was trained on. The licences of the teachers and of the text "
            "bind those who use it.",
            "",
            *(f"Suspicious: {sentence}\n" for sentence in corpus_warnings(recipe)),
        ]
    )


def _read(recipe: Recipe, language: str, ensemble: TeacherEnsemble) -> str:
    """A language's text, as its primary teacher was asked about it."""
    text = recipe.languages[language]
    primary = next(each for each in recipe.teachers if each.called == ensemble.primary)
    manifest = read_manifest(recording_folder(recipe, primary, language))
    its = manifest.corpora[language]
    masked = sum(shard.positions for shard in manifest.shards)
    digest = digest_of_text(language, text.corpus)
    shown = f"`{_shown(text.corpus)}`"
    if digest.startswith("hub:"):
        commit = digest.partition("@")[2]
        shown += f" at `{commit}`" if commit else ", its commit not known"
    return f"| {language} | {shown} | {text.licence or _UNKNOWN} | {its.documents:,} | {its.bytes:,} | {masked:,} |"


def _shown(source: str) -> str:
    """A name on the Hub as it is; of what lies on this machine the name without its folders."""
    return Path(source).name if Path(source).exists() else source


def _licence(source: str) -> str:
    """Of a teacher: as the catalogue has it, or its own folder's card."""
    card = Path(source) / "README.md"
    stated = {entry.hub: entry.licence for entry in read_catalogue()}.get(source)
    if stated is None and card.is_file():
        stated = (metadata_load(card) or {}).get("license")
    return str(stated or _UNKNOWN)


_UNKNOWN = "not known: look it up"


def _on_the_hub(names: Iterable[str]) -> list[str]:
    return sorted({name for name in names if not Path(name).exists()})


def _heard(recipe: Recipe) -> list[str]:
    """Where several teachers met: the share of masked positions at which each was heard."""
    train = stages(recipe)["train"]
    meetings = train.facts()["meetings"] if train.done else {}
    return [
        f"In {language} the teachers were heard at these shares of the masked positions: "
        + ", ".join(
            f"{name} {its['heard'] / max(1, its['asked']):.1%}" for name, its in of_language.items()
        )
        + ". Where a teacher cuts a word into other pieces than the language's first teacher its prediction is left out.\n"
        for language, of_language in meetings.items()
    ]


def _taught(name: str, language: str, ensemble: TeacherEnsemble) -> str:
    if len(ensemble.weights) == 1:
        return language
    role = "leads" if name == ensemble.primary else "joins"
    return f"{language} ({role}, {ensemble.combine}, weight {ensemble.weights[name]:.2f})"


def _figure(scores: Mapping[str, Mapping[str, float]], language: str, who: str) -> str:
    value = scores.get(language, {}).get(who, math.nan)
    return "not measured" if math.isnan(value) else f"{value:.3f}"


def _share(scores: Mapping[str, Mapping[str, float]], language: str, who: str) -> str:
    value = scores.get(language, {}).get(f"{who}_accuracy", math.nan)
    return "" if math.isnan(value) else f"{100 * value:.1f} %"
