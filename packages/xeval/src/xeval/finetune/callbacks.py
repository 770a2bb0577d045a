"""What is looked at while a model is fine-tuned: the losses, and how it goes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from xeval.progress import ProgressCallback

# Fetching a number from a GPU waits for all that was asked of it, so losses are fetched this often and no oftener.
_SECONDS_BETWEEN_LOOKS = 1.0


class NotFiniteError(Exception):
    """The loss became NaN or infinite."""


class LossMeter:
    """Sums the losses of batches where they lie, and remembers the first that is not finite."""

    def __init__(self) -> None:
        self._sum: Tensor | None = None
        self._fault: Tensor | None = None

    def add(self, loss: Tensor, step: int) -> None:
        """Take the loss `[]` of a batch, its part of the mean over the examples of its optimizer step."""
        if self._sum is None or self._fault is None:
            self._sum = torch.zeros_like(loss, dtype=torch.float64)
            # (step, loss) of the first fault; step -1 where there is none.
            self._fault = torch.stack([self._sum - 1, self._sum])
        self._sum = self._sum + loss
        now = torch.stack([torch.full_like(self._sum, step), loss.to(torch.float64)])
        begins = ~torch.isfinite(loss) & (self._fault[0] < 0)
        self._fault = torch.where(begins, now, self._fault)

    def take(self) -> float:
        """The sum of the losses since the last time.

        Raises:
            NotFiniteError: one of them was not finite; it names the first and its step.
        """
        if self._sum is None or self._fault is None:
            return 0.0
        total, step, value = torch.stack([self._sum, *self._fault]).tolist()
        if step >= 0:
            raise NotFiniteError(f"the loss became {value} at step {step:.0f}")
        self._sum = torch.zeros_like(self._sum)
        return float(total)


class TrainingProgress(TrainerCallback):
    """Says how a training goes, and ends it when a loss is not finite, before anything is evaluated or saved.

    Args:
        losses: of its batches.
        batch_size: examples per optimizer step.
        metric: of its evaluations.
        watch: told.
        clock: the time in seconds.
    """

    def __init__(
        self,
        losses: LossMeter,
        *,
        batch_size: int,
        metric: str,
        watch: ProgressCallback,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.losses, self.batch_size, self.metric = losses, batch_size, metric
        self.watch, self.clock = watch, clock
        self._first = self._seen = 0
        self._looked, self._figures = -math.inf, ""
        self._training_since = 0.0
        self._pause: float | None = None

    def on_train_begin(self, _args: Any, state: Any, control: Any, **_rest: Any) -> Any:
        """Say that it begins, or goes on."""
        self._training_since = self.clock()
        self._first = self._seen = state.global_step
        self.watch(state.global_step, state.max_steps, "tuning")
        return control

    def on_step_begin(self, _args: Any, _state: Any, control: Any, **_rest: Any) -> Any:
        """Examples per second are those of training: what was evaluated and saved in between does not count."""
        if self._pause is not None:
            self._training_since += self.clock() - self._pause
            self._pause = None
        return control

    def on_step_end(self, _args: Any, state: Any, control: Any, **_rest: Any) -> Any:
        """Look at the loss, where it is time."""
        if control.should_evaluate or self.clock() - self._looked >= _SECONDS_BETWEEN_LOOKS:
            self._look(state)
        self.watch(state.global_step, state.max_steps, f"tuning{self._figures}")
        if control.should_evaluate:
            self._pause = self.clock()
        return control

    def _look(self, state: Any) -> None:
        loss = self.losses.take() / (state.global_step - self._seen)
        self._seen, self._looked = state.global_step, self.clock()
        seconds = self._looked - self._training_since
        examples = (state.global_step - self._first) * self.batch_size
        rate = f", {float(f'{examples / seconds:.3g}'):,g} examples/s" if seconds > 0 else ""
        best = f", best {self.metric} {state.best_metric:.2f}" if state.best_global_step else ""
        self._figures = f", loss {loss:#.3g}{rate}{best}"

    def on_evaluate(
        self, _args: Any, state: Any, control: Any, metrics: dict[str, float], **_rest: Any
    ) -> Any:
        """Say the score, beside the best of before."""
        score = metrics[f"eval_{self.metric}"]
        best = "the best so far"
        if state.best_global_step and score <= state.best_metric:
            best = f"best {state.best_metric:.2f} at {state.best_global_step}"
        said = f"evaluated at step {state.global_step}: {self.metric} {score:.2f}, {best}"
        self.watch(state.global_step, state.max_steps, said)
        return control
