"""What a Trainer does otherwise here: batches in their order, no decay of frozen entries, the best weights kept."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from bistil.errors import AdaptError
from bistil.lottery.masks import Masks
from bistil.lottery.training_run import Fitting
from teacherzoo.training.arguments import (
    decided_arguments,
    refuse_unfit_arguments,
    trainer_arguments,
)

_WEIGHTS = "trained.safetensors"
_BEST = "best.safetensors"
_WHERE = "Trainer arguments"


def training_arguments(plan: Fitting, folder: Path) -> TrainingArguments:
    """What a Trainer is told.

    Raises:
        AdaptError: for arguments that it does not take, that our trainings do not honour, or that are decided elsewhere.
    """
    return trainer_arguments(_decided(plan, folder), plan.arguments, where=_WHERE, error=AdaptError)


def check_arguments(plan: Fitting) -> None:
    """Before anything is spent, refuse what `training_arguments` would.

    Raises:
        AdaptError: see there.
    """
    refuse_unfit_arguments(_decided(plan, Path()), plan.arguments, where=_WHERE, error=AdaptError)


def _decided(plan: Fitting, folder: Path) -> dict[str, Any]:
    return decided_arguments(
        folder,
        steps=plan.steps,
        learning_rate=plan.learning_rate,
        warmup_steps=math.ceil(plan.warmup * plan.steps),
        seed=plan.seed,
        checkpoint_every=max(1, plan.checkpoint_every),
        save_strategy="steps" if plan.checkpoint_every else "no",
        weight_decay=plan.weight_decay,
        bf16=plan.bf16,
        label_names=["labels"],
    )


def only(items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The one item of a list: an item is a whole batch already."""
    (item,) = items
    return item


class SparseTrainer(Trainer):
    """Takes batches in their order, decays no frozen entry, and saves what it trains."""

    def __init__(self, *, masks: Masks | None, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._masks = masks
        self.model_accepts_loss_kwargs = True

    def _get_train_sampler(self, *_: Any) -> Any:
        return torch.utils.data.SequentialSampler(self.train_dataset)

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
            _write(self.model, folder / _WEIGHTS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        _read(self.model if model is None else model, Path(resume_from_checkpoint) / _WEIGHTS)


class BestKeeper(TrainerCallback):
    """Scores every so often, keeps the best weights, in checkpoints too, and stops when they do not get better.

    Args:
        model: in training.
        score: of the model as it is; None for no evaluation.
        plan: how often, and for how long without improvement.
        resume: the checkpoint that the run goes on from.
        watch: told each evaluation, as (done, total, "evaluated, …").
        describe: a score in words.
    """

    def __init__(
        self,
        model: nn.Module,
        score: Callable[[], float] | None,
        plan: Fitting,
        resume: str | None,
        watch: Callable[[int, int, str], None] = lambda done, total, what: None,
        describe: Callable[[float], str] = "score {:.2f}".format,
    ) -> None:
        self._model, self._score, self._plan = model, score, plan
        self._watch, self._describe = watch, describe
        self.best, self.best_step, self._stale = math.nan, 0, 0
        self._state: dict[str, Tensor] = {}
        if resume is not None and (note := Path(resume) / "best.json").is_file():
            self.best, self.best_step, self._stale = json.loads(note.read_text())
            from safetensors.torch import load_file

            self._state = load_file(Path(resume) / _BEST)

    @property
    def stopped(self) -> bool:
        """Whether patience has run out; a run that was killed after that has nothing left to train."""
        return self._stale >= self._plan.patience

    def on_step_end(self, _args: Any, state: Any, control: Any, **_: Any) -> Any:
        """Score when it is time."""
        every = self._plan.evaluate_every
        if self._score and every and (state.global_step % every == 0 or state.global_step == state.max_steps):  # fmt: skip
            value = _of_first_process(self._score())
            if self.best_step and not value > self.best:
                self._stale += 1
            else:
                self.best, self.best_step, self._stale = value, state.global_step, 0
                self._state = {name: parameter.detach().cpu().clone() for name, parameter in _trained(self._model).items()}  # fmt: skip
            best = f"best {self._describe(self.best)} at step {self.best_step}"
            self._watch(state.global_step, state.max_steps, f"evaluated, {self._describe(value)}, {best}")  # fmt: skip
            control.should_training_stop |= self.stopped
        return control

    def on_save(self, args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Put the best weights so far beside those of the step."""
        if self.best_step and state.is_world_process_zero:
            from safetensors.torch import save_file

            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            save_file(self._state, folder / _BEST)
            (folder / "best.json").write_text(json.dumps([self.best, self.best_step, self._stale]))

    def restore(self) -> None:
        """Put the best weights back."""
        _assign(self._model, self._state)


def _of_first_process(value: float) -> float:
    """The first process's value, for all: where processes decide differently, one waits for the others for ever."""
    if not (dist.is_available() and dist.is_initialized()):
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: its for name, its in model.named_parameters() if its.requires_grad}


def _write(model: nn.Module, file: Path) -> None:
    from safetensors.torch import save_file

    save_file({name: its.detach().cpu().contiguous() for name, its in _trained(model).items()}, file)  # fmt: skip


def _read(model: nn.Module, file: Path) -> None:
    from safetensors.torch import load_file

    _assign(model, load_file(file))


@torch.no_grad()
def _assign(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    named = dict(model.named_parameters())
    for name, tensor in state.items():
        named[name].copy_(tensor)
