"""Settings of a lottery-ticket fine-tuning: what is kept, how each phase trains, what chooses its best weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from bistil.errors import AdaptError, SparseError

NUMBERS = {"bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True, kw_only=True)
class Sparsity:
    """What of the body is kept, and how it is found.

    Args:
        density: share of the body's trainable entries, heads and frozen tensors not counted.
        count: or their number.
        full_steps: steps of the first phase, which trains all; None for as many as the second has. With `full`, so many
            more for the one phase; None for none more.
        l1: λ, the weight of Σ|θ - θ₀| / N in both phases.
        freeze_norms: whether normalisation layers stay as they are.
        full: keep everything instead: ordinary fine-tuning in one phase, normalisation layers included.
        values: number format of the file's differences. The model is left as the start plus these very numbers.

    Raises:
        SparseError: for a value that makes no sense.
    """

    density: float = 0.08
    count: int | None = None
    full_steps: int | None = None
    l1: float = 0.0
    freeze_norms: bool = True
    full: bool = False
    values: str = "bfloat16"

    def __post_init__(self) -> None:
        if not 0 < self.density <= 1:
            raise SparseError(f"density must be above 0 and at most 1, got {self.density!r}.")
        if self.full_steps is not None and self.full_steps < 1:
            raise SparseError(f"full_steps must be at least 1, got {self.full_steps!r}.")
        if self.l1 < 0:
            raise SparseError(f"l1 must be 0 or more, got {self.l1!r}.")
        if self.values not in NUMBERS:
            raise SparseError(f"values must be one of {', '.join(NUMBERS)}, got {self.values!r}.")


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """How one phase trains.

    Args:
        steps: optimizer steps.
        learning_rate: at its peak; it falls linearly to 0.
        warmup: share of the steps in which it rises.
        weight_decay: of AdamW, on matrices.
        evaluate_every: steps between evaluations; 0 for none, and the last weights are kept.
        patience: evaluations without improvement before the phase stops.
        checkpoint_every: steps between checkpoints; 0 for one at the end and at each new best evaluation alone.
        bf16: whether the model computes in bfloat16; parameters and optimizer are float32 in any case.
        seed: of dropout.
        arguments: further fields of `transformers.TrainingArguments`, such as `deepspeed`.
        per_step: how many units an optimizer step takes, for the rate that is told; 0 for none.
        unit: what is counted.

    Raises:
        AdaptError: for a value that makes no sense.
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

    def __post_init__(self) -> None:
        if not self.learning_rate > 0:
            raise AdaptError(f"learning_rate must be greater than 0, got {self.learning_rate!r}.")
        if not 0 <= self.warmup <= 1:
            raise AdaptError(f"warmup must be from 0 to 1, got {self.warmup!r}.")
        for name in ("evaluate_every", "checkpoint_every"):
            if getattr(self, name) < 0:
                raise AdaptError(f"{name} must be 0 or more, got {getattr(self, name)!r}.")

    @property
    def passes(self) -> int:
        """Forward passes of one process in a step."""
        return int(self.arguments.get("gradient_accumulation_steps", 1))


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What chooses the best weights of a phase.

    Args:
        measure: of the model as it is; under several processes the first one's value counts.
        words: how it is put, such as `"held-out loss {:.3f}"`.
        greater_is_better: whether the greatest is the best.
    """

    measure: Callable[[], float]
    words: str = "score {:.2f}"
    greater_is_better: bool = True


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """What came of a phase.

    Attributes:
        steps: done.
        best_step: whose weights the model has now.
        best: their evaluation; None without one.
        log: what the Trainer logged.
    """

    steps: int
    best_step: int
    best: float | None
    log: list[dict[str, float]]
