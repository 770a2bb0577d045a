"""Sizes, steps and seed of a tiny teacher, and what came of its pretraining."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from teacherzoo.encoders.families import Architecture
from teacherzoo.errors import RecordError
from teacherzoo.pretrain.shapes import Shape

TokenizerFamily = Literal["wordpiece", "unigram", "bpe"]


@dataclass(frozen=True, kw_only=True)
class PretrainingConfig:
    """How a tiny teacher is pretrained.

    The defaults are a stock pre-norm ModernBERT of about 2 M parameters, which learns in minutes on two cores what a
    post-norm BERT of that size has not begun to learn.

    Args:
        family: of the tokenizer's model.
        vocabulary: number of pieces, special ones included.
        cased: whether upper and lower case stay apart.
        architecture: the model type, as transformers names it.
        layers: of the encoder.
        width: of the hidden states.
        heads: attention heads; by default one for each 64 of the width.
        feed_forward: inner width; by default 1.5 times the width for ModernBERT's gated layers, else 4 times.
        steps: optimiser steps.
        batch: blocks in a step.
        length: tokens in a block; documents are packed, with a separator between them.
        learning_rate: at its peak, reached after a tenth of the steps, from where it falls linearly to 0.
        sampling_exponent: a language is drawn in proportion to its number of blocks to this power.
        mask_rate: share of tokens hidden; of these 80 % become the mask, 10 % a random token.
        seed: of everything.
        checkpoint_every: steps between checkpoints, from which an interrupted run resumes.

    Raises:
        RecordError: for a value that makes no sense.
    """

    family: TokenizerFamily = "wordpiece"
    vocabulary: int = 5000
    cased: bool = True
    architecture: Architecture = "modernbert"
    layers: int = 3
    width: int = 192
    heads: int | None = None
    feed_forward: int | None = None
    steps: int = 1200
    batch: int = 64
    length: int = 64
    learning_rate: float = 2e-3
    sampling_exponent: float = 0.7
    mask_rate: float = 0.15
    seed: int = 0
    checkpoint_every: int = 500

    def __post_init__(self) -> None:
        choices = get_args(TokenizerFamily)
        if self.family not in choices:
            raise RecordError(f"family must be one of {', '.join(choices)}, got {self.family!r}.")
        for name in ("vocabulary", "steps", "batch", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise RecordError(f"{name} must be at least 1, got {getattr(self, name)!r}.")
        if self.length < 8:
            raise RecordError(f"length must be at least 8 tokens, got {self.length!r}.")
        if not 0 < self.mask_rate < 1:
            raise RecordError(f"mask_rate must be in (0, 1), got {self.mask_rate!r}.")
        _ = self.shape  # refuses what is wrong with it

    @property
    def shape(self) -> Shape:
        """Of the model."""
        return Shape(
            architecture=self.architecture,
            layers=self.layers,
            width=self.width,
            heads=self.heads,
            feed_forward=self.feed_forward,
            positions=max(512, self.length),
        )


@dataclass(frozen=True, kw_only=True)
class PretrainedTeacher:
    """A teacher that was pretrained.

    Attributes:
        folder: a plain Hugging Face model folder.
        parameters: of the model.
        loss: per language, mean cross-entropy in nats at masked positions of held-out text; empty without such text.
        accuracy: per language, share of masked positions of held-out text whose piece the model puts first.
        seconds: wall time of the training alone.
    """

    folder: Path
    parameters: int
    loss: dict[str, float]
    accuracy: dict[str, float]
    seconds: float
