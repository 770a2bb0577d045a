"""One training run: a `transformers.Trainer` over prepared batches that keeps the best weights and resumes exactly."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from bistil.errors import AdaptError
from bistil.masking import Masks
from teacherzoo.processes import join_processes
from teacherzoo.training_watch import TrainingWatch, last_whole_checkpoint

Watch = Callable[[int, int, str], None]
_WEIGHTS = "trained.safetensors"
_BEST = "best.safetensors"


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
        score: of the model as it is, the more the better.
        watch: told (done, total, what).
        what: the word for what is done.

    Raises:
        AdaptError: for training arguments that transformers does not take.
        TeacherzooError: where the loss is no longer finite.
    """
    if "deepspeed" in plan.arguments:
        join_processes()  # without a launcher it would look for MPI
    resume = last_whole_checkpoint(folder)
    keeper = _Keeper(model, score, plan, resume)
    trainer = _SparseTrainer(
        masks=masks,
        model=model,
        args=_arguments(plan, folder),
        train_dataset=batches,
        data_collator=_only,
        callbacks=[keeper, TrainingWatch(watch, what=what, advice="lower the learning rate")],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=resume)
    keeper.restore()
    if masks is not None:
        masks.check()
    return Fitted(
        steps=trainer.state.global_step,
        best_step=keeper.best_step or trainer.state.global_step,
        best=keeper.best,
        log=[entry for entry in trainer.state.log_history if "loss" in entry],
    )


def _arguments(plan: Fitting, folder: Path) -> TrainingArguments:
    cuda = torch.cuda.is_available()
    ours: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": plan.steps,
        "per_device_train_batch_size": 1,  # an item of the data set is a whole batch
        "learning_rate": plan.learning_rate,
        "warmup_steps": math.ceil(plan.warmup * plan.steps),
        "weight_decay": plan.weight_decay,
        "bf16": plan.bf16,
        "seed": plan.seed,
        "use_cpu": not cuda,
        "save_strategy": "steps" if plan.checkpoint_every else "no",
        "save_steps": max(1, plan.checkpoint_every),
        "save_total_limit": 2,
        "logging_steps": max(1, min(20, plan.steps // 10)),
        "logging_nan_inf_filter": False,
        "label_names": ["labels"],
        "ddp_find_unused_parameters": False,
        "dataloader_pin_memory": cuda,
        "remove_unused_columns": False,
        "report_to": [],
        "disable_tqdm": True,
    }
    if taken := sorted(ours.keys() & plan.arguments.keys()):
        raise AdaptError(f"The training argument {taken[0]!r} is decided elsewhere; leave it out.")
    try:
        return TrainingArguments(**ours, **plan.arguments)
    except (TypeError, ValueError) as error:
        raise AdaptError(f"Training arguments: {' '.join(str(error).split())}.") from error


def _only(items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    (item,) = items
    return item


class _SparseTrainer(Trainer):
    """Takes batches in their order, decays no frozen entry, and saves what it trains."""

    def __init__(self, *, masks: Masks | None, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._masks = masks
        self.model_accepts_loss_kwargs = True

    def _get_train_sampler(self, *_: Any) -> Any:
        return torch.utils.data.SequentialSampler(self.train_dataset)

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        names = super().get_decay_parameter_names(model)
        return names if self._masks is None else self._masks.decayed(names, model)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
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


class _Keeper(TrainerCallback):
    """Scores every so often, keeps the best weights, in checkpoints too, and stops when they do not get better."""

    def __init__(
        self, model: nn.Module, score: Callable[[], float] | None, plan: Fitting, resume: str | None
    ) -> None:
        self._model, self._score, self._plan = model, score, plan
        self.best, self.best_step, self._stale = math.nan, 0, 0
        self._state: dict[str, Tensor] = {}
        if resume is not None and (note := Path(resume) / "best.json").is_file():
            self.best, self.best_step, self._stale = json.loads(note.read_text())
            from safetensors.torch import load_file

            self._state = load_file(Path(resume) / _BEST)

    def on_step_end(self, _args: Any, state: Any, control: Any, **_: Any) -> Any:
        """Score when it is time."""
        every = self._plan.evaluate_every
        if self._score and every and (state.global_step % every == 0 or state.global_step == state.max_steps):  # fmt: skip
            value = self._score()
            if self.best_step and not value > self.best:
                self._stale += 1
            else:
                self.best, self.best_step, self._stale = value, state.global_step, 0
                self._state = {name: its.detach().cpu().clone() for name, its in _trained(self._model).items()}  # fmt: skip
            control.should_training_stop |= self._stale >= self._plan.patience
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
