"""The top-k distillation loss for `transformers.Trainer`; `pip install kdkernels[hf]` brings what Trainer needs."""

from kdkernels.hf.collators import RecordedBatch, SignalCollator, TeacherCollator
from kdkernels.hf.columns import AXOLOTL, VERL, TeacherColumns
from kdkernels.hf.loss import TopKDistillationLoss

__all__ = [
    "AXOLOTL",
    "VERL",
    "RecordedBatch",
    "SignalCollator",
    "TeacherCollator",
    "TeacherColumns",
    "TopKDistillationLoss",
]
