"""The one Trainer of the packages above: batches that are ready and in their order, a loss inside the forward pass, exact resume."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import PrinterCallback, Trainer, TrainerState

from teacherzoo.training.early_stopping import BestCheckpoint
from teacherzoo.training.loss_module import LossModule
from teacherzoo.training.means import RunningMeans
from teacherzoo.training.watch import last_whole_checkpoint

_Item = TypeVar("_Item")


class PreparedBatchTrainer(Trainer):
    """Item i of the data set is a whole batch: that of one process's forward pass, the i-th over all processes in turn.

    The order of batches is then the data set's own, a pure function of its seed and the number of the batch, and a resumed
    run reads on where it stopped: it ends in the bytes of one that was never killed.

    Where the arguments name `metric_for_best_model`, the weights with the best evaluation are kept in a checkpoint and
    loaded at the end.

    Args:
        model: a `LossModule`, whose student is saved and resumed.
        figures: names of further means to log beside the loss; a subclass adds to them by `means.add`.
        figures_dtype: of their sums.
        patience: evaluations without a new best after which the training stops; None for never.
        named: as `Trainer` takes them, with arguments of `trainer_arguments`.
    """

    model: LossModule

    def __init__(
        self,
        *,
        model: Any,
        figures: Sequence[str] = (),
        figures_dtype: torch.dtype = torch.float64,
        patience: int | None = None,
        **named: Any,
    ) -> None:
        super().__init__(model=model, data_collator=_only_item, **named)
        self.remove_callback(PrinterCallback)
        if self.args.metric_for_best_model is not None:
            self.add_callback(BestCheckpoint(patience or self.args.max_steps + 1))
        self._figures = figures
        count = getattr(getattr(model, "student", model), "num_parameters", None)
        self._parameters = 0 if count is None else count(exclude_embeddings=True)
        self.means = RunningMeans(figures, self.args.device, figures_dtype)

    def resume(self) -> None:
        """Train to the end, from the last whole checkpoint in `output_dir` where there is one; leave the best weights."""
        folder = Path(self.args.output_dir)
        checkpoint = last_whole_checkpoint(folder)
        if checkpoint is not None and _ended(state := _state(checkpoint)):
            self.state = state
            self.model.to(self.args.device)
            self._load_from_checkpoint(checkpoint)
        else:
            self.train(resume_from_checkpoint=checkpoint)
        if self.state.best_global_step:
            self.load_best(folder / f"checkpoint-{self.state.best_global_step}")

    def load_best(self, checkpoint: Path) -> None:
        """Put the weights of the best evaluation into the model."""
        self._load_from_checkpoint(str(checkpoint))

    def measure(self) -> dict[str, float]:
        """What an evaluation measures, on all processes alike; names begin with `eval_`.

        Raises:
            AssertionError: in a training without evaluations.
        """
        raise AssertionError("a training that evaluates says what")

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Measure, log and tell the callbacks."""
        metrics = self.measure()
        self.log(metrics)
        self.control: Any = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def log(self, logs: dict[str, float], *arguments: Any, **named: Any) -> None:
        """Add the means since the last log over the batches of all processes."""
        if "loss" in logs and self._figures:
            logs |= self.means.take(self.accelerator)
        super().log(logs, *arguments, **named)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Of the student, as Trainer counts them; 0 for one that does not count its parameters."""
        return 6 * int(inputs["input_ids"].numel()) * self._parameters

    def _get_train_sampler(self, *_: Any) -> Any:
        return torch.utils.data.SequentialSampler(self.train_dataset)

    def _save(
        self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None
    ) -> None:
        if self.args.should_save:
            self.model.save_student(Path(output_dir or self.args.output_dir), state_dict)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self.model.load_student(Path(resume_from_checkpoint))


def _state(checkpoint: str) -> TrainerState:
    return TrainerState.load_from_json(str(Path(checkpoint) / "trainer_state.json"))


def _ended(state: TrainerState) -> bool:
    """Whether patience or the number of steps ended the training that wrote a checkpoint; Trainer would take one step more."""
    control: Any = state.stateful_callbacks["TrainerControl"]
    return bool(control["args"]["should_training_stop"])


def _only_item(items: list[_Item]) -> _Item:
    (item,) = items
    return item
