"""Phase 1's training: a `transformers.Trainer` over batches of one language each that logs every term by language."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from bistil.encoders.capture import layers_of
from bistil.errors import ExtractError
from bistil.extract.config import Extraction, Optimizer
from bistil.extract.text import Batches
from bistil.losses.outputs import LossOutput
from bistil.losses.table import EXTRACT_TERMS
from teacherzoo.progress import ProgressCallback
from teacherzoo.training.arguments import decided_arguments, trainer_arguments
from teacherzoo.training.loss_module import LossModule
from teacherzoo.training.muon import MuonWithAdamW
from teacherzoo.training.trainer import PreparedBatchTrainer
from teacherzoo.training.watch import TrainingWatch


def train(
    model: LossModule,
    batches: Batches,
    languages: Sequence[str],
    arguments: TrainingArguments,
    *,
    optimizer: Optimizer = "adamw",
    watch: ProgressCallback,
) -> list[dict[str, float]]:
    """Train the student of `model` in place, resuming from the last whole checkpoint.

    Returns:
        The log: for each logged step the loss, and every term by language.

    Raises:
        TeacherzooError: where the loss is no longer finite.
    """
    trainer = ExtractTrainer(
        languages=languages,
        muon=optimizer == "muon",
        model=model,
        args=arguments,
        train_dataset=batches,
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
    trainer.resume()
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def training_arguments(folder: Path, extraction: Extraction) -> TrainingArguments:
    """Trainer's arguments: ours, and what the user adds, such as a DeepSpeed configuration.

    Raises:
        ExtractError: for a key that is decided elsewhere, or that this training or Trainer does not take.
    """
    assert extraction.learning_rate is not None  # both were decided when the run was checked
    assert extraction.warmup is not None
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


class ExtractTrainer(PreparedBatchTrainer):
    """Logs every term of the loss, by the language of the batch; with `muon`, matrices of the student's layers take its steps."""

    def __init__(self, *, languages: Sequence[str], muon: bool = False, **arguments: Any) -> None:
        terms = [f"{term.name}_{language}" for term in EXTRACT_TERMS for language in languages]
        super().__init__(figures=terms, figures_dtype=torch.float32, **arguments)
        self._languages, self._muon = languages, muon

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW, or what the arguments name; or Muon."""
        if not self._muon:
            optimizer: torch.optim.Optimizer = super().create_optimizer(model)
            return optimizer
        trained = [weights for weights in self.model.parameters() if weights.requires_grad]
        layers = {id(weights) for weights in layers_of(self.model.student).parameters()}
        matrices = [weights for weights in trained if id(weights) in layers and weights.dim() == 2]
        others = [weights for weights in trained if id(weights) not in {id(matrix) for matrix in matrices}]  # fmt: skip
        muon = MuonWithAdamW(
            matrices, others, lr=self.args.learning_rate, weight_decay=self.args.weight_decay,
            betas=(self.args.adam_beta1, self.args.adam_beta2), eps=self.args.adam_epsilon,
        )  # fmt: skip
        self.optimizer: Any = muon  # the Trainer steps, saves and resumes it
        return muon

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The loss of a batch of one language: a mean over as many positions as every other batch has."""
        language = self._languages[int(inputs.pop("language"))]
        output: LossOutput = model(**inputs, language=language)
        for name, value in output.terms.items():
            self.means.add(f"{name}_{language}", value.float())
        return (output.loss, output) if return_outputs else output.loss


@torch.no_grad()
def held_out_terms(
    model: LossModule, batches: Mapping[str, Sequence[Batches]], arguments: TrainingArguments
) -> dict[str, dict[str, float]]:
    """Per language, every term on text that is not trained on, computed where and as exactly as the training computes.

    A term is the mean over the batches that it is computed on: of translation pairs or of text.
    """
    device = arguments.device
    half = torch.bfloat16 if arguments.bf16 else torch.float16 if arguments.fp16 else None
    autocast = functools.partial(torch.autocast, device.type, dtype=half, enabled=half is not None)
    means = {}
    for language, groups in batches.items():
        values: dict[str, list[float]] = {}
        for item in (group[number] for group in groups for number in range(len(group))):
            batch = {name: tensor.to(device) for name, tensor in item.items()}
            with autocast():
                output = model(**{**batch, "language": language})
            for name, value in output.terms.items():
                values.setdefault(name, []).append(float(value))
        means[language] = {name: sum(listed) / len(listed) for name, listed in values.items()}
    return means
