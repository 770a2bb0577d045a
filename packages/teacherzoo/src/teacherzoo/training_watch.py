"""What our trainings ask of a Trainer: progress to a watcher, no training on NaN, and checkpoints that can be trusted."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from teacherzoo.errors import TeacherzooError

_MARKER = (
    "complete"  # the last file of a checkpoint: what a killed run leaves looks whole without it
)


class TrainingWatch(TrainerCallback):
    """Reports each step, stops at a loss that is no number, and marks each checkpoint once it is whole.

    Args:
        watch: told (done, total, what).
        what: the word for what is done.
        advice: what to do where the loss is no longer finite.
    """

    def __init__(self, watch: Callable[[int, int, str], None], *, what: str, advice: str) -> None:
        self._watch = watch
        self._what = what
        self._advice = advice
        self._loss = math.nan

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Keep the loss for the next report.

        Raises:
            TeacherzooError: where it is NaN or infinite.
        """
        if logs and "loss" in logs:
            self._loss = float(logs["loss"])
            if not math.isfinite(self._loss):
                raise TeacherzooError(
                    f"The loss is {self._loss} at step {state.global_step}; {self._advice} "
                    f"(now {args.learning_rate:g}) and run again."
                )

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Report the step."""
        shown = "" if math.isnan(self._loss) else f", loss {self._loss:.2f}"
        self._watch(state.global_step, state.max_steps, f"{self._what}{shown}")

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Mark the checkpoint as whole."""
        if state.is_world_process_zero:
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / _MARKER).touch()


def last_whole_checkpoint(folder: Path) -> str | None:
    """The latest checkpoint in `folder` that a `TrainingWatch` marked; None where there is none."""
    whole = [marker.parent for marker in folder.glob(f"checkpoint-*/{_MARKER}")]
    whole.sort(key=lambda checkpoint: int(checkpoint.name.rpartition("-")[2]))
    return str(whole[-1]) if whole else None
