"""The best weights of a training, kept by Trainer's own means, and the end of one that gets no better."""

from __future__ import annotations

from typing import Any

from transformers import EarlyStoppingCallback


class BestCheckpoint(EarlyStoppingCallback):
    """Saves a checkpoint at each new best evaluation, and stops when patience runs out.

    Trainer alone keeps the best of the checkpoints that there are, so evaluations and checkpoints would have to fall
    together. Its count of evaluations without improvement is part of every checkpoint and comes back from it.

    Args:
        early_stopping_patience: evaluations without improvement before the training stops.
        early_stopping_threshold: as in `EarlyStoppingCallback`, whose state names both.
    """

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """`PreparedBatchTrainer.resume` loads the best weights, whatever Trainer is told."""

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any, **more: Any) -> None:
        """Count, stop, save."""
        super().on_evaluate(args, state, control, metrics, **more)
        if self.early_stopping_patience_counter == 0:
            control.should_save = True
