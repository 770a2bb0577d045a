"""Phase 1's training: a `transformers.Trainer` that asks the teacher about each batch and logs every term by language."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PrinterCallback, Trainer, TrainingArguments

from bistil.errors import ExtractError
from bistil.extract.config import Extraction
from bistil.losses.extraction import Lesson, Taught, ask_teacher
from bistil.losses.weights import TERMS, Terms
from bistil.text.batches import MaskedBatches
from teacherzoo.training.arguments import decided_arguments, trainer_arguments
from teacherzoo.training.watch import TrainingWatch, last_whole_checkpoint

if TYPE_CHECKING:
    from teacherzoo.encoders.zero3 import ShardedEngine

Watch = Callable[[int, int, str], None]
WithSft = Callable[[str], AbstractContextManager[None]]


class Asking:
    """The teacher in training: which terms want what of it, and what it wears for which language.

    Args:
        teacher: a masked LM in evaluation mode.
        terms: of the loss.
        layers: the student's map.
        with_sft: gives for a language the context in which the teacher is asked about it.
        engine: see `ask_teacher`.
    """

    def __init__(
        self,
        teacher: Any,
        terms: Terms,
        layers: Sequence[int],
        *,
        with_sft: WithSft = lambda _language: contextlib.nullcontext(),
        engine: ShardedEngine | None = None,
    ) -> None:
        self._teacher = teacher
        self._engine = engine
        self._terms = terms
        self._layers = layers
        self._with_sft = with_sft

    def __call__(self, language: str, batch: dict[str, Tensor]) -> Taught | None:
        """What the teacher does with a batch, under its language's sparse fine-tuning; None where no term asks."""
        if not self._terms.taught:
            return None
        with self._with_sft(language):
            return ask_teacher(self._teacher, batch, self._terms, self._layers, engine=self._engine)

    def move_to(self, device: torch.device) -> None:
        """Put the teacher where the student is, unless its engine sees to that."""
        if self._engine is None:
            self._teacher.to(device)


def training_arguments(folder: Path, extraction: Extraction) -> TrainingArguments:
    """Trainer's arguments: ours, and what the user adds, such as a DeepSpeed configuration.

    Raises:
        ExtractError: for a key that is decided elsewhere, or that this training or Trainer does not take.
    """
    decided = decided_arguments(
        folder,
        steps=extraction.steps,
        learning_rate=extraction.learning_rate,
        warmup_steps=math.ceil(extraction.warmup * extraction.steps),
        seed=extraction.seed,
        checkpoint_every=extraction.checkpoint_every,
        bf16=extraction.precision == "bfloat16",
    )
    return trainer_arguments(
        decided, extraction.arguments, where="Trainer arguments", error=ExtractError
    )


def train(
    student: Any,
    asking: Asking,
    batches: MaskedBatches,
    languages: Sequence[str],
    arguments: TrainingArguments,
    *,
    watch: Watch,
) -> list[dict[str, float]]:
    """Train `student` in place, resuming from the last whole checkpoint.

    Returns:
        The log: for each logged step the loss, and every term by language.

    Raises:
        TeacherzooError: where the loss is no longer finite.
    """
    trainer = ExtractTrainer(
        asking=asking,
        languages=languages,
        model=student,
        args=arguments,
        train_dataset=batches,
        data_collator=_only,
        callbacks=[
            TrainingWatch(
                watch,
                what="extracting",
                advice="lower the learning rate",
                per_step=batches[0]["input_ids"].numel() * len(batches) / arguments.max_steps,
                unit="tokens",
            )
        ],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=last_whole_checkpoint(Path(arguments.output_dir)))
    return [entry for entry in trainer.state.log_history if "loss" in entry]


class ExtractTrainer(Trainer):
    """Asks the teacher before each forward pass of the student; takes batches in their order."""

    def __init__(self, *, asking: Asking, languages: Sequence[str], **arguments: Any) -> None:
        super().__init__(**arguments)
        self._asking = asking
        self._languages = languages
        self._sums: dict[str, Tensor] = {}  # [2]: of a term in a language, and of how many batches
        asking.move_to(self.args.device)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The loss of a batch of one language: a mean over as many positions as every other batch has."""
        language = self._languages[int(inputs.pop("language"))]
        with self.accelerator.autocast():
            taught = self._asking(language, inputs)
        lesson: Lesson = model(**inputs, taught=taught, lesson=True)
        for name, value in lesson.terms.items():
            told = torch.stack([value.float(), torch.ones_like(value, dtype=torch.float32)])
            self._sums[f"{name}_{language}"] = told + self._sums.get(f"{name}_{language}", 0)
        return (lesson.loss, lesson) if return_outputs else lesson.loss

    def log(self, logs: dict[str, float], *arguments: Any, **named: Any) -> None:
        """Add the terms by language, averaged since the last log over the batches of all processes."""
        if "loss" in logs:
            # Every process asks for the same names: one may have had no batch of some language.
            names = [f"{term}_{language}" for term in TERMS for language in self._languages]
            none = torch.zeros(2, device=self.args.device)
            sums = torch.stack([self._sums.get(name, none) for name in names])
            totals = self.accelerator.reduce(sums, reduction="sum").tolist()
            logs |= {name: total / count for name, (total, count) in zip(names, totals, strict=True) if count}  # fmt: skip
            self._sums.clear()
        super().log(logs, *arguments, **named)

    def _get_train_sampler(self, *_: Any) -> Any:
        return torch.utils.data.SequentialSampler(self.train_dataset)


@torch.no_grad()
def held_out_terms(
    student: Any,
    asking: Asking,
    batches: Mapping[str, MaskedBatches],
    arguments: TrainingArguments,
) -> dict[str, dict[str, float]]:
    """Per language, every term on text that is not trained on, computed where and as exactly as the training computes."""
    device = arguments.device
    student.to(device)
    asking.move_to(device)
    half = torch.bfloat16 if arguments.bf16 else torch.float16 if arguments.fp16 else None
    autocast = functools.partial(torch.autocast, device.type, dtype=half, enabled=half is not None)
    found = {}
    for language, items in batches.items():
        sums: dict[str, float] = {}
        for batch in _on(device, items):
            with autocast():
                lesson = student(**batch, taught=asking(language, batch), lesson=True)
            for name, value in lesson.terms.items():
                sums[name] = sums.get(name, 0.0) + float(value) / len(items)
        found[language] = sums
    return found


def _on(device: torch.device, items: MaskedBatches) -> Iterator[dict[str, Tensor]]:
    for number in range(len(items)):
        item = items[number]
        item.pop("language")
        yield {name: tensor.to(device) for name, tensor in item.items()}


def _only(items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    (item,) = items
    return item
