"""A loss inside a forward pass: the module that a Trainer trains holds the student and returns its training loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from vocabmerge.open_models import quiet_transformers

_STUDENT = "student."


class LossModule(nn.Module):
    """Holds a student; a subclass's `forward` takes a batch and returns the training loss.

    Because the loss is inside the forward pass, whatever wraps the module (DDP, DeepSpeed's ZeRO stages 1 and 2, autocast)
    sees one ordinary call, and gradients are reduced as it expects. The student stays the stock model that it is;
    `PreparedBatchTrainer` saves it alone, so that checkpoints are plain model folders.

    A `forward` returns an object with the attribute `loss`, or a mapping with this key. It divides the loss by
    `num_items_in_batch` (the counted positions of all accumulated batches and processes) where `accepts_loss_kwargs` is
    set; else it returns a mean, which Trainer divides by the number of accumulated batches.

    Attributes:
        student: the model that is trained, saved and resumed.

    Example:
        >>> import torch
        >>> class MeanSquaredError(LossModule):
        ...     def forward(self, inputs, targets):
        ...         return {"loss": (self.student(inputs) - targets).square().mean()}
        >>> module = MeanSquaredError(nn.Linear(2, 1))
        >>> module(inputs=torch.zeros(3, 2), targets=torch.ones(3, 1))["loss"].shape
        torch.Size([])
    """

    accepts_loss_kwargs = False

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student: Any = student

    @property
    def config(self) -> Any:
        """The student's configuration, which Trainer and DeepSpeed ask for; None where it has none."""
        return getattr(self.student, "config", None)

    def save_student(self, folder: Path, state: dict[str, Tensor] | None = None) -> None:
        """Write the student as a plain model folder.

        Args:
            folder: to write into.
            state: of the whole module, where an engine gathered it; else the student's own weights are written.
        """
        if state is not None:
            state = {
                name.removeprefix(_STUDENT): tensor
                for name, tensor in state.items()
                if name.startswith(_STUDENT)
            }
        with quiet_transformers():
            self.student.save_pretrained(folder, state_dict=state)

    def load_student(self, folder: Path) -> None:
        """Put back what `save_student` wrote, in place; tied weights are written once."""
        from safetensors.torch import load_file

        for file in sorted(folder.glob("*.safetensors")):
            unknown = self.student.load_state_dict(load_file(file), strict=False).unexpected_keys
            assert not unknown, unknown
