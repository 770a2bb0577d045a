"""A recipe followed: vocabulary, record, train, card, each stage only where its inputs changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mergedistill.errors import StageError
from mergedistill.recipe import Recipe
from mergedistill.stages import STAGES, Stage, stages
from teacherzoo import Corpus, Masking, Signals, record
from teacherzoo.catalogue import find_teacher
from teacherzoo.processes import rank, wait_for_all
from teacherzoo.shapes import build_masked_lm
from teacherzoo.teachers import teacher_folder
from vocabmerge import load_map, read_vocabulary
from vocabmerge.merge import merge_vocabularies
from vocabmerge.merged_folder import save_merged

Watch = Callable[[int, int, str], None]


def run(
    recipe: Recipe,
    *,
    until: str = STAGES[-1],
    force: str | None = None,
    watch: Watch = lambda done, total, what: None,
) -> Path:
    """Follow a recipe; a second call does nothing, an interrupted one goes on, a changed one redoes what depends on it.

    Args:
        recipe: what to do.
        until: the last stage to run.
        force: run this stage again even if nothing changed.
        watch: told (done, total, what).

    Returns:
        The student's folder, `out/student`.

    Raises:
        StageError: for an unknown stage.
        TeacherzooError, VocabularyError: for text, teachers and vocabularies that do not serve, or where training
            diverges; they say why.
    """
    for name in (until, force):
        if name is not None and name not in STAGES:
            raise StageError(f"there is no stage {name!r}: they are {', '.join(STAGES)}.")
    makers = {
        "vocabulary": _make_vocabulary,
        "record": _record,
        "train": _train,
        "card": _write_student,
    }
    plan = stages(recipe)
    if force is not None and rank() == 0:
        shutil.rmtree(_place(plan[force]), ignore_errors=True)
    for name in STAGES[: STAGES.index(until) + 1]:
        wait_for_all()
        if not _finished(plan[name]):
            makers[name](recipe, plan, watch)
    wait_for_all()
    return plan["card"].folder


def status(recipe: Recipe) -> dict[str, bool]:
    """Which stages are done, from these very inputs."""
    return {name: _finished(stage) for name, stage in stages(recipe).items()}


def _place(stage: Stage) -> Path:
    """Where a stage works: those that resume inside keep a folder for each key."""
    return stage.folder / stage.key[:12] if stage.name in ("record", "train") else stage.folder


def _finished(stage: Stage) -> bool:
    return Stage(stage.name, _place(stage), stage.key).done


def _make_vocabulary(recipe: Recipe, plan: dict[str, Stage], watch: Watch) -> None:
    if rank() != 0:
        return
    lines = {
        language: [document.text for document in _corpus(recipe, language).documents()]
        for language in recipe.languages
    }
    limit = recipe.vocabulary.calibration_lines
    teachers = [
        read_vocabulary(teacher_folder(find_teacher(each.teacher)), name=each.called)
        for each in recipe.teachers
    ]
    merged = merge_vocabularies(
        teachers,
        languages=recipe.teacher_of,
        corpora={language: its[:limit] for language, its in lines.items()},
        convention=recipe.vocabulary.convention,
        normalizer=recipe.vocabulary.normalizer,
        pad_to=recipe.vocabulary.pad_to,
        max_size=recipe.vocabulary.max_size,
        watch=lambda done, total, what: watch(done, total or 0, what),
    )

    def build(folder: Path) -> dict[str, Any]:
        save_merged(merged, folder)
        return {"size": len(merged.tokenizer["model"]["vocab"])}

    plan["vocabulary"].make(build)


def _record(recipe: Recipe, plan: dict[str, Stage], watch: Watch) -> None:
    place = _place(plan["record"])
    distil = recipe.distil
    temperatures = () if distil.temperature == 1.0 else (distil.temperature,)
    for each in recipe.teachers:
        record(
            find_teacher(each.teacher),
            [_corpus(recipe, language) for language in each.languages],
            place / each.called,
            k=distil.k,
            temperatures=temperatures,
            masking=Masking(policy=distil.policy, rate=distil.rate, seed=distil.mask_seed),
            draws=distil.draws,
            block_length=distil.block_length,
            precision=recipe.record.precision,
            token_budget=recipe.record.tokens,
            offload=recipe.record.offload,
            watch=watch,
        )
    if rank() == 0:
        Stage("record", place, plan["record"].key).finish({})


def _train(recipe: Recipe, plan: dict[str, Stage], watch: Watch) -> None:
    from transformers import AutoTokenizer

    from mergedistill.student import as_student
    from mergedistill.training import train

    place = _place(plan["train"])
    vocabulary = plan["vocabulary"].folder
    tokenizer = AutoTokenizer.from_pretrained(vocabulary)
    student = as_student(
        build_masked_lm(recipe.student.shape, tokenizer, seed=recipe.seed), recipe.distil
    )
    log = train(student, open_signals(recipe, plan), recipe, place / "checkpoints", watch=watch)
    if rank() == 0:
        student.save_pretrained(place / "model")
        (place / "log.json").write_text(json.dumps(log) + "\n")
        Stage("train", place, plan["train"].key).finish({"parameters": student.num_parameters()})
        shutil.rmtree(place / "checkpoints", ignore_errors=True)


def open_signals(recipe: Recipe, plan: dict[str, Stage] | None = None) -> dict[str, Signals]:
    """Language to its recorded signals, in the student's ids."""
    plan = plan or stages(recipe)
    opened = {
        each.called: Signals(
            _place(plan["record"]) / each.called,
            vocabulary=load_map(plan["vocabulary"].folder / "maps" / f"{each.called}.safetensors"),
            max_lost=recipe.distil.max_lost,
        )
        for each in recipe.teachers
    }
    return {language: opened[name] for language, name in sorted(recipe.teacher_of.items())}


def _write_student(recipe: Recipe, plan: dict[str, Stage], watch: Watch) -> None:
    if rank() != 0:
        return
    from mergedistill.card import card, held_out_scores

    place = _place(plan["train"])

    def build(folder: Path) -> dict[str, Any]:
        vocabulary = plan["vocabulary"].folder
        for file in (place / "model").iterdir():
            shutil.copy(file, folder)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(vocabulary / name, folder)
        shutil.copytree(vocabulary / "languages", folder / "languages")
        scores = held_out_scores(recipe, folder, kept=_place(plan["record"]), watch=watch)
        log = json.loads((place / "log.json").read_text())
        facts = json.loads((vocabulary / "report.json").read_text())
        (folder / "README.md").write_text(
            card(recipe, scores, log, facts, folder), encoding="utf-8"
        )
        run = {"recipe": recipe.model_dump(), "held_out": scores}
        (folder / "run.json").write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")
        return {}

    plan["card"].make(build)


def _corpus(recipe: Recipe, language: str, *, part: str = "train") -> Corpus:
    text = recipe.languages[language]
    return Corpus(
        language,
        text.corpus,
        column=text.column,
        limit=text.limit,
        part=part,  # type: ignore[arg-type]  # one of the two below
        held_out_share=recipe.held_out_share,
    )


def held_out_corpus(recipe: Recipe, language: str) -> Corpus:
    """The documents of a language that no stage trains on."""
    return _corpus(recipe, language, part="held_out")
