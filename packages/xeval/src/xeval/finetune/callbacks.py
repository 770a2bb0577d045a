"""What is looked at while a model is tuned: the losses, the development score, and the weights that did best."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from xeval.progress import Watch
from xeval.protocol import Protocol

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


class Keeper(TrainerCallback):
    """Evaluates every so often, keeps the best weights, stops when they do not get better, and says how it goes.

    Args:
        model: what is tuned.
        score: gives its score on the development set.
        losses: of its batches.
        protocol: how often to evaluate, and when to stop.
        metric: the name of the score.
        watch: told.
        clock: the time in seconds.
    """

    def __init__(
        self,
        model: Any,
        score: Callable[[], float],
        losses: LossMeter,
        *,
        protocol: Protocol,
        metric: str,
        watch: Watch,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.model, self.score, self.watch, self.clock = model, score, watch, clock
        self.losses, self.metric, self.batch_size = losses, metric, protocol.batch_size
        self.patience, self.every = protocol.patience, protocol.evaluate_every
        self.best, self.best_step, self.steps, self.stale = -math.inf, 0, 0, 0
        self.state: dict[str, Any] = {}
        self._seen, self._looked, self._figures = 0, -math.inf, ""
        self._training_since = 0.0

    def on_train_begin(self, _args: Any, state: Any, control: Any, **_rest: Any) -> Any:
        """Say that it begins."""
        self._training_since = self.clock()
        self.watch(0, state.max_steps, "tuning")
        return control

    def on_step_end(self, _args: Any, state: Any, control: Any, **_rest: Any) -> Any:
        """Look at the loss and evaluate, where it is time."""
        self.steps = state.global_step
        due = self.steps % self.every == 0 or self.steps == state.max_steps
        if due or self.clock() - self._looked >= _SECONDS_BETWEEN_LOOKS:
            self._look()
        self.watch(self.steps, state.max_steps, f"tuning{self._figures}")
        if due:
            began = self.clock()
            self._evaluate(state.max_steps)
            # Examples per second are those of training.
            self._training_since += self.clock() - began
            control.should_training_stop |= self.stale >= self.patience
        return control

    def _look(self) -> None:
        loss = self.losses.take() / (self.steps - self._seen)
        self._seen, self._looked = self.steps, self.clock()
        seconds = self._looked - self._training_since
        rate = f", {self.steps * self.batch_size / seconds:,.3g} examples/s" if seconds > 0 else ""
        best = f", best {self.metric} {self.best:.2f}" if self.state else ""
        self._figures = f", loss {loss:#.3g}{rate}{best}"

    def _evaluate(self, last: int) -> None:
        score = self.score()
        if score > self.best:
            self.best, self.best_step, self.stale = score, self.steps, 0
            self.state = copy.deepcopy(self.model.state_dict())
        else:
            self.stale += 1
        best = "the best so far" if not self.stale else f"best {self.best:.2f} at {self.best_step}"
        self.watch(
            self.steps, last, f"evaluated at step {self.steps}: {self.metric} {score:.2f}, {best}"
        )

    def restore(self) -> None:
        """Put the best weights back."""
        self.model.load_state_dict(self.state)
