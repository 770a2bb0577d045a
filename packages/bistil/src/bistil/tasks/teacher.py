"""Who teaches a task: a model that knows it, or a big model and a sparse fine-tuning, made where there is none yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bistil.errors import AdaptError
from bistil.sparse.files import read_sparse
from bistil.tasks.data import TaskData
from bistil.tasks.task_sft import apply_task, digests_of, task_sft
from bistil.tasks.training import TaskTraining
from teacherzoo.digests import digest_of_files, digest_of_model
from teacherzoo.progress import ProgressCallback
from xeval import FineTunedModel, read_finetuned
from xeval.data.source import Source


@dataclass(frozen=True, kw_only=True)
class TaskTeacher:
    """Who teaches the task.

    Args:
        model: a folder that `xeval tune` wrote; or a model, with a task's sparse fine-tuning or one still to be made.
        task_sft: of the model; None to make it, or where the folder is tuned.
        language_sfts: of the source language, applied to the model, too.
    """

    model: str | Path
    task_sft: str | Path | None = None
    language_sfts: Sequence[str | Path] = ()

    @property
    def tuned(self) -> bool:
        """Whether the model's folder has a task's head."""
        return (Path(self.model) / "xeval.json").is_file()

    def digests(self) -> dict[str, Any]:
        """What it is made of, wherever that lies."""
        record = Path(self.model) / "xeval.json"
        return {
            "model": digest_of_model(self.model),
            "record": digest_of_files([record]) if self.tuned else None,
            "task_sft": None if self.task_sft is None else digests_of([self.task_sft]),
            "language_sfts": digests_of(self.language_sfts),
        }


def open_teacher(
    teacher: TaskTeacher,
    data: TaskData,
    source: Source,
    language: str,
    training: TaskTraining,
    file: Path,
    watch: ProgressCallback,
) -> FineTunedModel:
    """The teacher with its head; its labels are checked.

    Args:
        teacher: who teaches.
        data: of the task.
        source: where that lies.
        language: the source language, or a data set's own name.
        training: how the task is learnt where the teacher does not know it yet.
        file: where the sparse fine-tuning is made then, or was.
        watch: told (done, total, what).

    Raises:
        AdaptError: for a teacher of another task or with other labels.
    """
    if teacher.tuned:
        if teacher.task_sft is not None or teacher.language_sfts:
            raise AdaptError(f"{teacher.model}: it is tuned already, so no sparse fine-tuning fits it; leave them out, or give its base model.")  # fmt: skip
        opened = read_finetuned(Path(teacher.model))
    else:
        if teacher.task_sft is not None:
            file = Path(teacher.task_sft)
        elif not file.is_file():
            task_sft(
                teacher.model, file, task=data.task.name, source=source, language=language,
                language_sfts=teacher.language_sfts, training=training, watch=watch,
            )  # fmt: skip
        languages = [read_sparse(Path(language)) for language in teacher.language_sfts]
        opened = apply_task(teacher.model, read_sparse(file), language_sfts=languages)
    if opened.task != data.task.name:
        raise AdaptError(f"{teacher.model}: it was tuned on {opened.task!r}, expected {data.task.name!r}; give a teacher of this task.")  # fmt: skip
    if opened.labels != data.labels:
        raise AdaptError(
            f"{teacher.model}: its labels are not those of {data.data_set.name} ({_how_labels_differ(opened.labels, data.labels)}); "
            "tune the teacher on this data."
        )
    return opened


def _how_labels_differ(of_teacher: Sequence[str], of_data: Sequence[str]) -> str:
    if strange := sorted(set(of_teacher) ^ set(of_data)):
        return f"{strange[0]!r} is on one side alone"
    first = next(
        label for label, taught in zip(of_data, of_teacher, strict=True) if label != taught
    )
    return (
        f"they are the same in another order: {first!r} is number {list(of_data).index(first)} in the data and "
        f"number {list(of_teacher).index(first)} in the teacher"
    )
