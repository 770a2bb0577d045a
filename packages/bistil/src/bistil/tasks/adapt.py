"""Phase 2: a student learns a task from a teacher that knows it, by lottery-ticket sparse fine-tuning."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import nn

from bistil.encoders.body import body_digests
from bistil.errors import AdaptError
from bistil.losses.task import TASKS, DistillationModel
from bistil.losses.weights import TaskLossWeights
from bistil.lottery.config import NUMBERS
from bistil.sparse.difference import SparseFineTuning
from bistil.sparse.files import write_sparse
from bistil.tasks.alignment import Alignment, align, plan_of_extraction
from bistil.tasks.data import read_task
from bistil.tasks.task_sft import head_of
from bistil.tasks.teacher import TaskTeacher, open_teacher
from bistil.tasks.training import (
    Objective,
    TaskTraining,
    plan_of,
    require_entries,
    train_task,
    untrained,
)
from bistil.tasks.unlabelled import UnlabelledText, unlabelled_examples
from bistil.text.languages import digests_of_sources
from teacherzoo.cache import DIGESTS, MADE, made_once, refuse_what_exists, work_dir
from teacherzoo.digests import digest_of_model, keep_digests
from teacherzoo.processes import rank
from teacherzoo.progress import ProgressCallback, no_progress
from vocabmerge.hub.push import bare_names
from xeval import FineTunedModel
from xeval.data.source import Source
from xeval.encoder import model_digest
from xeval.finetune.checkpoint import TaskModel, write_finetuned

TASK_FILE = "task.sft.safetensors"
TEACHER_FILE = "teacher.sft.safetensors"


def adapt(
    student: str | Path,
    out: Path,
    *,
    task: str,
    source: Source,
    language: str,
    teacher: TaskTeacher | None,
    training: TaskTraining | None = None,
    loss: TaskLossWeights | None = None,
    layers: Sequence[int] | None = None,
    text: UnlabelledText | None = None,
    label: ResultLabel | None = None,
    watch: ProgressCallback = no_progress,
) -> Path:
    """Adapt a student to a task on the source language, for use on the target's (BiStil, phase 2; Ansell et al. 2023, section 3).

    The student S gets a head and becomes S + φ by lottery-ticket sparse fine-tuning (Ansell et al. 2022) under a teacher
    that knows the task, its sparse fine-tunings of language and task applied:

        L = L_attn + L_hidden + CE(softmax(z_T / T), softmax(z_S / T)),

    with weights and T as `loss` says. The head is fresh; where a teacher of the student's width labels `text`, it begins as the
    teacher's. Teacher and student read the same tokens: the student's, under the teacher's ids. Lines of `text` are
    examples beside those of the task (as Mukherjee and Awadallah 2020 have them): of the target language there are no
    labels, but a teacher's answers. Interrupted, it goes on when called again with the same arguments, models, files and data, wherever these lie by then.

    Args:
        student: a folder that `extract` wrote, or any model with the teacher's layers thinned out.
        out: the folder to write; it must not exist.
        task: pos, dp, ner, nli, paraphrase, topic or qa.
        source: where the data lies.
        language: the source language, or a data set's own name.
        teacher: of the task; None to learn from the labels alone.
        training: steps, and what of the student is kept.
        loss: its terms and their weights; by default `TaskLossWeights.suited`.
        layers: for each of the student's layers the teacher's; by default what `extract` wrote, or the last of each block.
        text: without labels, for the teacher to label; of tasks of one label per word or text.
        label: what results call it; its folder's name and digest by default.
        watch: told (done, total, what).

    Returns:
        `out`: a folder that `xeval score` reads, with the student's sparse fine-tuning in `task.sft.safetensors`, that of
        a teacher that was made in `teacher.sft.safetensors`, and `run.json`.

    Raises:
        AdaptError: for a teacher of another task or with other labels, layers that do not meet, options that do not fit.
        SparseError: for files of another base model, and a student whose vocabulary is not part of the teacher's.
        XevalError: for data that cannot be used.

    Example:
        A parser for Swahili, from a student that `extract` made of XLM-R for English and Swahili:

            adapt(
                "xlmr-en-sw",
                Path("parser-en-sw"),
                task="dp",
                source=open_source("hub:universal_dependencies"),
                language="en",
                teacher=TaskTeacher(model="FacebookAI/xlm-roberta-base"),
            )
    """
    training = training or TaskTraining()
    loss = loss or TaskLossWeights.suited(text=text is not None)
    if teacher is not None and task not in TASKS:
        raise AdaptError(f"A teacher's answers to {task!r} cannot be distilled; choose one of {', '.join(TASKS)}.")  # fmt: skip
    refuse_what_exists(out, AdaptError)
    if text is not None and teacher is None:
        raise AdaptError("Text without labels is for a teacher to label; give --teacher, or leave --text out.")  # fmt: skip
    plan = plan_of(training)
    require_entries(student, training.sparsity)
    data = read_task(task, source, language, training.protocol)
    unlabelled = None if text is None else unlabelled_examples(data, text)
    alignment = None if teacher is None else align(student, teacher, layers, loss)
    keep_digests(work_dir(out) / DIGESTS)
    inputs = {
        "student": digest_of_model(student),
        "task": task,
        "data": [data.data_set.name, data.digest],
        "teacher": None if teacher is None else teacher.digests(),
        "training": training.decides(),
        "bf16": plan.bf16,
        "loss": loss.to_json(),
        "layers": None if alignment is None else list(alignment.layers),
        "units": plan_of_extraction(student).get("units"),
    }
    if text is not None:
        inputs["text"] = {"lines": text.lines, "head": "the teacher's", **digests_of_sources(text.sources)}  # fmt: skip

    def learn(work: Path) -> None:
        objective = None
        if teacher is not None and alignment is not None:
            task_teacher = open_teacher(teacher, data, source, language, training, work / TEACHER_FILE, watch)  # fmt: skip
            objective = _distilled_from(task_teacher, alignment, loss)
        learner, pieces = untrained(student, data, training)
        if text is not None:
            _begin_as(learner.head, task_teacher.model.head)
        base = body_digests(learner)
        ticket, record = train_task(
            learner, pieces, data, training, work, objective=objective, unlabelled=unlabelled, watch=watch
        )  # fmt: skip
        record["loss"] = None if teacher is None else loss.to_json()
        tuned = FineTunedModel(
            model=learner,
            pieces=pieces,
            task=task,
            labels=data.labels,
            protocol=training.protocol,
            source=data.data_set.name,
            source_language=data.data_set.language,
            seed=training.seed,
            base=label.name if label else bare_names(student),
            base_digest=label.digest if label else model_digest(str(student)),
            train_digest=data.digest,
            notes=record,
        )
        if rank() == 0:
            tuning = SparseFineTuning(body=ticket.body, base=base, head=head_of(learner), about=_about(tuned))  # fmt: skip
            _write(tuned, tuning, training, work, teacher, student)

    return made_once(out, inputs, learn, together=True, refuse=AdaptError)


def _begin_as(head: nn.Module, of_teacher: nn.Module) -> None:
    """Take a teacher's head as it is, unless it reads wider states."""
    wanted, taught = head.state_dict(), of_teacher.state_dict()
    if all(tensor.shape == taught[name].shape for name, tensor in wanted.items()):
        head.load_state_dict(taught)


