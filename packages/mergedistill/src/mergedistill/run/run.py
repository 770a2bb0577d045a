"""A recipe followed: rank, vocabulary, record, train, card, each stage only where its inputs changed."""

from __future__ import annotations

import gc
import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from mergedistill.errors import StageError
from mergedistill.rank.measure import rank_candidates
from mergedistill.recipe.corpora import TextOnDisk, corpus
from mergedistill.recipe.language_teachers import TeacherEnsemble, teachers_in_use
from mergedistill.recipe.read import without_places
from mergedistill.recipe.recipe import Recipe
from mergedistill.recipe.stages import (
    STAGES,
    Stage,
    ensembles_or_refuse,
    inputs,
    known_ensembles,
    rating_file,
    recording_folder,
    refuse_unfit_stages,
    signals_root,
    stages,
)
from mergedistill.run.disk import refusing_full_disks
from mergedistill.student.initialise import (
    new_student,
    refuse_misfits,
    refuse_unfit_teachers,
    teacher_config,
)
from mergedistill.targets.combined import CombinedSignals
from mergedistill.targets.encoder_states import count_words, open_states, refuse_unfit_encoder
from mergedistill.targets.online import OnlineTeacher
from mergedistill.targets.online_ensemble import OnlineEnsemble, open_online
from mergedistill.targets.recorded import open_signals, record_language
from mergedistill.targets.words import WordSignals
from teacherzoo import Signals
from teacherzoo.cache import alone_in
from teacherzoo.catalogue.catalogue import find_teacher
from teacherzoo.encoders.teachers import require_tokenizer, teacher_folder
from teacherzoo.processes import rank, wait_for_all
from teacherzoo.progress import ProgressCallback, no_progress
from teacherzoo.signals.layout import MANIFEST
from vocabmerge import Vocabulary, find_conflicts, read_vocabulary
from vocabmerge.open_models import quiet_transformers
from vocabmerge.union.folder import save_merged
from vocabmerge.union.merge import merge_vocabularies

_LOG = logging.getLogger("mergedistill")


def run(
    recipe: Recipe,
    *,
    until: str = STAGES[-1],
    force: str | None = None,
    watch: ProgressCallback = no_progress,
) -> Path:
    """Follow a recipe; a second call does nothing, an interrupted one goes on, a changed one redoes what depends on it.

    MergeDistill (Khanuja et al. 2021, section 3): each language's teachers are asked once what they predict at masked positions,
    their vocabularies are united, and one student learns (1 - α) · CE(gold) + α · T² · KL(teacher ‖ student) on all languages.

    Args:
        recipe: what to do.
        until: the last stage to run.
        force: run this stage again even if nothing changed; `train` has the card follow.
        watch: told (done, total, what).

    Returns:
        The student's folder, `out/student`.

    Raises:
        StageError: for an unknown stage, for one to be made anew behind the last, for teachers that do not meet or do not fit, for a full disk, and where another
            process works in the same folder.
        TeacherzooError, VocabularyError: for text, teachers and vocabularies that do not serve, or where training
            diverges; they say why.

    Example:
            student = run(read_recipe(Path("recipe.yaml")))
            AutoModelForMaskedLM.from_pretrained(student)
    """
    refuse_unfit_stages(until, force)
    with alone_in(Path(recipe.out), refuse=StageError):
        wanted = STAGES[: STAGES.index(until) + 1]
        wait_for_all()
        plan = stages(recipe)
        if rank() == 0 and (force or not all(plan[name].done for name in wanted)):
            refuse_early(recipe)
            # Ranking takes long, and teachers that cannot meet are known before.
            ensembles = known_ensembles(recipe)
            if ensembles is not None and not (plan["rank"].done or plan["vocabulary"].done):
                _vocabularies(recipe, ensembles)
        for name in wanted:
            wait_for_all()
            plan = stages(recipe)  # anew: what follows ranking depends on what came of it
            if name == force or not plan[name].done:
                # Recordings and ratings are shared among recipes.
                shared = name in ("rank", "record")
                held = (
                    alone_in(signals_root(recipe), refuse=StageError) if shared else nullcontext()
                )
                with held, refusing_full_disks(name, plan[name].folder):
                    if name == force:
                        if rank() == 0:
                            _forget(recipe, name)
                        wait_for_all()
                    _MAKERS[name](recipe, plan, watch)
        wait_for_all()
        return stages(recipe)["card"].folder


