"""Training: a `transformers.Trainer` that reads scheduled signals and logs each language apart."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from transformers import TrainingArguments

from mergedistill.errors import RecipeError
from mergedistill.recipe.recipe import Recipe
from mergedistill.student.loss import DistillationLoss, DistilOutput
from mergedistill.training.held_out import Score, held_out_texts, score_languages
from mergedistill.training.schedule import ScheduledBatches, schedule
from teacherzoo import Masking, Signals, TeacherError, TeacherzooError
from teacherzoo.training.arguments import (
    decided_arguments,
    refuse_unfit_arguments,
    trainer_arguments,
)
from teacherzoo.training.trainer import PreparedBatchTrainer
from teacherzoo.training.watch import TrainingWatch

Watch = Callable[[int, int, str], None]
_WHERE = "train.arguments"
_OVERRIDABLE = ("weight_decay",)
EVALUATED = 64  # held-out documents of a language that an evaluation reads
_SUMS = ("rows", "hard", "divergence", "tail", "asked", "hits")


def train(
    model: DistillationLoss,
    signals: Mapping[str, Signals],
    recipe: Recipe,
    folder: Path,
    *,
    tokenizers: Mapping[str, Any],
    watch: Watch,
) -> list[dict[str, float]]:
    """Train the student of `model` in place, resuming from the last whole checkpoint in `folder`.

    Args:
        model: the loss around the student.
        signals: language to its recording.
        recipe: of the run.
        folder: for checkpoints.
        tokenizers: language to the tokenizer that the student reads it by, for held-out text.
        watch: told (done, total, what).

    Returns:
        The log: for each logged step the loss, and per language its hard part, the divergence from the teacher, the share
        of masked pieces put first, and the teacher's probability outside of what was recorded; for each evaluation
        per language bits per byte and accuracy on held-out text.

    Raises:
        RecipeError: for training arguments that transformers does not take, or that do not go with this training.
        TeacherzooError: where the loss is no longer finite.
    """
    refuse_bad_arguments(recipe)
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
        held_out=HeldOut(recipe, tokenizers, held_out_texts(recipe, EVALUATED)),
        model=model,
        args=arguments,
        train_dataset=ScheduledBatches(slots, signals, recipe.distil),
        callbacks=[
            TrainingWatch(
                watch,
                what="training",
                advice="lower train.learning_rate",
                per_step=recipe.train.tokens * batches / recipe.train.steps,
                unit="tokens",
                evaluated={"eval_bits_per_byte": "bits per byte on held-out text"},
            )
        ],
    )
    trainer.resume()
    return trainer.state.log_history


class DistilTrainer(PreparedBatchTrainer):
    """Logs what each language learns beside their common loss."""

    def __init__(self, *, languages: list[str], held_out: HeldOut, **arguments: Any) -> None:
        super().__init__(**arguments, eval_dataset=held_out)
        self._languages = languages
        self._held_out = held_out
        # For each language, over all steps since the last log; on the device, so that no step waits for its figures.
        self._sums = torch.zeros(
            len(languages), len(_SUMS), dtype=torch.float64, device=self.args.device
        )

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Each process's loss is its sum over the global number of positions, so the mean over processes needs their number."""
        language, tail = inputs.pop("language"), inputs.pop("tail", None)
        # To find the likeliest piece takes one more product with the vocabulary: in logged steps only.
        count = (self.state.global_step + 1) % self.state.logging_steps == 0
        output = model(**inputs, num_items_in_batch=num_items_in_batch, count_hits=count)
        loss = output.loss
        if num_items_in_batch is not None:
            # DDP takes the mean over processes; the divisor already counts all of them.
            loss = loss * self.accelerator.num_processes
        self._note(language, output, tail, inputs["labels"], num_items_in_batch)
        return (loss, output) if return_outputs else loss

    def _note(
        self,
        language: int,
        output: DistilOutput,
        tail: torch.Tensor | None,
        labels: torch.Tensor,
        divisor: torch.Tensor | int | None,
    ) -> None:
        sums = dict(zip(_SUMS, self._sums[language].unbind(), strict=True))  # views
        scale = output.rows if divisor is None else divisor
        sums["rows"] += output.rows
        sums["hard"] += output.hard.double() * scale
        sums["divergence"] += output.soft.double() * scale
        if tail is not None:
            sums["tail"] += torch.where(labels != -100, tail, 0).sum()
        if output.hits is not None:
            sums["asked"] += output.rows
            sums["hits"] += output.hits

    def log(self, logs: dict[str, float], *arguments: Any, **named: Any) -> None:
        """Add what each language learned since the last log, on all processes together."""
        if "loss" in logs:
            sums = self.accelerator.reduce(self._sums.clone(), "sum").tolist()
            self._sums.zero_()
            for language, its in zip(self._languages, sums, strict=True):
                logs |= _means(language, dict(zip(_SUMS, its, strict=True)))
        super().log(logs, *arguments, **named)

    def evaluate(self, *_: Any, metric_key_prefix: str = "eval", **named: Any) -> dict[str, float]:
        """Bits per byte and masked accuracy on each language's held-out text, languages shared out among the processes."""
        process, processes = self.args.process_index, self.args.world_size
        try:
            mine = self._held_out.scores(self.model.student, process, processes)
        except TeacherError as error:  # of the student, which is asked as teachers are
            raise TeacherzooError(
                f"The student's predictions are no longer finite at step {self.state.global_step}; "
                f"lower train.learning_rate (now {self.args.learning_rate:g}) and run again."
            ) from error
        found: dict[str, Score] = dict(gather_object(mine))
        metrics = {
            f"{metric_key_prefix}_{name}_{language}": value
            for language, score in found.items()
            for name, value in asdict(score).items()
            if math.isfinite(value)
        }
        bits = [its.bits_per_byte for its in found.values() if math.isfinite(its.bits_per_byte)]
        if bits:
            metrics[f"{metric_key_prefix}_bits_per_byte"] = sum(bits) / len(bits)
        self.log(metrics)
        self.control: Any = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics


