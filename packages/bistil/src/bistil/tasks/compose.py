"""Sparse fine-tunings added to a model for good."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bistil.errors import AdaptError
from bistil.sparse.apply import apply, combine
from bistil.sparse.difference import SparseFineTuning
from bistil.sparse.files import read_sparse
from bistil.sparse.reindex import carry_over, kept_ids
from bistil.tasks.task_sft import apply_task
from teacherzoo.atomic_write import written_whole
from teacherzoo.cache import refuse_what_exists
from teacherzoo.progress import ProgressCallback, no_progress
from vocabmerge.hub.push import bare_names
from xeval.finetune.checkpoint import write_finetuned


def compose(
    model: str | Path,
    out: Path,
    *,
    add: Sequence[str | Path] = (),
    subtract: Sequence[str | Path] = (),
    trimmed_from: str | Path | None = None,
    watch: ProgressCallback = no_progress,
) -> Path:
    """Write θ + Σ added - Σ subtracted as a model folder (composition; Ansell et al. 2022, section 3).

    With a task's among them the folder is one that `xeval score` reads; without, one of the base model's kind and layout. A file
    of composable-sft does not say of which task its head is: its differences alone are added, and that is told.

    Args:
        model: the base model.
        out: the folder to write; it must not exist.
        add: files to add.
        subtract: files to take away; heads of these are left out.
        trimmed_from: the model that the files were made for, where `model` is that one with a trimmed vocabulary.
        watch: told what of a file is left out.

    Returns:
        `out`: a plain folder, which needs nothing of this package.

    Raises:
        AdaptError: where `out` exists, or two files have a task's head.
        SparseError: for files of another base model.

    Example:
        A tagger of Swahili out of English examples:

            compose(
                "FacebookAI/xlm-roberta-base",
                Path("pos-sw"),
                add=["pos.safetensors", "sw.safetensors"],
                subtract=["en.safetensors"],
            )
    """
    refuse_what_exists(out, AdaptError)
    adding, taking = ([read_sparse(Path(file)) for file in files] for files in (add, subtract))
    tasks = [tuning for tuning in adding if _is_task(tuning)]
    if len(tasks) > 1:
        raise AdaptError(f"{tasks[0].name} and {tasks[1].name} both have a task's head; add one of them.")  # fmt: skip
    for tuning in adding:
        if left_out := _left_out(tuning):
            watch(
                0,
                0,
                f"{tuning.name}: its differences of the encoder are added, and {', '.join(left_out)} left out, for the file does not say of which task they are.",
            )
    adding, taking = (_carried(tunings, model, trimmed_from) for tunings in (adding, taking))
    rest = [tuning for tuning in adding if not _is_task(tuning)] + [_negative(tuning) for tuning in taking]  # fmt: skip
    if tasks:
        task = next(tuning for tuning in adding if _is_task(tuning))
        tuned = apply_task(model, task, language_sfts=rest)
        added = [task.name, *(tuning.name for tuning in adding if tuning is not task)]
        names = {"applied": added, "subtracted": [tuning.name for tuning in taking]}
        notes = {**tuned.notes, **bare_names(names)}
        write_finetuned(out, replace(tuned, notes=notes))
        return out
    return _write_model(model, rest, out)


def _carried(
    tunings: Sequence[SparseFineTuning], model: str | Path, whole: str | Path | None
) -> list[SparseFineTuning]:
    if whole is None:
        return list(tunings)
    from xeval.encoder import open_encoder

    kept, encoder = kept_ids(model, whole), open_encoder(str(model))
    return [carry_over(tuning, encoder, kept) for tuning in tunings]


def _negative(tuning: SparseFineTuning) -> SparseFineTuning:
    return combine((tuning, -1.0), name=tuning.name)


def _is_task(tuning: SparseFineTuning) -> bool:
    return tuning.about.get("kind") == "task"


def _left_out(tuning: SparseFineTuning) -> list[str]:
    """What else a file has, by name."""
    head = [] if _is_task(tuning) else sorted(tuning.head)
    return [*head, *tuning.about.get("left_out", ())]


def _write_model(model: str | Path, tunings: Sequence[SparseFineTuning], out: Path) -> Path:
    from bistil.encoders.model_folder import write_model
    from teacherzoo import load_teacher

    teacher = load_teacher(model, headless=True)
    apply(teacher.model, *tunings)
    with written_whole(out) as part:
        write_model(teacher.model, teacher, part)
    return out