def _distilled_from(
    teacher: FineTunedModel, alignment: Alignment, loss: TaskLossWeights
) -> Objective:
    def objective(model: TaskModel, passes: int) -> nn.Module:
        return DistillationModel(
            model,
            teacher.model,
            layers=alignment.layers,
            teacher_ids=alignment.teacher_ids,
            weights=loss,
            passes=passes,
            projection=alignment.projection,
            heads=alignment.heads,
        )

    return objective


@dataclass(frozen=True, kw_only=True)
class ResultLabel:
    """What results call a model, where it is not the folder that was adapted.

    Args:
        name: of the model.
        digest: of it.
    """

    name: str
    digest: str


def _about(tuned: FineTunedModel) -> dict[str, Any]:
    return {
        "kind": "task",
        "task": tuned.task,
        "labels": list(tuned.labels),
        "protocol": asdict(tuned.protocol),
        "source": tuned.source,
        "source_language": tuned.source_language,
        "train_digest": tuned.train_digest,
        "seed": tuned.seed,
        "model": tuned.base,
        "language_sfts": [],
        "record": tuned.notes,
    }


def _write(
    tuned: FineTunedModel,
    tuning: SparseFineTuning,
    training: TaskTraining,
    work: Path,
    teacher: TaskTeacher | None,
    student: str | Path,
) -> None:
    folder, teacher_file = work / MADE, work / TEACHER_FILE
    write_finetuned(folder, tuned)
    write_sparse(tuning, folder / TASK_FILE, values=NUMBERS[training.sparsity.values])
    if teacher_file.is_file():
        shutil.copy(teacher_file, folder / TEACHER_FILE)
    run = {
        "what": "a student adapted by bistil",
        "student": bare_names(student),
        "teacher": None if teacher is None else bare_names(asdict(teacher)),
        "training": training.to_json() | {"arguments": bare_names(training.arguments)},
        "base_digest": tuning.base_digest,
        "record": tuned.notes,
        "versions": {
            name: version(name) for name in ("bistil", "distillery-xeval", "torch", "transformers")
        },
    }
    (folder / "run.json").write_text(
        json.dumps(run, indent=1, default=str, ensure_ascii=False) + "\n", encoding="utf-8"
    )