def refuse_early(recipe: Recipe) -> None:
    """What would fail in a later stage, as far as it is known who teaches what.

    Raises:
        RecipeError: for training arguments.
        StageError: for teachers that do not fit, and an encoder whose states are not to be had.
        CorpusError: for a file or folder without text to train on.
        TeacherzooError, VocabularyError: for teachers that are not there or have no tokenizer, and an encoder that cannot be
            opened.
    """
    from mergedistill.training.trainer import refuse_bad_arguments

    refuse_bad_arguments(recipe)
    for language, text in recipe.languages.items():
        if Path(text.corpus).exists():  # on the Hub a look has its price
            next(corpus(recipe, language).documents())
    if recipe.states is not None:
        refuse_unfit_encoder(recipe.states)
    # Each candidate is about to be ranked, and the last of them would be missed last.
    for teaching in recipe.teachers:
        teacher_config(teaching)
        require_tokenizer(teacher_folder(find_teacher(teaching.teacher)), teaching.teacher)
    ensembles = known_ensembles(recipe)
    if ensembles is not None:
        refuse_misfits(recipe, ensembles)
        refuse_unfit_teachers(recipe, ensembles)


def _forget(recipe: Recipe, name: str) -> None:
    """Only when its turn has come: before the ranking it is not known which trainings and recordings are meant."""
    stages(recipe)[name].forget()
    if name == "train":  # the student's folder is a copy of what was trained
        stages(recipe)["card"].forget()
    ensembles = known_ensembles(recipe)
    for teacher, languages in teachers_in_use(recipe, ensembles or {}).values():
        for language in languages:
            if name == "record":
                shutil.rmtree(recording_folder(recipe, teacher, language), ignore_errors=True)
    for language in recipe.languages if name == "rank" else ():
        for teacher in recipe.candidates(language):
            rating_file(recipe, teacher, language).unlink(missing_ok=True)


def _rank(recipe: Recipe, plan: dict[str, Stage], watch: ProgressCallback) -> None:
    plan["rank"].make(lambda folder: rank_candidates(recipe, watch))


def _make_vocabulary(recipe: Recipe, plan: dict[str, Stage], watch: ProgressCallback) -> None:
    ensembles = ensembles_or_refuse(recipe)
    limit = recipe.vocabulary.calibration_lines

    def build(folder: Path) -> dict[str, Any]:
        refuse_misfits(recipe, ensembles)
        refuse_unfit_teachers(recipe, ensembles)
        teachers = _vocabularies(recipe, ensembles)
        texts = folder / "texts"
        texts.mkdir()
        merged = merge_vocabularies(
            teachers,
            languages={language: ensemble.primary for language, ensemble in ensembles.items()},
            corpora={
                language: TextOnDisk(_texts(recipe, language, limit), texts / language)
                for language in recipe.languages
            },
            convention=recipe.vocabulary.convention,
            normalizer=recipe.vocabulary.normalizer,
            pad_to=recipe.vocabulary.pad_to,
            max_size=recipe.vocabulary.max_size,
            watch=lambda done, total, what: watch(done, total or 0, what),
        )
        shutil.rmtree(texts)
        save_merged(merged, folder)
        return {"size": len(merged.tokenizer["model"]["vocab"])}

    plan["vocabulary"].make(build)


def _texts(recipe: Recipe, language: str, most: int) -> Iterator[str]:
    return (document.text for document in islice(corpus(recipe, language).documents(), most))


def _vocabularies(recipe: Recipe, ensembles: Mapping[str, TeacherEnsemble]) -> list[Vocabulary]:
    """Those of the teachers in use; refused, before any text is read, where they cannot meet."""
    teachers = [
        read_vocabulary(teacher_folder(find_teacher(teacher.teacher)), name=name)
        for name, (teacher, _) in teachers_in_use(recipe, ensembles).items()
    ]
    conflicts = find_conflicts(teachers)
    if conflicts and recipe.vocabulary.normalizer is None:
        raise StageError(
            f"the teachers normalise text differently ({'; '.join(conflicts)}); set vocabulary.normalizer: keep (the union "
            "keeps what some teacher keeps apart), fold (it drops what some teacher drops) or first (as the first teacher)."
        )
    digests = {teacher.name: teacher.digest for teacher in teachers}
    for language, ensemble in ensembles.items():
        if len({digests[name] for name in ensemble.weights}) > 1 and recipe.distil.policy == "bert":
            raise StageError(
                f"{language}: its teachers {', '.join(ensemble.weights)} cut text differently, and masks drawn piece by piece "
                "do not meet; set distil.policy: whole_word."
            )
    return teachers


