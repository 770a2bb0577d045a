"""One phase of training: all weights, or chosen entries alone; the best are left, and a killed phase resumes exactly."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import TrainingArguments

from bistil.errors import AdaptError
from bistil.lottery.config import Evaluation, TrainingPlan, TrainingResult
from bistil.lottery.masks import Masks
from teacherzoo.processes import join_processes
from teacherzoo.progress import ProgressCallback, no_progress
from teacherzoo.training.arguments import (
    decided_arguments,
    refuse_unfit_arguments,
    trainer_arguments,
)
from teacherzoo.training.trainer import PreparedBatchTrainer
from teacherzoo.training.watch import TrainingWatch

_WEIGHTS = "trained.safetensors"
_SCORE = "eval_score"
_WHERE = "Trainer arguments"


def train(
    model: nn.Module,
    batches: torch.utils.data.Dataset[dict[str, Tensor]],
    plan: TrainingPlan,
    folder: Path,
    *,
    masks: Masks | None = None,
    evaluation: Evaluation | None = None,
    watch: ProgressCallback = no_progress,
    what: str = "training",
) -> TrainingResult:
    """Train `model` in place on `batches` in their order, going on from the last whole checkpoint in `folder`.

    Args:
        model: its forward takes a batch and `num_items_in_batch` and returns a `loss`; what needs no gradient is neither
            trained nor saved.
        batches: one for each forward pass of each process: steps x accumulation x processes of them.
        plan: steps and rates.
        folder: for checkpoints.
        masks: entries to freeze.
        evaluation: chooses the best weights, which are left; without one the last are.
        watch: told (done, total, what); at an evaluation, what begins with "evaluated".
        what: the word for what is done.

    Raises:
        AdaptError: for training arguments that transformers does not take.
        TeacherzooError: where the loss is no longer finite.
    """
    if not plan.evaluate_every:
        evaluation = None
    if "deepspeed" in plan.arguments:
        join_processes()  # without a launcher it would look for MPI
    trainer = SparseTrainer(
        masks=masks,
        evaluation=evaluation,
        patience=plan.patience,
        model=model,
        args=training_arguments(plan, folder, evaluation),
        train_dataset=batches,
        callbacks=[
            TrainingWatch(
                watch,
                what=what,
                advice="lower the learning rate",
                per_step=plan.per_step,
                unit=plan.unit,
                evaluated={} if evaluation is None else {_SCORE: evaluation.words},
            )
        ],
    )
    trainer.resume()
    if masks is not None:
        masks.check()
    state = trainer.state
    return TrainingResult(
        steps=state.global_step,
        best_step=state.best_global_step or state.global_step,
        best=state.best_metric,
        log=[entry for entry in state.log_history if "loss" in entry],
    )


def training_arguments(
    plan: TrainingPlan, folder: Path, evaluation: Evaluation | None = None
) -> TrainingArguments:
    """What a Trainer is told.

    Raises:
        AdaptError: for arguments that it does not take, that our trainings do not honour, or that are decided elsewhere.
    """
    decided = _decided(plan, folder, evaluation)
    return trainer_arguments(decided, plan.arguments, where=_WHERE, error=AdaptError)


def check_arguments(plan: TrainingPlan) -> None:
    """Before anything is spent, refuse what `training_arguments` would.

    Raises:
        AdaptError: see there.
    """
    decided = _decided(plan, Path(), Evaluation(measure=lambda: 0.0))
    refuse_unfit_arguments(decided, plan.arguments, where=_WHERE, error=AdaptError)


def _decided(plan: TrainingPlan, folder: Path, evaluation: Evaluation | None) -> dict[str, Any]:
    evaluated = {} if evaluation is None else {
        "eval_strategy": "steps",
        "eval_steps": plan.evaluate_every,
        "metric_for_best_model": _SCORE,
        "greater_is_better": evaluation.greater_is_better,
    }  # fmt: skip
    return decided_arguments(
        folder,
        steps=plan.steps,
        learning_rate=plan.learning_rate,
        warmup_steps=math.ceil(plan.warmup * plan.steps),
        seed=plan.seed,
        checkpoint_every=plan.checkpoint_every or plan.steps,
        weight_decay=plan.weight_decay,
        bf16=plan.bf16,
        label_names=["labels"],
        **evaluated,
    )


class SparseTrainer(PreparedBatchTrainer):
    """Decays no frozen entry, and saves what it trains."""

    def __init__(
        self, *, masks: Masks | None, evaluation: Evaluation | None, **arguments: Any
    ) -> None:
        super().__init__(**arguments, eval_dataset=evaluation)
        self._masks, self._evaluation = masks, evaluation
        self.model_accepts_loss_kwargs = True

    def measure(self) -> dict[str, float]:
        """The evaluation of the first process, for all: where processes decide differently, one waits for the others for ever."""
        assert self._evaluation is not None
        values = [self._evaluation.measure()]
        if dist.is_available() and dist.is_initialized():
            dist.broadcast_object_list(values, src=0)
        return {_SCORE: values[0]}

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Those without a frozen entry."""
        names = super().get_decay_parameter_names(model)
        return names if self._masks is None else self._masks.decayed(names, model)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The Trainer's own, with weight decay of chosen entries beside it."""
        fresh = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if fresh and self._masks is not None and self.args.weight_decay:
            plain = self.model if model is None else model
            names = super().get_decay_parameter_names(plain)
            self._masks.decay_with(optimizer, names, plain, self.args.weight_decay)
        return optimizer

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            trained = {
                name: parameter.detach().cpu().contiguous()
                for name, parameter in self.model.named_parameters()
                if parameter.requires_grad
            }
            save_file(trained, folder / _WEIGHTS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        assign(self.model, load_file(Path(resume_from_checkpoint) / _WEIGHTS))


@torch.no_grad()
def assign(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Write weights into the parameters of their names, in place."""
    named = dict(model.named_parameters())
    for name, tensor in weights.items():
        named[name].copy_(tensor)
