"""Training: a `transformers.Trainer` that reads scheduled signals and logs each language apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, Trainer, TrainingArguments

from mergedistill.errors import RecipeError
from mergedistill.recipe import Recipe
from mergedistill.schedule import ScheduledBatches, schedule
from teacherzoo import Signals
from teacherzoo.training_watch import TrainingWatch, last_whole_checkpoint

Watch = Callable[[int, int, str], None]
_OURS = {
    "output_dir", "max_steps", "per_device_train_batch_size", "learning_rate", "warmup_steps", "seed",
    "save_steps", "save_strategy", "remove_unused_columns", "num_train_epochs",
}  # fmt: skip


def train(
    student: Any, signals: Mapping[str, Signals], recipe: Recipe, folder: Path, *, watch: Watch
) -> list[dict[str, float]]:
    """Train `student` in place, resuming from the last whole checkpoint in `folder`.

    Returns:
        The log: for each logged step the loss, and per language its hard and soft part.

    Raises:
        RecipeError: for training arguments that transformers does not take.
        TeacherzooError: where the loss is no longer finite.
    """
    arguments = _arguments(recipe, folder)
    batches = recipe.train.steps * arguments.gradient_accumulation_steps * arguments.world_size
    slots = schedule(
        signals,
        batches=batches,
        tokens=recipe.train.tokens,
        block_length=recipe.distil.block_length,
        exponent=recipe.train.sampling_exponent,
        seed=recipe.seed,
    )
    trainer = DistilTrainer(
        languages=list(signals),
        model=student,
        args=arguments,
        train_dataset=ScheduledBatches(slots, signals, recipe.distil),
        data_collator=_only,
        callbacks=[TrainingWatch(watch, what="training", advice="lower train.learning_rate")],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=last_whole_checkpoint(folder))
    return [entry for entry in trainer.state.log_history if "loss" in entry]


class DistilTrainer(Trainer):
    """Logs the hard and soft loss of each language beside their sum; takes batches in their order."""

    def __init__(self, *, languages: list[str], **arguments: Any) -> None:
        super().__init__(**arguments)
        self._languages = languages
        self._parts: dict[str, list[float]] = {}

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Each process's loss is its sum over the global number of positions, so the mean over processes needs their number."""
        language = self._languages[int(inputs.pop("language"))]
        output = model(**inputs, num_items_in_batch=num_items_in_batch)
        loss = output["loss"]
        if num_items_in_batch is not None:
            # DDP takes the mean over processes; the divisor already counts all of them.
            loss = loss * self.accelerator.num_processes
        self._note(language, output, num_items_in_batch)
        return (loss, output) if return_outputs else loss

    def _note(self, language: str, output: Any, divisor: torch.Tensor | int | None) -> None:
        if not output.rows:
            return
        scale = 1.0 if divisor is None else float(divisor) / output.rows
        for part in ("hard", "soft"):
            value = float(getattr(output, part)) * scale
            self._parts.setdefault(f"{part}_{language}", []).append(value)

    def log(self, logs: dict[str, float], *arguments: Any, **named: Any) -> None:
        """Add the languages' parts, averaged since the last log."""
        if "loss" in logs:
            logs |= {name: sum(its) / len(its) for name, its in sorted(self._parts.items())}
            self._parts.clear()
        super().log(logs, *arguments, **named)

    def _get_train_sampler(self, *_: Any) -> Any:
        return torch.utils.data.SequentialSampler(self.train_dataset)


def _arguments(recipe: Recipe, folder: Path) -> TrainingArguments:
    taken = recipe.train.arguments
    for name in taken:
        if name in _OURS:
            raise RecipeError(
                f"train.arguments.{name}: this is decided elsewhere in the recipe; use the keys of `train`."
            )
    ours: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": recipe.train.steps,
        "per_device_train_batch_size": 1,  # an item of the data set is a whole batch
        "learning_rate": recipe.train.learning_rate,
        "warmup_steps": math.ceil(recipe.train.warmup * recipe.train.steps),
        "weight_decay": 0.01,
        "seed": recipe.seed,
        "save_strategy": "steps",
        "save_steps": recipe.train.checkpoint_every,
        "save_total_limit": 2,
        "logging_steps": max(1, min(50, recipe.train.steps // 20)),
        "logging_nan_inf_filter": False,
        "report_to": [],
        "disable_tqdm": True,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "remove_unused_columns": False,
        "use_cpu": not torch.cuda.is_available(),
    }
    try:
        return TrainingArguments(**{**ours, **taken})
    except (TypeError, ValueError) as error:
        raise RecipeError(f"train.arguments: {' '.join(str(error).split())}.") from error


def _only(items: list[dict[str, Any]]) -> dict[str, Any]:
    (item,) = items
    return item
