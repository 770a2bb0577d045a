"""Phase 2: a student learns a task from a teacher that knows it, by lottery-ticket sparse fine-tuning."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bistil.cache import refuse_what_exists, remove_work, work_folder
from bistil.encoders.body import body_digests
from bistil.encoders.capture import family_of, layers_of
from bistil.errors import AdaptError
from bistil.losses.attention_hidden import require_same_heads
from bistil.losses.task import TASKS, Distillation, Distilling
from bistil.lottery.lottery_ticket import NUMBERS
from bistil.sparse.difference import SparseFineTuning
from bistil.sparse.files import read_sparse, write_sparse
from bistil.sparse.reindex import kept_ids
from bistil.student.layers import layer_map
from bistil.student.narrow import projection_of
from bistil.tasks.data import TaskData, read_task
from bistil.tasks.teacher import digests_of, task_sft, wear_task
from bistil.tasks.training import TaskTraining, plan_of, train_task, untrained
from teacherzoo.digests import digest_of_files, digest_of_model
from teacherzoo.encoders.teachers import teacher_folder
from teacherzoo.processes import rank, wait_for_all
from xeval import FineTunedModel, read_finetuned
from xeval.data.source import Source
from xeval.encoder import model_digest
from xeval.finetune.checkpoint import TaskModel, write_finetuned

Watch = Callable[[int, int, str], None]
TASK_FILE = "task.sft.safetensors"
TEACHER_FILE = "teacher.sft.safetensors"


@dataclass(frozen=True, kw_only=True)
class TaskTeacher:
    """Who teaches the task.

    Args:
        model: a folder that `xeval tune` wrote; or a model, with a task's sparse fine-tuning or one still to be made.
        task_sft: of the model; None to make it, or where the folder is tuned.
        language_sfts: of the source language, which the model wears besides.
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


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What results call a model, where it is not the folder that was adapted.

    Args:
        name: of the model.
        digest: of it.
    """

    name: str
    digest: str


def adapt(
    student: str | Path,
    out: Path,
    *,
    task: str,
    source: Source,
    language: str,
    teacher: TaskTeacher | None,
    training: TaskTraining | None = None,
    distillation: Distillation | None = None,
    layers: Sequence[int] | None = None,
    identity: Identity | None = None,
    watch: Watch = lambda done, total, what: None,
) -> Path:
    """Adapt a student to a task on the source language, for use on the target's (BiStil, phase 2).

    Teacher and student read the same tokens: the student's, under the teacher's ids. Interrupted, it goes on when called
    again with the same arguments, models, files and data, wherever these lie by then.

    Args:
        student: a folder that `extract` wrote, or any model with the teacher's layers thinned out.
        out: the folder to write; it must not exist.
        task: pos, dp, ner, nli, paraphrase, topic or qa.
        source: where the data lies.
        language: the source language, or a data set's own name.
        teacher: of the task; None to learn from the labels alone.
        training: steps, and what of the student is kept.
        distillation: weights of the loss.
        layers: for each of the student's layers the teacher's; by default what `extract` wrote, or the last of each block.
        identity: what results call it.
        watch: told (done, total, what).

    Returns:
        `out`: a folder that `xeval score` reads, with the student's sparse fine-tuning in `task.sft.safetensors`, that of
        a teacher that was made in `teacher.sft.safetensors`, and `run.json`.

    Raises:
        AdaptError: for a teacher of another task or with other labels, layers that do not meet, options that do not fit.
        SparseError: for files of another base model, and a student whose vocabulary is not part of the teacher's.
        XevalError: for data that cannot be used.
    """
    training, distillation = training or TaskTraining(), distillation or Distillation()
    if teacher is not None and task not in TASKS:
        raise AdaptError(f"A teacher's answers to {task!r} cannot be distilled; choose one of {', '.join(TASKS)}.")  # fmt: skip
    refuse_what_exists(out, AdaptError)
    plan = plan_of(training)
    data = read_task(task, source, language, training.protocol)
    met = None if teacher is None else _meet(student, teacher, layers, distillation)
    stated = {
        "student": digest_of_model(student), "task": task, "data": [data.data_set.name, data.digest],
        "teacher": None if teacher is None else teacher.digests(), "training": training.to_json(), "bf16": plan.bf16,
        "distillation": asdict(distillation), "layers": None if met is None else list(met.layers),
        "units": _plan_of(student).get("units"),
    }  # fmt: skip
    work = work_folder(out, stated)
    made = work / TEACHER_FILE
    opened = None if teacher is None else _open_teacher(teacher, data, source, language, training, made, watch)  # fmt: skip
    learner, pieces = untrained(student, data, training)
    base = body_digests(learner)
    wrap: Callable[[TaskModel, int], nn.Module] = lambda model, passes: model  # noqa: E731  # a definition would not say more
    if opened is not None and met is not None:
        wrap = _distilling(opened, met, distillation)
    ticket, record = train_task(learner, pieces, data, training, work, wrap=wrap, watch=watch)
    record["distillation"] = None if teacher is None else asdict(distillation)
    name = Path(student).name if Path(student).is_dir() else str(student)
    tuned = FineTunedModel(
        model=learner,
        pieces=pieces,
        task=task,
        labels=data.labels,
        protocol=training.protocol,
        source=data.data_set.name,
        source_language=data.data_set.language,
        seed=training.seed,
        base=identity.name if identity else name,
        base_digest=identity.digest if identity else model_digest(str(student)),
        train_digest=data.digest,
        notes=record,
    )
    if rank() == 0:
        tuning = SparseFineTuning(
            body=ticket.body,
            base=base,
            head={name: its.detach().cpu() for name, its in learner.head.state_dict().items()},
            about=_about(tuned),
        )
        _write(tuned, tuning, training, made, work / "folder", teacher, student)
        (work / "folder").replace(out)
        remove_work(work)
    wait_for_all()
    return out


def _open_teacher(
    teacher: TaskTeacher,
    data: TaskData,
    source: Source,
    language: str,
    training: TaskTraining,
    made: Path,
    watch: Watch,
) -> FineTunedModel:
    """The teacher with its head, made where there is none yet; its labels are checked."""
    if teacher.tuned:
        if teacher.task_sft is not None or teacher.language_sfts:
            raise AdaptError(f"{teacher.model}: it is tuned already, so no sparse fine-tuning fits it; leave them out, or give its base model.")  # fmt: skip
        opened = read_finetuned(Path(teacher.model))
    else:
        file = made if teacher.task_sft is None else Path(teacher.task_sft)
        if teacher.task_sft is None and not made.is_file():
            task_sft(
                teacher.model, made, task=data.task.name, source=source, language=language,
                language_sfts=teacher.language_sfts, training=training, watch=watch,
            )  # fmt: skip
        languages = [read_sparse(Path(its)) for its in teacher.language_sfts]
        opened = wear_task(teacher.model, read_sparse(file), language_sfts=languages)
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
    first = next(label for label, other in zip(of_data, of_teacher, strict=True) if label != other)
    return (
        f"they are the same in another order: {first!r} is number {list(of_data).index(first)} in the data and "
        f"number {list(of_teacher).index(first)} in the teacher"
    )


@dataclass(frozen=True, kw_only=True)
class _Met:
    """How a student's layers, pieces and states correspond to its teacher's."""

    layers: Sequence[int]
    teacher_ids: Tensor
    projection: Tensor | None


def _meet(
    student: str | Path,
    teacher: TaskTeacher,
    layers: Sequence[int] | None,
    distillation: Distillation,
) -> _Met:
    """Known from configurations and vocabularies alone: what does not meet is refused before a teacher is made."""
    mine, its = _shell(student), _shell(teacher.model)
    chosen = layers if layers is not None else _layers_of(student, mine, its)
    _check_layers(student, chosen, len(layers_of(mine)), len(layers_of(its)))
    projection = None
    if distillation.attention or distillation.hidden:
        require_same_heads(*(one.config.num_attention_heads for one in (mine, its)))
        projection = _projection(student, mine.config.hidden_size, its.config.hidden_size)
    ids = torch.from_numpy(kept_ids(student, teacher.model))
    return _Met(layers=chosen, teacher_ids=ids, projection=projection)


def _check_layers(student: str | Path, layers: Sequence[int], own: int, depth: int) -> None:
    """One of the teacher's layers for each of the student's."""
    strange = [layer for layer in layers if not 0 <= layer < depth]
    if len(layers) != own or strange:
        raise AdaptError(
            f"{student}: expected {own} of the teacher's layers 0 to {depth - 1}, one for each of the student's, "
            f"got {', '.join(map(str, layers)) or 'none'}."
        )


def _shell(model: str | Path) -> Any:
    """An encoder without weights."""
    from transformers import AutoConfig, AutoModel

    with torch.device("meta"):
        return AutoModel.from_config(AutoConfig.from_pretrained(teacher_folder(model)))


def _distilling(
    opened: FineTunedModel, met: _Met, distillation: Distillation
) -> Callable[[TaskModel, int], nn.Module]:
    def wrap(model: TaskModel, passes: int) -> nn.Module:
        return Distilling(
            model,
            opened.model,
            layers=met.layers,
            teacher_ids=met.teacher_ids,
            weights=distillation,
            passes=passes,
            projection=met.projection,
        )

    return wrap


def _layers_of(student: str | Path, model: nn.Module, teacher: nn.Module) -> Sequence[int]:
    """What `extract` wrote down, where the student came from as deep a teacher; else the last layer of each block."""
    depth, own = len(layers_of(teacher)), len(layers_of(model))
    plan = _plan_of(student)
    if plan.get("teacher_layers") == depth and len(plan.get("layers", ())) == own:
        return tuple(plan["layers"])
    if depth % own:
        raise AdaptError(
            f"{student}: its {own} layers do not divide the teacher's {depth}, and no run.json says which they come from; "
            "name them by --layers."
        )
    return layer_map(depth, reduction=depth // own, first=bool(family_of(model).first_layer_pinned))


def _projection(student: str | Path, mine: int, its: int) -> Tensor | None:
    """What the teacher's states are multiplied by, where the student is narrower: the choice of units that `extract` made."""
    if mine == its:
        return None
    units = _plan_of(student).get("units") or ()
    if len(units) != mine or max(units) >= its:
        raise AdaptError(
            f"{student}: its states are {mine} wide and the teacher's {its}, and no run.json says which of them they stand for; "
            "give the teacher that it was extracted from, or leave both out by --attention 0 --hidden 0."
        )
    return projection_of(units, its)


