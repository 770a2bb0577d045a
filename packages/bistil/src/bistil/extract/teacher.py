"""The teacher of an extraction: its vocabulary trimmed to the languages, and the languages' sparse fine-tunings on it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bistil.extract.config import Extraction
from bistil.sparse.apply import check_base
from bistil.sparse.difference import SparseFineTuning
from bistil.sparse.files import read_sparse
from bistil.sparse.reindex import carry_over, kept_ids
from teacherzoo import Teacher, load_teacher
from vocabmerge import trim

Watch = Callable[[int, int, str], None]


def trim_teacher(
    folder: Path,
    files: Mapping[str, Sequence[Path]],
    out: Path,
    extraction: Extraction,
    *,
    watch: Watch,
) -> None:
    """Write the teacher with the pieces that the languages need; nothing to do where an earlier run left it."""
    if (out / "config.json").exists():
        return
    for left in (out, *out.parent.glob(f".{out.name}.partial-*")):  # of runs that were killed
        shutil.rmtree(left, ignore_errors=True)
    trim(
        folder,
        files,
        out,
        threshold=extraction.threshold,
        top=extraction.top,
        budget=extraction.budget,
        watch=lambda done, total, what: watch(done, total or 0, what),
    )


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
