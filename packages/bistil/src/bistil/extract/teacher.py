"""The teacher of an extraction: its vocabulary trimmed to the languages, and the languages' sparse fine-tunings on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from bistil.encoders.pooling import SentenceEncoder, SentenceModules
from bistil.extract.config import Extraction
from bistil.losses.extraction import TeacherRunner
from bistil.losses.rows import SentenceTeacher
from bistil.sparse.apply import applied, check_base
from bistil.sparse.difference import SparseFineTuning
from bistil.sparse.files import read_sparse
from bistil.sparse.reindex import carry_over, kept_ids
from teacherzoo import Teacher, load_teacher
from teacherzoo.cache import MADE, digest_of_values, made_once
from teacherzoo.digests import digest_of_inputs
from teacherzoo.progress import ProgressCallback
from vocabmerge import trim


def trimmed_teacher(
    folder: Path,
    files: Mapping[str, Sequence[Path]],
    cache_dir: Path,
    extraction: Extraction,
    *,
    watch: ProgressCallback,
) -> Teacher:
    """The teacher with the pieces that the languages need, made once in a cache; whole where all are kept.

    Args:
        folder: the whole teacher.
        files: per language, the source first.
        cache_dir: where trimmed teachers stay.
        extraction: which pieces are kept.
        watch: told (done, total, what).
    """
    if extraction.keep_vocabulary:
        return load_teacher(folder, headless=True)
    kept = {name: getattr(extraction, name) for name in ("threshold", "top", "budget")}
    # Pieces of what will stand before every line stay, however rare they are in the text.
    prompts = {"prompts": extraction.prompts} if extraction.prompts else {}
    inputs = {**digest_of_inputs(corpora=files, models={"teacher": folder}), **kept, **prompts}

    def make(work: Path) -> None:
        trim(
            folder,
            files,
            work / MADE,
            **kept,
            lines=None,
            prompts=extraction.prompts,
            watch=lambda done, total, what: watch(done, total or 0, what),
        )

    place = cache_dir / f"teacher-{digest_of_values(inputs)[:16]}"
    return load_teacher(made_once(place, inputs, make, watch=watch), headless=True)


def teacher_in_training(
    teacher: Teacher,
    whole: Path,
    sfts: Mapping[str, str | Path],
    layers: Sequence[int],
    extraction: Extraction,
    *,
    sentences: SentenceModules | None = None,
) -> tuple[TeacherRunner | SentenceTeacher, Teacher]:
    """What runs the teacher in training, and the teacher: under its languages' sparse fine-tunings, or opened anew in shares.

    Args:
        teacher: trimmed.
        whole: the folder of the teacher that the fine-tunings were made for.
        sfts: language to a sparse fine-tuning.
        layers: for each of the student's layers the teacher's.
        extraction: the terms of the loss, and whether the teacher's weights are shared among processes.
        sentences: of a sentence encoder, what stands behind the encoder.
    """
    tunings = open_tunings(sfts, whole=whole, trimmed=None if teacher.folder == whole else teacher)
    engine = None
    if extraction.offload is not None:
        from teacherzoo.encoders.zero3 import load_sharded_teacher

        assert extraction.precision != "auto"  # decided when the run was checked
        teacher, engine = load_sharded_teacher(
            teacher.folder, offload=extraction.offload, precision=extraction.precision
        )

    def with_sft(language: str) -> AbstractContextManager[None]:
        return applied(teacher.model, *tunings.get(language, ()), check=False)

    if sentences is not None:
        encoder = SentenceEncoder(teacher.model, sentences.modules)
        return SentenceTeacher(encoder, extraction.weights, layers, with_sft=with_sft), teacher
    runner = TeacherRunner(
        teacher.model, extraction.weights, layers, with_sft=with_sft, engine=engine
    )
    return runner, teacher


def open_tunings(
    files: Mapping[str, str | Path], *, whole: Path, trimmed: Teacher | None
) -> dict[str, list[SparseFineTuning]]:
    """Per language what is applied to the teacher, checked against the whole teacher and carried to its trimmed vocabulary.

    Args:
        files: language to a sparse fine-tuning.
        whole: the teacher's folder.
        trimmed: the teacher after the trim; None where it was left whole.

    Raises:
        SparseError: for one of another base model.
    """
    if not files:
        return {}
    model = load_teacher(whole, headless=True).model
    tunings = {language: read_sparse(Path(file)) for language, file in files.items()}
    for tuning in tunings.values():
        check_base(model, tuning)
    if trimmed is not None:
        kept = kept_ids(trimmed.tokenizer_folder, whole)
        tunings = {
            language: carry_over(tuning, trimmed.model, kept)
            for language, tuning in tunings.items()
        }
    return {language: [tuning] for language, tuning in tunings.items()}
