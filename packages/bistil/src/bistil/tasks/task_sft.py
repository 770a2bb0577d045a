"""A task's sparse fine-tuning on a big model, with its head; and the model that it is applied to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from torch import Tensor

from bistil.encoders.body import body_digests
from bistil.errors import AdaptError, SparseError
from bistil.lottery.config import NUMBERS
from bistil.sparse.apply import apply
from bistil.sparse.composable_sft import sparse_path
from bistil.sparse.difference import SparseFineTuning
from bistil.sparse.files import read_sparse, write_sparse
from bistil.tasks.data import read_task
from bistil.tasks.training import TaskTraining, plan_of, require_entries, train_task, untrained
from teacherzoo.cache import MADE, made_once, refuse_what_exists
from teacherzoo.digests import digest_of_files, digest_of_model
from teacherzoo.processes import rank
from teacherzoo.progress import ProgressCallback, no_progress
from vocabmerge.hub.push import bare_names
from xeval import FineTunedModel, FineTunedTask, Protocol, task_of
from xeval.data.source import Source
from xeval.encoder import model_digest
from xeval.finetune.checkpoint import TaskModel, build


def task_sft(
    model: str | Path,
    out: Path,
    *,
    task: str,
    source: Source,
    language: str,
    language_sfts: Sequence[str | Path] = (),
    training: TaskTraining | None = None,
    watch: ProgressCallback = no_progress,
) -> SparseFineTuning:
    """Learn a task on the source language by LT-SFT, and write differences and head as one file (Ansell et al. 2022, section 3).

    Started from θ + φ_language and a fresh head, everything is trained; the entries of the body that moved most are chosen, all
    is put back, and those alone are trained: φ_task. Interrupted, it goes on when called again with the same arguments, model, files and data, wherever these lie by then.

    Args:
        model: a model folder or Hub name.
        out: the file to write; it must not exist.
        task: one of the judge's, with a head.
        source: where the data lies.
        language: the source language, or a data set's own name.
        language_sfts: applied while the task is learnt and no part of the outcome, so that another language's can be applied
            with the task's later.
        training: steps and what is kept.
        watch: told (done, total, what).

    Returns:
        Differences of the body and the head, as the file has them.

    Raises:
        AdaptError: for a task without a head, options that do not fit, a file in the way.
        SparseError: for a language's file of another base model.
        XevalError: for a model or data that cannot be used.

    Example:
        Parts of speech for XLM-R on English, with the English of `language_sft`:

            task_sft(
                "FacebookAI/xlm-roberta-base",
                Path("pos.safetensors"),
                task="pos",
                source=open_source("data"),
                language="en",
                language_sfts=["en.safetensors"],
            )
    """
    training = training or TaskTraining()
    refuse_what_exists(out, AdaptError)
    plan = plan_of(training)
    require_entries(model, training.sparsity)
    data = read_task(task, source, language, training.protocol)
    inputs = {
        "model": digest_of_model(model),
        "task": task,
        "data": [data.data_set.name, data.digest],
        "language_sfts": digests_of(language_sfts),
        "training": training.decides(),
        "bf16": plan.bf16,
    }

    def learn(work: Path) -> None:
        languages = [read_sparse(Path(file)) for file in language_sfts]
        learner, pieces = untrained(model, data, training)
        base = body_digests(learner)
        apply(learner, *languages)
        ticket, record = train_task(learner, pieces, data, training, work, watch=watch)
        about = {
            "kind": "task",
            "task": task,
            "labels": list(data.labels),
            "protocol": asdict(training.protocol),
            "source": data.data_set.name,
            "source_language": data.data_set.language,
            "train_digest": data.digest,
            "seed": training.seed,
            "model": bare_names(model),
            "language_sfts": [dict(tuning.about) for tuning in languages],
            "record": record,
        }
        tuning = SparseFineTuning(body=ticket.body, base=base, head=head_of(learner), about=about)
        if rank() == 0:
            write_sparse(tuning, work / MADE, values=NUMBERS[training.sparsity.values])

    return read_sparse(made_once(out, inputs, learn, together=True, refuse=AdaptError))


def head_of(model: TaskModel) -> dict[str, Tensor]:
    """The head's tensors by name, on the CPU."""
    return {name: tensor.detach().cpu() for name, tensor in model.head.state_dict().items()}


def digests_of(files: Sequence[str | Path]) -> list[str]:
    """What sparse fine-tunings hold, wherever they lie."""
    return [digest_of_files([sparse_path(Path(file))]) for file in files]


def apply_task(
    model: str | Path,
    tuning: SparseFineTuning,
    *,
    language_sfts: Sequence[SparseFineTuning] = (),
    name: str | None = None,
    digest: str | None = None,
) -> FineTunedModel:
    """θ + φ_task + Σ φ_language with the task's head, as the judge takes it (zero-shot transfer; Ansell et al. 2022, section 3).

    Args:
        model: the base model, a folder or Hub name.
        tuning: a task's, with its head.
        language_sfts: added too.
        name: what results call it; the base model's name when None.
        digest: what results know it by; the base model's when None.

    Returns:
        The model, its tokenizer, labels and where it comes from.

    Raises:
        SparseError: for a file without a task's head, or of another base model.

    Example:
        A tagger of Swahili out of English examples:

            tagger = apply_task(
                "FacebookAI/xlm-roberta-base",
                read_sparse(Path("pos.safetensors")),
                language_sfts=[read_sparse(Path("sw.safetensors"))],
            )
    """
    about = tuning.about
    if about.get("kind") != "task" or not tuning.head:
        raise SparseError(f"{tuning.name}: it has no task's head (it is of kind {about.get('kind')!r}); give a file that `bistil sft --task` wrote.")  # fmt: skip
    task, protocol = task_of(about["task"]), Protocol(**about["protocol"])
    assert isinstance(task, FineTunedTask)
    applied, pieces = build(str(model), task, tuple(about["labels"]), protocol)
    apply(applied, *language_sfts, tuning)
    applied.head.load_state_dict(dict(tuning.head))
    return FineTunedModel(
        model=applied.eval(),
        pieces=pieces,
        task=task.name,
        labels=tuple(about["labels"]),
        protocol=protocol,
        source=about["source"],
        source_language=about["source_language"],
        seed=about["seed"],
        base=name or bare_names(model),
        base_digest=digest or model_digest(str(model)),
        train_digest=about.get("train_digest"),
        notes={
            **about["record"],
            "applied": bare_names([tuning.name, *(language.name for language in language_sfts)]),
        },
    )