def _record(recipe: Recipe, plan: dict[str, Stage], watch: ProgressCallback) -> None:
    def build(_folder: Path) -> dict[str, Any]:
        for teacher, languages in teachers_in_use(recipe, ensembles_or_refuse(recipe)).values():
            for language in languages:
                folder = recording_folder(recipe, teacher, language)
                if not (folder / MANIFEST).is_file():
                    record_language(recipe, teacher, corpus(recipe, language), folder, watch)
                wait_for_all()
        return {}

    plan["record"].make(build, together=True)


def _train(recipe: Recipe, plan: dict[str, Stage], watch: ProgressCallback) -> None:
    from transformers import AutoTokenizer

    from mergedistill.student.loss import DistillationLoss
    from mergedistill.student.states import StatesTerm
    from mergedistill.training.trainer import train

    vocabulary = plan["vocabulary"].folder
    ensembles = ensembles_or_refuse(recipe)

    def build(folder: Path) -> dict[str, Any]:
        teachers: list[OnlineTeacher | OnlineEnsemble] = []
        if recipe.distil.online:
            signals, teachers = open_online(recipe, ensembles, vocabulary)
        else:
            signals = open_signals(recipe, ensembles, vocabulary)
        meetings = _meetings(signals) if rank() == 0 else {}
        student = new_student(recipe, ensembles, vocabulary)
        facts = {"parameters": student.num_parameters(), "meetings": meetings}
        term, words = None, None
        if recipe.states is not None:
            encoder, words = open_states(recipe, recipe.states, vocabulary)
            facts["states"] = count_words(signals, words, recipe.states.called)
            width = student.config.hidden_size
            term = StatesTerm(encoder, width=width, weight=recipe.states.weight)
        log = train(
            DistillationLoss(student, recipe.distil, teachers, term),
            signals,
            recipe,
            plan["train"].checkpoints,
            tokenizers={
                language: AutoTokenizer.from_pretrained(vocabulary / "languages" / language)
                for language in recipe.languages
            },
            words=words,
            watch=watch,
        )
        if rank() == 0:
            with quiet_transformers():
                student.save_pretrained(folder / "model")
            (folder / "log.json").write_text(json.dumps(log) + "\n")
        return facts

    plan["train"].make(build, together=True)
    gc.collect()  # Trainer's references go round in circles, and what is on a GPU is wanted by what follows


def _meetings(signals: Mapping[str, Signals]) -> dict[str, Any]:
    """Per language whose teachers are combined and for each of them, how much of it is heard."""
    usage = {
        language: {name: asdict(teacher) for name, teacher in combined.usage().items()}
        for language, combined in signals.items()
        if isinstance(combined, CombinedSignals | WordSignals)
    }
    for language, of_language in usage.items():
        for name, heard in of_language.items():
            _LOG.info(
                "%s: %s is heard at %d of %d masked positions and %d of %d masked words, in %d blocks",
                language,
                name,
                heard["heard"],
                heard["asked"],
                heard["words_heard"],
                heard["words"],
                heard["blocks"],
            )
    return usage


def _write_student(recipe: Recipe, plan: dict[str, Stage], watch: ProgressCallback) -> None:
    from mergedistill.publish.card import card
    from mergedistill.publish.held_out_scores import held_out_scores
    from mergedistill.publish.longest_row import state_longest_row

    place = plan["train"].place

    def build(folder: Path) -> dict[str, Any]:
        vocabulary = plan["vocabulary"].folder
        for file in (place / "model").iterdir():
            shutil.copy(file, folder)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(vocabulary / name, folder)
        shutil.copytree(vocabulary / "languages", folder / "languages")
        state_longest_row(recipe, folder)
        scores = held_out_scores(recipe, folder, kept=plan["record"].place, watch=watch)
        log = json.loads((place / "log.json").read_text())
        facts = json.loads((vocabulary / "report.json").read_text())
        trained = plan["train"].facts()
        (folder / "README.md").write_text(
            card(recipe, scores, log, facts, folder), encoding="utf-8"
        )
        run = {
            "recipe": without_places(recipe),
            "inputs": inputs(recipe, ensembles_or_refuse(recipe)),
            "held_out": scores,
            "ranking": plan["rank"].facts()["ratings"],
            "teaching": {
                language: asdict(ensemble)
                for language, ensemble in ensembles_or_refuse(recipe).items()
            },
            "meetings": trained["meetings"],
            **({"states": trained["states"]} if "states" in trained else {}),
        }
        (folder / "run.json").write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")
        return {}

    plan["card"].make(build)


_MAKERS = {
    "rank": _rank,
    "vocabulary": _make_vocabulary,
    "record": _record,
    "train": _train,
    "card": _write_student,
}
