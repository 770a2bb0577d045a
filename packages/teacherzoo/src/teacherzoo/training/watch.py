"""What our trainings ask of a Trainer: progress to a watcher, no training on NaN, and checkpoints that can be trusted."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from teacherzoo.atomic_write import MARKER
from teacherzoo.errors import DivergenceError
from teacherzoo.processes import wait_for_all
from teacherzoo.progress import ProgressCallback


class TrainingWatch(TrainerCallback):
    """Reports each step, stops at a loss that is no number, and marks each checkpoint once it is whole.

    Args:
        watch: told (done, total, what).
        what: the word for what is done.
        advice: what to do where the loss is no longer finite.
        per_step: how many units an optimiser step takes, all processes together, for a rate; 0 for none.
        unit: what is counted.
        evaluated: of an evaluation's metrics, those that are reported, and how each is put, such as
            `{"eval_bits_per_byte": "{:.3f} bits per byte"}`; where one chooses the best weights, the best is reported, too.
        clock: the time in seconds.
    """

    def __init__(
        self,
        watch: ProgressCallback,
        *,
        what: str,
        advice: str,
        per_step: float = 0,
        unit: str = "examples",
        evaluated: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._watch = watch
        self._what = what
        self._advice = advice
        self._per_step, self._unit, self._clock = per_step, unit, clock
        self._evaluated = dict(evaluated or {})
        self._mark = (clock(), 0)  # since when and which step the rate is measured
        self._figures = ""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The clock of the first steps starts."""
        self._mark = (self._clock(), state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Keep the loss and the rate for the next report.

        Raises:
            DivergenceError: where the loss is NaN or infinite.
        """
        if not logs or "loss" not in logs:
            return
        loss = float(logs["loss"])
        if not math.isfinite(loss):
            raise self._divergence(f"The loss is {loss}", args, state)
        # Mean squared differences are small numbers all through a training.
        self._figures = f", loss {loss:.2f}" if abs(loss) >= 0.1 else f", loss {loss:.3g}"
        (start, before), now = self._mark, self._clock()
        if self._per_step and now > start:
            rate = self._per_step * (state.global_step - before) / (now - start)
            self._figures += f", {rate:,.{0 if rate >= 10 else 1}f} {self._unit}/s"
        self._mark = (now, state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Report the step."""
        self._watch(state.global_step, state.max_steps, f"{self._what}{self._figures}")

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Any = None, **_: Any
    ) -> None:
        """Report the metrics, and the best; the time of an evaluation does not count in the rate."""
        report = ["evaluated"]
        for name, words in self._evaluated.items():
            if name in (metrics or {}):
                report.append(words.format(metrics[name]))
                if name == args.metric_for_best_model:
                    best, step = _best(metrics[name], args, state)
                    report.append(f"best {words.format(best)} at step {step}")
        self._watch(state.global_step, state.max_steps, ", ".join(report))
        self._mark = (self._clock(), state.global_step)

    def on_save(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Mark the checkpoint as whole, once every process has written its part.

        Raises:
            DivergenceError: where weights are NaN or infinite, which the next logged loss would say too late.
        """
        if model is not None and not _all_finite(model):
            raise self._divergence("The weights are no longer finite", args, state)
        wait_for_all()
        if state.is_world_process_zero:
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / MARKER).touch()

    def _divergence(self, fault: str, args: Any, state: Any) -> DivergenceError:
        return DivergenceError(
            f"{fault} at step {state.global_step}; {self._advice} (now {args.learning_rate:g}) and run again."
        )


def _best(value: float, args: Any, state: Any) -> tuple[float, int]:
    """The best evaluation so far and its step; Trainer compares after its callbacks."""
    best = state.best_metric
    if best is None or (value > best if args.greater_is_better else value < best):
        return value, state.global_step
    return best, state.best_global_step


def _all_finite(model: Any) -> bool:
    finite = [weights.isfinite().all() for weights in model.parameters() if weights.requires_grad]
    return not finite or bool(torch.stack(finite).all())


def last_whole_checkpoint(folder: Path) -> str | None:
    """The latest checkpoint in `folder` that a `TrainingWatch` marked; None where there is none."""
    whole = [marker.parent for marker in folder.glob(f"checkpoint-*/{MARKER}")]
    whole.sort(key=lambda checkpoint: int(checkpoint.name.rpartition("-")[2]))
    return str(whole[-1]) if whole else None