def _plan_of(student: str | Path) -> dict[str, Any]:
    """The plan that `extract` wrote down; empty where it did not."""
    note = Path(student) / "run.json"
    if not note.is_file():
        return {}
    plan: dict[str, Any] = json.loads(note.read_text(encoding="utf-8")).get("plan", {})
    return plan


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
        "worn": [],
        "record": tuned.notes,
    }


def _write(
    tuned: FineTunedModel,
    tuning: SparseFineTuning,
    training: TaskTraining,
    made: Path,
    folder: Path,
    teacher: TaskTeacher | None,
    student: str | Path,
) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    write_finetuned(folder, tuned)
    write_sparse(tuning, folder / TASK_FILE, values=NUMBERS[training.sparsity.values])
    if made.is_file():
        shutil.copy(made, folder / TEACHER_FILE)
    run = {
        "what": "a student adapted by bistil",
        "student": str(student),
        "teacher": None if teacher is None else asdict(teacher),
        "training": training.to_json(),
        "base_digest": tuning.base_digest,
        "record": tuned.notes,
        "versions": {
            name: version(name) for name in ("bistil", "distillery-xeval", "torch", "transformers")
        },
    }
    (folder / "run.json").write_text(
        json.dumps(run, indent=1, default=str, ensure_ascii=False) + "\n", encoding="utf-8"
    )
