"""The teacher of an extraction: its vocabulary trimmed to the languages, and the languages' sparse fine-tunings on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bistil.extract.config import Extraction
from bistil.sparse.apply import check_base
from bistil.sparse.difference import SparseFineTuning
from bistil.sparse.files import read_sparse
from bistil.sparse.reindex import carry_over, kept_ids
from teacherzoo import Teacher, load_teacher
from teacherzoo.cache import MADE, digest_of_values, made_once
from teacherzoo.digests import digest_of_inputs
from vocabmerge import trim

Watch = Callable[[int, int, str], None]


def trim_teacher(
    folder: Path,
    files: Mapping[str, Sequence[Path]],
    cache_dir: Path,
    extraction: Extraction,
    *,
    watch: Watch,
) -> Path:
    """The teacher with the pieces that the languages need, made once in a cache.

    Args:
        folder: the whole teacher.
        files: per language, the source first.
        cache_dir: where trimmed teachers stay.
        extraction: which pieces are kept.
        watch: told (done, total, what).

    Returns:
        The folder of the trimmed teacher.
    """
    kept = {name: getattr(extraction, name) for name in ("threshold", "top", "budget")}
    inputs = {**digest_of_inputs(corpora=files, models={"teacher": folder}), **kept}

    def make(work: Path) -> None:
        trim(
            folder,
            files,
            work / MADE,
            **kept,
            watch=lambda done, total, what: watch(done, total or 0, what),
        )

    return made_once(cache_dir / f"teacher-{digest_of_values(inputs)[:16]}", inputs, make, watch=watch)  # fmt: skip


def open_tunings(
    files: Mapping[str, str | Path], *, whole: Path, trimmed: Teacher | None
) -> dict[str, list[SparseFineTuning]]:
    """Per language what the teacher wears, checked against the whole teacher and carried to its trimmed vocabulary.

    Args:
        files: language to a sparse fine-tuning.
        whole: the teacher's folder.
        trimmed: the teacher after the trim; None where it was left whole.

    Raises:
        SparseError: for one of another base model.
    """
    if not files:
        return {}
    model = load_teacher(whole).model
    tunings = {language: read_sparse(Path(file)) for language, file in files.items()}
    for tuning in tunings.values():
        check_base(model, tuning)
    if trimmed is not None:
        kept = kept_ids(trimmed.folder, whole)
        tunings = {
            language: carry_over(tuning, trimmed.model, kept)
            for language, tuning in tunings.items()
        }
    return {language: [tuning] for language, tuning in tunings.items()}
