"""Training: a `transformers.Trainer` that reads scheduled signals and logs each language apart."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from transformers import TrainingArguments

from mergedistill.errors import RecipeError, StageError
from mergedistill.recipe.recipe import Recipe
from mergedistill.student.loss import DistillationLoss, DistilOutput
from mergedistill.targets.batch import RecordedTargets
from mergedistill.targets.encoder_words import WordsOfBatch
from mergedistill.training.held_out import Score, held_out_texts, score_languages
from mergedistill.training.schedule import ScheduledBatches, schedule
from teacherzoo import Masking, Signals, TeacherError, TeacherzooError
from teacherzoo.atomic_write import written_whole
from teacherzoo.errors import is_lack_of_memory
from teacherzoo.processes import rank, wait_for_all
from teacherzoo.progress import ProgressCallback
from teacherzoo.training.arguments import (
    decided_arguments,
    refuse_unfit_arguments,
    trainer_arguments,
)
from teacherzoo.training.trainer import PreparedBatchTrainer
from teacherzoo.training.watch import TrainingWatch, last_whole_checkpoint

_WHERE = "train.arguments"
_OVERRIDABLE = ("weight_decay",)
EVALUATED = 64  # held-out documents of a language that an evaluation reads
_PROCESSES = "processes.json"
_FIGURES = ("hard", "divergence", "tail", "accuracy", "states")


def train(
    model: DistillationLoss,
    signals: Mapping[str, Signals],
    recipe: Recipe,
    folder: Path,
    *,
    tokenizers: Mapping[str, Any],
    words: Mapping[str, WordsOfBatch] | None = None,
    watch: ProgressCallback,
) -> list[dict[str, float]]:
    """Train the student of `model` in place, resuming from the last whole checkpoint in `folder`.

    Args:
        model: the loss around the student.
        signals: language to its recording.
        recipe: of the run.
        folder: for checkpoints.
        tokenizers: language to the tokenizer that the student reads it by, for held-out text.
        words: language to the words whose states are learned of an encoder, where `model` has such a term.
        watch: told (done, total, what).

    Returns:
        The log: for each logged step the loss, and per language its hard part, the divergence from the teacher, the share
        of masked pieces put first, the teacher's probability outside of what was recorded, and the term of an encoder's
        states; for each evaluation
        per language bits per byte and accuracy on held-out text.

    Raises:
        RecipeError: for training arguments that transformers does not take, or that do not go with this training.
        StageError: where the training in `folder` began with another number of processes, and where memory does not suffice.
        TeacherzooError: where the loss is no longer finite.
    """
    refuse_bad_arguments(recipe)
    arguments = _arguments(recipe, folder)
    _keep_to_processes(folder, arguments.world_size)
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
        train_dataset=ScheduledBatches(slots, signals, recipe.distil, words),
        callbacks=[
            TrainingWatch(
                watch,
                what="training",
                advice="lower train.learning_rate",
                per_step=recipe.train.tokens * batches / recipe.train.steps,
                unit="tokens",
                evaluated={"eval_bits_per_byte": "{:.3f} bits per byte on held-out text"},
            )
        ],
    )
    try:
        trainer.resume()
    except (RuntimeError, MemoryError) as error:
        if not is_lack_of_memory(error):
            raise
        raise StageError(
            f"train: memory does not suffice for steps of {recipe.train.tokens:,} tokens; lower train.tokens, and to learn from as many in "
            "a step raise train.arguments.gradient_accumulation_steps; what was recorded is kept."
        ) from error
    return trainer.state.log_history


def _keep_to_processes(folder: Path, processes: int) -> None:
    """Note how many processes a training has; another number would read another schedule, from the middle on."""
    note = folder / _PROCESSES
    if last_whole_checkpoint(folder) and note.is_file():
        before = json.loads(note.read_text())
        if before != processes:
            raise StageError(
                f"{folder}: number of processes: the training began with {before}, and {processes} would read other batches; start "
                f"{before} again, or train anew with --force train."
            )
    wait_for_all()  # all have looked before one writes
    if rank() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        with written_whole(note) as part:
            part.write_text(json.dumps(processes))


class DistilTrainer(PreparedBatchTrainer):
    """Logs what each language learns beside their common loss, and evaluates on held-out text."""

    def __init__(self, *, languages: list[str], held_out: HeldOut, **arguments: Any) -> None:
        figures = [f"{name}_{language}" for language in languages for name in _FIGURES]
        super().__init__(**arguments, eval_dataset=held_out, figures=figures)
        self._languages = languages
        self._held_out = held_out

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Each process's loss is its sum over the global number of positions, so the mean over processes needs their number."""
        language = self._languages[inputs.pop("language")]
        # To find the likeliest piece takes one more product with the vocabulary: in logged steps only.
        count = (self.state.global_step + 1) % self.state.logging_steps == 0
        output: DistilOutput = model(
            **inputs, num_items_in_batch=num_items_in_batch, count_hits=count
        )
        loss = output.loss
        if num_items_in_batch is not None:
            # DDP takes the mean over processes; the divisor already counts all of them.
            loss = loss * self.accelerator.num_processes
        rows = output.rows
        scale = rows if num_items_in_batch is None else num_items_in_batch
        self.means.add(f"hard_{language}", output.hard.double() * scale, rows)
        self.means.add(f"divergence_{language}", output.soft.double() * scale, rows)
        if isinstance(targets := inputs["targets"], RecordedTargets):
            tail = torch.where(inputs["labels"] != -100, targets.tail, 0).sum()
            self.means.add(f"tail_{language}", tail, rows)
        if output.states is not None:
            words = inputs["states"].count
            self.means.add(f"states_{language}", output.states.double() * words, words)
        if output.hits is not None:
            self.means.add(f"accuracy_{language}", output.hits, rows)
        return (loss, output) if return_outputs else loss

    def measure(self) -> dict[str, float]:
        """Bits per byte and masked accuracy on each language's held-out text, languages shared out among the processes."""
        process, processes = self.args.process_index, self.args.world_size
        try:
            share = self._held_out.scores(self.model.student, process, processes)
        except TeacherError as error:  # of the student, which is measured as teachers are
            raise TeacherzooError(
                f"The student's predictions are no longer finite at step {self.state.global_step}; "
                f"lower train.learning_rate (now {self.args.learning_rate:g}) and run again."
            ) from error
        scores: dict[str, Score] = dict(gather_object(share))
        metrics = {
            f"eval_{name}_{language}": value
            for language, score in scores.items()
            for name, value in asdict(score).items()
            if math.isfinite(value)
        }
        bits = [score.bits_per_byte for score in scores.values() if math.isfinite(score.bits_per_byte)]  # fmt: skip
        if bits:
            metrics["eval_bits_per_byte"] = sum(bits) / len(bits)
        return metrics


@dataclass(frozen=True)
class HeldOut:
    """What is read in an evaluation."""

    recipe: Recipe
    tokenizers: Mapping[str, Any]
    texts: Mapping[str, list[str]]

    def scores(self, model: Any, process: int, processes: int) -> list[tuple[str, Score]]:
        """One process's share of the languages."""
        share = sorted(self.texts)[process::processes]
        scores = score_languages(
            model,
            self.tokenizers,
            {language: self.texts[language] for language in share},
            masking=Masking(seed=self.recipe.distil.mask_seed),
            block_length=self.recipe.distil.block_length,
        )
        return list(scores.items())


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
