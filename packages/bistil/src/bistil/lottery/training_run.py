"""One training run: a `transformers.Trainer` over prepared batches that keeps the best weights and resumes exactly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bistil.lottery.masks import Masks
from teacherzoo.processes import join_processes

Watch = Callable[[int, int, str], None]


@dataclass(frozen=True, kw_only=True)
class Fitting:
    """How one run goes.

    Args:
        steps: optimizer steps.
        learning_rate: at its peak; it falls linearly to 0.
        warmup: share of the steps in which it rises.
        weight_decay: of AdamW, on matrices.
        evaluate_every: steps between evaluations; 0 for none, and the last weights are kept.
        patience: evaluations without improvement before the run stops.
        checkpoint_every: steps between checkpoints; 0 for none.
        bf16: whether the model computes in bfloat16; parameters and optimizer are float32 in any case.
        seed: of dropout.
        arguments: further fields of `transformers.TrainingArguments`, such as `deepspeed`.
        per_step: how many units an optimizer step takes, for the rate that is told; 0 for none.
        unit: what is counted.
    """

    steps: int
    learning_rate: float
    warmup: float = 0.0
    weight_decay: float = 0.0
    evaluate_every: int = 0
    patience: int = 10**9
    checkpoint_every: int = 0
    bf16: bool = False
    seed: int = 0
    arguments: Mapping[str, Any] = field(default_factory=dict)
    per_step: int = 0
    unit: str = "examples"

    @property
    def passes(self) -> int:
        """Forward passes of one process in a step."""
        return int(self.arguments.get("gradient_accumulation_steps", 1))


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What came of a run.

    Attributes:
        steps: done.
        best_step: whose weights the model has now.
        best: their score; NaN without evaluation.
        log: what the Trainer logged.
    """

    steps: int
    best_step: int
    best: float
    log: list[dict[str, float]]


def fit(
    model: nn.Module,
    batches: torch.utils.data.Dataset[dict[str, Tensor]],
    plan: Fitting,
    folder: Path,
    *,
    masks: Masks | None = None,
    score: Callable[[], float] | None = None,
    describe: Callable[[float], str] = "score {:.2f}".format,
    watch: Watch = lambda done, total, what: None,
    what: str = "training",
) -> Fitted:
    """Train `model` in place on `batches` in their order, going on from the last whole checkpoint in `folder`.

    Args:
        model: its forward takes a batch and `num_items_in_batch` and returns a `loss`; what needs no gradient is neither
            trained nor saved.
        batches: one for each forward pass of each process: steps x accumulation x processes of them.
        plan: steps and rates.
        folder: for checkpoints.
        masks: entries to freeze.
        score: of the model as it is, the more the better; under several processes the first one's counts.
        describe: a score in words, for `watch`.
        watch: told (done, total, what); at an evaluation, what begins with "evaluated".
        what: the word for what is done.

    Raises:
        AdaptError: for training arguments that transformers does not take.
        TeacherzooError: where the loss is no longer finite.
    """
    # Late: a Trainer takes seconds to import.
    from transformers import PrinterCallback, TrainerState

    from bistil.lottery.trainer import BestKeeper, SparseTrainer, only, training_arguments
    from teacherzoo.training.watch import TrainingWatch, last_whole_checkpoint

    if "deepspeed" in plan.arguments:
        join_processes()  # without a launcher it would look for MPI
    arguments = training_arguments(plan, folder)
    resume = last_whole_checkpoint(folder)
    keeper = BestKeeper(model, score, plan, resume, watch, describe)
    if resume is not None and keeper.stopped:
        model.to(arguments.device)  # where a Trainer would have left it
        state = TrainerState.load_from_json(str(Path(resume) / "trainer_state.json"))
    else:
        watching = TrainingWatch(
            watch, what=what, advice="lower the learning rate", per_step=plan.per_step, unit=plan.unit
        )  # fmt: skip
        trainer = SparseTrainer(
            masks=masks,
            model=model,
            args=arguments,
            train_dataset=batches,
            data_collator=only,
            callbacks=[keeper, watching],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train(resume_from_checkpoint=resume)
        state = trainer.state
    keeper.restore()
    if masks is not None:
        masks.check()
    return Fitted(
        steps=state.global_step,
        best_step=keeper.best_step or state.global_step,
        best=keeper.best,
        log=[entry for entry in state.log_history if "loss" in entry],
    )
