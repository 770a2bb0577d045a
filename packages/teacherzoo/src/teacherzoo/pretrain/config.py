"""Sizes, steps and seed of a teacher, and what came of its pretraining."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from teacherzoo.encoders.families import Architecture
from teacherzoo.errors import RecordError
from teacherzoo.pretrain.shapes import Shape

TokenizerFamily = Literal["wordpiece", "unigram", "bpe"]


@dataclass(frozen=True, kw_only=True)
class MaskedLMTraining:
    """How long and on what a masked LM is trained, from nothing or further.

    Args:
        steps: optimiser steps of all weights.
        batch: blocks in a step; in the first one where `last_batch` is given.
        last_batch: blocks in the last step, to which batches grow by equal differences; None for batches of one size.
        length: tokens in a block; documents are packed, with a separator between them.
        learning_rate: at its peak, reached after a tenth of the steps, from where it falls linearly to 0.
        sampling_exponent: a language is drawn in proportion to its number of blocks to this power.
        mask_rate: share of tokens hidden; of these 80 % become the mask, 10 % a random token. In the first step where
            `last_mask_rate` is given.
        last_mask_rate: in the last step, to which the share goes by equal differences; None for one share throughout.
        seed: of everything.
        checkpoint_every: steps between checkpoints, from which an interrupted run resumes.

    Raises:
        RecordError: for a value that makes no sense.
    """

    steps: int = 1200
    batch: int = 64
    last_batch: int | None = None
    length: int = 64
    learning_rate: float = 2e-3
    sampling_exponent: float = 0.7
    mask_rate: float = 0.15
    last_mask_rate: float | None = None
    seed: int = 0
    checkpoint_every: int = 500

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "last_batch", "checkpoint_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise RecordError(f"{name} must be at least 1, got {value!r}.")
        if not 0 <= self.seed < 2**32:  # what NumPy takes
            raise RecordError(f"seed must be in [0, 2^32), got {self.seed!r}.")
        self._refuse_rates("learning_rate")
        if self.length < 8:
            raise RecordError(f"length must be at least 8 tokens, got {self.length!r}.")
        for name in ("mask_rate", "last_mask_rate"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise RecordError(f"{name} must be in (0, 1), got {value!r}.")

    def _refuse_rates(self, *names: str) -> None:
        for name in names:
            if not getattr(self, name) > 0:
                raise RecordError(f"{name} must be above 0, got {getattr(self, name)!r}.")

    @property
    def final_mask_rate(self) -> float:
        """The share of tokens hidden in the last step, and in held-out text."""
        return self.mask_rate if self.last_mask_rate is None else self.last_mask_rate

    def batch_sizes(self, *, before: int = 0) -> NDArray[np.int64]:
        """Blocks in each step, [before + steps]; `before` steps have the first size."""
        return np.rint(self._course(self.batch, self.last_batch, before)).astype(np.int64)

    def mask_rates(self, *, before: int = 0) -> NDArray[np.float64]:
        """Share of tokens hidden in each step, [before + steps]; `before` steps have the first share."""
        return self._course(self.mask_rate, self.last_mask_rate, before)

    def _course(self, first: float, last: float | None, before: int) -> NDArray[np.float64]:
        course = np.linspace(first, first if last is None else last, self.steps)
        return np.concatenate([np.full(before, float(first)), course])


@dataclass(frozen=True, kw_only=True)
class PretrainingConfig(MaskedLMTraining):
    """How a tiny teacher is pretrained from nothing; see `MaskedLMTraining` for the training.

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

    def __post_init__(self) -> None:
        super().__post_init__()
        choices = get_args(TokenizerFamily)
        if self.family not in choices:
            raise RecordError(f"family must be one of {', '.join(choices)}, got {self.family!r}.")
        if self.vocabulary < 1:
            raise RecordError(f"vocabulary must be at least 1, got {self.vocabulary!r}.")
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
class ContinuedPretraining(MaskedLMTraining):
    """How pretraining goes on from an encoder; see `MaskedLMTraining` for the training.

    Args:
        learning_rate: of the encoder, at its peak.
        head_learning_rate: of the masked-LM head, at its peak.
        head_steps: in which the head alone is trained, before all is; None for 100 where the head is new, else none.
        layers: numbers of the encoder's layers to go on with, ascending from 0, or how many of its first; None for all.
        states: weight of the states' term: the mean squared difference between the hidden states of every layer and those
            that the source has, untrained, behind the same layer where nothing is masked. 0 for none.
        vocabulary: how many pieces stay; None for those that the languages need, by BiStil's rule.
        keep_vocabulary: whether all pieces stay.

    Raises:
        RecordError: for a value that makes no sense.
    """

    learning_rate: float = 3e-4
    head_learning_rate: float = 1e-3
    head_steps: int | None = None
    layers: tuple[int, ...] | int | None = None
    states: float = 0.0
    vocabulary: int | None = None
    keep_vocabulary: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._refuse_rates("head_learning_rate")
        if self.head_steps is not None and self.head_steps < 0:
            raise RecordError(f"head_steps must be at least 0, got {self.head_steps!r}.")
        if self.states < 0:
            raise RecordError(f"states must be at least 0, got {self.states!r}.")
        if self.vocabulary is not None and self.vocabulary < 1:
            raise RecordError(f"vocabulary must be at least 1, got {self.vocabulary!r}.")
        if self.vocabulary is not None and self.keep_vocabulary:
            raise RecordError(
                "vocabulary says how many pieces stay and keep_vocabulary that all do; leave one of the two out."
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
