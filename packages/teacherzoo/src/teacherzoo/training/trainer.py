"""The one Trainer of the packages above: batches that are ready and in their order, a loss inside the forward pass, exact resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import PrinterCallback, Trainer

from teacherzoo.training.loss_module import LossModule
from teacherzoo.training.watch import last_whole_checkpoint

_Item = TypeVar("_Item")


class PreparedBatchTrainer(Trainer):
    """Item i of the data set is a whole batch: that of one process's forward pass, the i-th over all processes in turn.

    The order of batches is then the data set's own, a pure function of its seed and the number of the batch, and a resumed
    run reads on where it stopped.

    Args:
        model: a `LossModule`.
        named: as `Trainer` takes them, with arguments of `trainer_arguments`.
    """

    model: LossModule

    def __init__(self, *, model: LossModule, **named: Any) -> None:
        super().__init__(model=model, data_collator=_only_item, **named)
        self.remove_callback(PrinterCallback)

    def resume(self) -> None:
        """Train to the end, from the last whole checkpoint in `output_dir` where there is one."""
        self.train(resume_from_checkpoint=last_whole_checkpoint(Path(self.args.output_dir)))

    def _get_train_sampler(self, *_: Any) -> Any:
        return torch.utils.data.SequentialSampler(self.train_dataset)

    def _save(
        self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None
    ) -> None:
        if self.args.should_save:
            self.model.save_student(Path(output_dir or self.args.output_dir), state_dict)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self.model.load_student(Path(resume_from_checkpoint))


def _only_item(items: list[_Item]) -> _Item:
    (item,) = items
    return item
