"""One body, a head a task: a teacher tuned on several tasks together, made once and kept (Liu et al. 2023)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from bistil.counted import counted
from bistil.encoders.model_folder import write_model
from bistil.errors import ExtractError
from bistil.lottery.config import Evaluation, TrainingPlan
from bistil.lottery.training_run import train
from bistil.multitask.data import MixedBatches, TaskMixture, TrainedTask
from bistil.multitask.vectors import VectorsKept
from bistil.text.batches import examples_per_pass
from teacherzoo import load_teacher
from teacherzoo.cache import MADE, digest_of_values, made_once
from teacherzoo.digests import digest_of_model
from teacherzoo.encoders.kinds import PLAIN_NAMES
from teacherzoo.processes import rank, world_size
from teacherzoo.progress import ProgressCallback
from teacherzoo.training.arguments import has_bfloat16
from vocabmerge import Kind, Layout
from xeval.encoder import longest_row, open_tokenizer
from xeval.finetune.checkpoint import TaskModel, predict
from xeval.task_templates.word_tokenization import Encoded, Pieces

_RECORD = "tasks.json"
_KINDS = (Kind.MASKED_LM, Kind.HEADLESS, Kind.SENTENCE)


@dataclass(frozen=True, kw_only=True)
class TaskScore:
    """What the tuned teacher is worth on one development set.

    Attributes:
        task: its name.
        data_set: the name of the set.
        metric: the task's first.
        score: in points of 100.
        examples: of the development set.
    """

    task: str
    data_set: str
    metric: str
    score: float
    examples: int

    def __str__(self) -> str:
        return f"{self.task} of {self.data_set} {self.metric} {self.score:.2f}"


@dataclass(frozen=True, kw_only=True)
class TunedTeacher:
    """A teacher after its tuning, and what that changed.

    Attributes:
        steps: that were taken.
        best_step: whose weights it has.
        batch: examples of a step.
        sampling: how tasks took turns.
        scores: on the development sets.
        kept: by language how near its vectors are to the untuned model's.
    """

    steps: int
    best_step: int
    batch: int
    sampling: str
    scores: tuple[TaskScore, ...]
    kept: Mapping[str, VectorsKept] = field(default_factory=dict)

    def sentences(self) -> list[str]:
        """As a plan and a card say it."""
        tasks = list(dict.fromkeys(score.task for score in self.scores))
        order = {"even": "a step each in turn", "size": "as often as they have examples"}
        told = [
            f"{' and '.join(filter(None, (', '.join(tasks[:-1]), tasks[-1])))} together, {order[self.sampling]}, {counted(self.best_step, 'step')} of "
            f"{counted(self.batch, 'example')}; on development sets {', '.join(map(str, self.scores))}"
        ]
        told += [
            f"vectors beside the untuned teacher's, of 100, on {counted(kept.lines, 'line')} in {language}: {kept}" for language, kept in self.kept.items()
        ]  # fmt: skip
        return told


def require_tunable(layout: Layout, name: str | Path, *, untuned: Mapping[str, object]) -> None:  # fmt: skip
    """Refuse teachers whose own head would be left behind by a body that moves, and what was made of the body as it is.

    Args:
        layout: of the teacher.
        name: as the user gave it.
        untuned: in words to what was given that was made of the teacher as it is.

    Raises:
        ExtractError: naming the kind, or what was given.
    """
    if layout.kind not in _KINDS:
        raise ExtractError(
            f"{name}: tuning on tasks moves the body under the head of {PLAIN_NAMES[layout.kind]}, which learnt to read it as it is; "
            "give a masked LM, an encoder without a head or a sentence encoder, or leave the teacher's tasks out."
        )
    for what, given in untuned.items():
        if given:
            raise ExtractError(
                f"The teacher is tuned on tasks first, and the {what} are of the untuned one; leave one or the other out."
            )


def tuned_teacher(
    folder: Path, mixture: TaskMixture, cache_dir: Path, *, watch: ProgressCallback
) -> tuple[Path, TunedTeacher]:
    """The model tuned on the tasks together, in a folder of its own layout; made once, by all processes, and gone on with where it stopped.

    L = the loss of the task whose turn it is, as the judge tunes on it alone; AdamW on the body and on that task's head. The weights
    with the best mean over the tasks of the development sets' first metrics are kept, and the heads dropped.

    Args:
        folder: the whole model.
        mixture: the tasks with their data.
        cache_dir: where it stays.
        watch: told (done, total, what).

    Returns:
        The folder, and what came of the tuning.

    Raises:
        AdaptError: for examples that cannot be shared by the processes.
        TeacherzooError: where training diverges.
        XevalError: for data that the model's tokenizer cannot serve.
    """
    protocol = mixture.asked.protocol
    examples_per_pass(protocol.batch_size, 1)
    bf16 = protocol.precision == "auto" and has_bfloat16()
    inputs = {"model": digest_of_model(folder), **mixture.inputs(), "bf16": bf16}

    def make(work: Path) -> None:
        _tune(folder, mixture, work, bf16=bf16, watch=watch)

    place = made_once(
        cache_dir / f"multitask-{digest_of_values(inputs)[:16]}", inputs, make, together=True, watch=watch
    )  # fmt: skip
    record = json.loads((place / _RECORD).read_text(encoding="utf-8"))
    scores = tuple(TaskScore(**score) for score in record.pop("scores"))
    tuned = TunedTeacher(batch=protocol.batch_size, sampling=mixture.asked.sampling, scores=scores, **record)  # fmt: skip
    watch(
        tuned.best_step,
        tuned.steps,
        f"evaluated the teacher as kept, {', '.join(map(str, scores))}",
    )
    return place, tuned


class MultiTaskModel(nn.Module):
    """One encoder under the heads of several tasks.

    Args:
        encoder: with `last_hidden_state` [R, T, H].
        heads: of the tasks.
    """

    def __init__(self, encoder: nn.Module, heads: Sequence[nn.Module]) -> None:
        super().__init__()
        self.tasks = nn.ModuleList([TaskModel(encoder, head) for head in heads])

    def forward(
        self, task: Tensor, num_items_in_batch: Tensor | int | None = None, **batch: Any
    ) -> dict[str, Tensor]:
        """Outputs of the head of task number `task` [], with its `loss` when training."""
        outputs: dict[str, Tensor] = self.tasks[int(task)](num_items_in_batch, **batch)
        return outputs


def _tune(
    folder: Path, mixture: TaskMixture, work: Path, *, bf16: bool, watch: ProgressCallback
) -> None:
    from transformers import set_seed

    asked, protocol, tasks = mixture.asked, mixture.asked.protocol, mixture.tasks
    teacher = load_teacher(folder, headless=True)
    encoder = teacher.model.base_model
    for name, parameter in encoder.named_parameters():
        if name.startswith("pooler."):
            parameter.requires_grad_(False)  # heads read states
    set_seed(asked.seed)
    heads = [task.task.head(encoder.config.hidden_size, len(task.labels), protocol) for task in tasks]  # fmt: skip
    model = MultiTaskModel(encoder, heads)
    pieces = Pieces(open_tokenizer(str(teacher.tokenizer_folder)), min(protocol.window, longest_row(encoder)))  # fmt: skip
    watch(
        0, protocol.steps, f"encoding examples of {' and '.join(task.task.name for task in tasks)}"
    )
    encoded = [task.task.encode(pieces, task.train, task.labels)[0] for task in tasks]
    dev = [_encoded_dev(task, pieces) for task in tasks]
    scores: list[list[TaskScore]] = []

    def mean_score() -> float:
        scores[:] = [
            _scores(learnt, task, sets, pieces, watch) for learnt, task, sets in zip(model.tasks, tasks, dev, strict=True)
        ]  # fmt: skip
        told = ", ".join(str(score) for several in scores for score in several)
        watch(0, 0, f"evaluated on development sets, {told}")
        means = [sum(score.score for score in several) / len(several) for several in scores]
        return sum(means) / len(means)

    plan = TrainingPlan(
        steps=protocol.steps, learning_rate=protocol.learning_rate, warmup=protocol.warmup, weight_decay=protocol.weight_decay,
        evaluate_every=protocol.evaluate_every, patience=protocol.patience, checkpoint_every=protocol.evaluate_every,
        bf16=bf16, seed=asked.seed, per_step=protocol.batch_size,
        # A step reaches the head of one task.
        arguments={"ddp_find_unused_parameters": True} if world_size() > 1 else {},
    )  # fmt: skip
    batches = MixedBatches(encoded, [task.task for task in tasks], pieces.pad_id, asked=asked)
    evaluation = Evaluation(measure=mean_score, words="mean of the tasks {:.2f}")
    outcome = train(
        model, batches, plan, work / "checkpoints", evaluation=evaluation, watch=watch, what="tuning the teacher on tasks"
    )  # fmt: skip
    if (
        not scores or outcome.best_step != outcome.steps
    ):  # else the last evaluation was of these weights
        mean_score()
    if rank() == 0:
        write_model(teacher.model.cpu(), teacher, work / MADE)
        record = {"steps": outcome.steps, "best_step": outcome.best_step, "scores": [asdict(score) for several in scores for score in several]}  # fmt: skip
        (work / MADE / _RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _encoded_dev(task: TrainedTask, pieces: Pieces) -> list[list[Encoded]]:
    """The development examples of each data set."""
    return [task.task.encode(pieces, examples, task.labels)[0] for examples in task.dev.values()]


def _scores(
    model: Any,
    task: TrainedTask,
    dev: Sequence[list[Encoded]],
    pieces: Pieces,
    watch: ProgressCallback,
) -> list[TaskScore]:
    """In the task's first metric, a set at a time."""
    metric, scores = task.task.metrics[0], []
    for (data_set, examples), encoded in zip(task.dev.items(), dev, strict=True):
        guesses = predict(
            model, task.task, encoded, labels=task.labels, pad_id=pieces.pad_id, watch=watch, what=f"scoring {task.task.name}"
        )  # fmt: skip
        items = task.task.items(examples, guesses, task.labels, data_set.language)
        value = next(item for item in items if item.metric == metric).value()
        scores.append(TaskScore(task=task.task.name, data_set=data_set.name, metric=metric, score=float(value), examples=len(examples)))  # fmt: skip
    return scores
