"""A task's sparse fine-tuning on a big model, with its head; and the model that wears it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from bistil.cache import refuse_what_exists, remove_work, work_folder
from bistil.encoders.body import body_digests
from bistil.errors import AdaptError, SparseError
from bistil.lottery.lottery_ticket import NUMBERS
from bistil.sparse.apply import apply
from bistil.sparse.difference import SparseFineTuning
from bistil.sparse.files import read_sparse, write_sparse
from bistil.tasks.data import read_task
from bistil.tasks.training import TaskTraining, plan_of, train_task, untrained
from teacherzoo.digests import digest_of_files, digest_of_model
from teacherzoo.processes import rank, wait_for_all
from xeval import FineTunedModel, FineTunedTask, Protocol, task_of
from xeval.data.source import Source
from xeval.encoder import model_digest
from xeval.finetune.checkpoint import build, write_finetuned

Watch = Callable[[int, int, str], None]


def task_sft(
    model: str | Path,
    out: Path,
    *,
    task: str,
    source: Source,
    language: str,
    language_sfts: Sequence[str | Path] = (),
    training: TaskTraining | None = None,
    watch: Watch = lambda done, total, what: None,
) -> SparseFineTuning:
    """Learn a task on the source language by LT-SFT, and write differences and head as one file.

    Interrupted, it goes on when called again with the same arguments, model, files and data, wherever these lie by then.

    Args:
        model: a model folder or Hub name.
        out: the file to write; it must not exist.
        task: one of the judge's, with a head.
        source: where the data lies.
        language: the source language, or a data set's own name.
        language_sfts: worn while the task is learnt and no part of the outcome, so that another language's can be worn
            with the task's later.
        training: steps and what is kept.
        watch: told (done, total, what).

    Raises:
        AdaptError: for a task without a head, options that do not fit, a file in the way.
        SparseError: for a language's file of another base model.
        XevalError: for a model or data that cannot be used.
    """
    training = training or TaskTraining()
    refuse_what_exists(out, AdaptError)
    plan = plan_of(training)
    data = read_task(task, source, language, training.protocol)
    wearing = [read_sparse(Path(file)) for file in language_sfts]
    stated = {
        "model": digest_of_model(model), "task": task, "data": [data.data_set.name, data.digest],
        "language_sfts": digests_of(language_sfts), "training": training.to_json(), "bf16": plan.bf16,
    }  # fmt: skip
    work = work_folder(out, stated)
    learner, pieces = untrained(model, data, training)
    base = body_digests(learner)
    apply(learner, *wearing)
    ticket, record = train_task(learner, pieces, data, training, work, watch=watch)
    tuning = SparseFineTuning(
        body=ticket.body,
        base=base,
        head={name: its.detach().cpu() for name, its in learner.head.state_dict().items()},
        about={
            "kind": "task",
            "task": task,
            "labels": list(data.labels),
            "protocol": asdict(training.protocol),
            "source": data.data_set.name,
            "source_language": data.data_set.language,
            "train_digest": data.digest,
            "seed": training.seed,
            "model": _name(model),
            "worn": [dict(its.about) for its in wearing],
            "record": record,
        },
        name=str(out),
    )
    if rank() == 0:
        write_sparse(tuning, out, values=NUMBERS[training.sparsity.values])
        remove_work(work)
    wait_for_all()
    return tuning


def digests_of(files: Sequence[str | Path]) -> list[str]:
    """What sparse fine-tunings hold, wherever they lie."""
    paths = [Path(file) for file in files]
    return [
        digest_of_files([path / "pytorch_diff.bin" if path.is_dir() else path]) for path in paths
    ]


def wear_task(
    model: str | Path,
    tuning: SparseFineTuning,
    *,
    language_sfts: Sequence[SparseFineTuning] = (),
    name: str | None = None,
    digest: str | None = None,
) -> FineTunedModel:
    """The big model with a task's sparse fine-tuning and any languages', as the judge takes it.

    Args:
        model: the base model, a folder or Hub name.
        tuning: a task's, with its head.
        language_sfts: added too.
        name: what results call it; the base model's name when None.
        digest: what results know it by; the base model's when None.

    Raises:
        SparseError: for a file without a task's head, or of another base model.
    """
    about = tuning.about
    if about.get("kind") != "task" or not tuning.head:
        raise SparseError(f"{tuning.name}: it has no task's head (it is of kind {about.get('kind')!r}); give a file that `bistil sft --task` wrote.")  # fmt: skip
    task, protocol = task_of(about["task"]), Protocol(**about["protocol"])
    assert isinstance(task, FineTunedTask)
    worn, pieces = build(str(model), task, tuple(about["labels"]), protocol)
    apply(worn, *language_sfts, tuning)
    worn.head.load_state_dict(dict(tuning.head))
    return FineTunedModel(
        model=worn.eval(),
        pieces=pieces,
        task=task.name,
        labels=tuple(about["labels"]),
        protocol=protocol,
        source=about["source"],
        source_language=about["source_language"],
        seed=about["seed"],
        base=name or _name(model),
        base_digest=digest or model_digest(str(model)),
        train_digest=about.get("train_digest"),
        notes={**about["record"], "wears": [tuning.name, *(its.name for its in language_sfts)]},
    )


def compose(
    model: str | Path,
    out: Path,
    *,
    add: Sequence[str | Path] = (),
    subtract: Sequence[str | Path] = (),
    trimmed_from: str | Path | None = None,
) -> Path:
    """Write a model folder with sparse fine-tunings added for good.

    With a task's among them the folder is one that `xeval score` reads; without, a masked LM.

    Args:
        model: the base model.
        out: the folder to write; it must not exist.
        add: files to add.
        subtract: files to take away; heads of these are left out.
        trimmed_from: the model that the files were made for, where `model` is that one with a trimmed vocabulary.

    Raises:
        AdaptError: where `out` exists, or two files have a task's head.
        SparseError: for files of another base model.
    """
    if out.exists():
        raise AdaptError(f"{out} exists already; remove it, or choose another folder.")
    adding, taking = ([read_sparse(Path(file)) for file in files] for files in (add, subtract))
    tasks = [its for its in adding if its.about.get("kind") == "task"]
    if len(tasks) > 1:
        raise AdaptError(f"{tasks[0].name} and {tasks[1].name} both have a task's head; add one of them.")  # fmt: skip
    adding, taking = (_carried(its, model, trimmed_from) for its in (adding, taking))
    rest = [its for its in adding if its.about.get("kind") != "task"] + [_negative(its) for its in taking]  # fmt: skip
    if tasks:
        task = next(tuning for tuning in adding if tuning.about.get("kind") == "task")
        tuned = wear_task(model, task, language_sfts=rest)
        wears = [task.name, *(tuning.name for tuning in adding if tuning is not task)]
        notes = {**tuned.notes, "wears": wears, "subtracted": [tuning.name for tuning in taking]}
        write_finetuned(out, replace(tuned, notes=notes))
        return out
    return _write_masked_lm(model, rest, out)


def _carried(
    tunings: Sequence[SparseFineTuning], model: str | Path, whole: str | Path | None
) -> list[SparseFineTuning]:
    if whole is None:
        return list(tunings)
    from bistil.sparse.reindex import carry_over, kept_ids
    from xeval.encoder import open_encoder

    kept, encoder = kept_ids(model, whole), open_encoder(str(model))
    return [carry_over(its, encoder, kept) for its in tunings]


def _negative(tuning: SparseFineTuning) -> SparseFineTuning:
    from bistil.sparse.apply import combine

    return combine((tuning, -1.0), name=tuning.name)


def _write_masked_lm(model: str | Path, tunings: Sequence[SparseFineTuning], out: Path) -> Path:
    from teacherzoo import load_teacher
    from teacherzoo.encoders.teachers import read_tokenizer

    teacher = load_teacher(model)
    apply(teacher.model, *tunings)
    # Not the work folder of that name, which another command may go on from.
    part = out.with_name(f".{out.name}.part-{os.getpid()}")
    try:
        teacher.model.save_pretrained(part)
        read_tokenizer(teacher.folder, teacher.name).save_pretrained(part)
        part.replace(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return out


def _name(model: str | Path) -> str:
    return Path(model).name if Path(model).is_dir() else str(model)