@dataclass(frozen=True)
class HeldOut:
    """What is read in an evaluation."""

    recipe: Recipe
    tokenizers: Mapping[str, Any]
    texts: Mapping[str, list[str]]

    def scores(self, model: Any, process: int, processes: int) -> list[tuple[str, Score]]:
        """One process's share of the languages."""
        mine = sorted(self.texts)[process::processes]
        found = score_languages(
            model,
            self.tokenizers,
            {language: self.texts[language] for language in mine},
            masking=Masking(seed=self.recipe.distil.mask_seed),
            block_length=self.recipe.distil.block_length,
        )
        return list(found.items())


def _means(language: str, sums: Mapping[str, float]) -> dict[str, float]:
    if not sums["rows"]:
        return {}
    means = {
        f"{name}_{language}": sums[name] / sums["rows"] for name in ("hard", "divergence", "tail")
    }
    if sums["asked"]:
        means[f"accuracy_{language}"] = sums["hits"] / sums["asked"]
    return means


def refuse_bad_arguments(recipe: Recipe) -> None:
    """Before anything is spent: training arguments that transformers does not know, or that this training does not honour.

    Raises:
        RecipeError: naming the key.
    """
    asked = recipe.train.arguments
    if "deepspeed" in asked:  # which would be set up here, in the first process alone
        refuse_unfit_arguments(
            _decided(recipe, Path()),
            asked,
            where=_WHERE,
            error=RecipeError,
            overridable=_OVERRIDABLE,
        )
        _refuse_zero3(_configuration(asked["deepspeed"]))
    else:
        _arguments(recipe, Path())


def _configuration(deepspeed: Any) -> Mapping[str, Any]:
    if isinstance(deepspeed, str):
        try:
            deepspeed = json.loads(Path(deepspeed).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RecipeError(
                f"{_WHERE}.deepspeed: expected a mapping or a file of JSON: {' '.join(str(error).split())}."
            ) from error
    if not isinstance(deepspeed, Mapping):
        raise RecipeError(f"{_WHERE}.deepspeed: expected a mapping, got {deepspeed!r}.")
    return deepspeed


def _refuse_zero3(configuration: Mapping[str, Any]) -> None:
    zero = configuration.get("zero_optimization")
    if isinstance(zero, Mapping) and zero.get("stage") == 3:
        raise RecipeError(
            "train.arguments.deepspeed: the student trains with ZeRO stages 1 and 2, got stage 3, which scatters the "
            "vocabulary's weights that the loss needs whole; teachers larger than memory are `record.offload`'s business."
        )


def _decided(recipe: Recipe, folder: Path) -> dict[str, Any]:
    return decided_arguments(
        folder,
        steps=recipe.train.steps,
        learning_rate=recipe.train.learning_rate,
        warmup_steps=math.ceil(recipe.train.warmup * recipe.train.steps),
        seed=recipe.seed,
        checkpoint_every=recipe.train.checkpoint_every,
        weight_decay=0.01,
        eval_strategy="steps",
        eval_steps=recipe.train.evaluate_every or max(1, recipe.train.steps // 10),
    )


def _arguments(recipe: Recipe, folder: Path) -> TrainingArguments:
    return trainer_arguments(
        _decided(recipe, folder),
        recipe.train.arguments,
        where=_WHERE,
        error=RecipeError,
        overridable=_OVERRIDABLE,
    )
