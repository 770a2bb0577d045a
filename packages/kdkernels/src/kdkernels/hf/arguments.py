"""Arguments of Trainer that do not go with a loss of its batch's own columns."""

from typing import Any

from kdkernels.checks import KernelArgumentError
from kdkernels.hf.columns import OPERATION

UNFIT = {
    "remove_unused_columns": "drops the teacher's columns: set it to False",
    "label_smoothing_factor": "is left to the loss function by Trainer, and this one has none: set it to 0",
    "use_liger_kernel": "replaces the forward pass that this loss completes: set it to False",
}


def refuse_unfit_arguments(args: Any) -> None:
    """Refuse what would be dropped or left out in silence.

    Args:
        args: `transformers.TrainingArguments`.

    Raises:
        KernelArgumentError: naming the argument, and what to set.
    """
    for name, reason in UNFIT.items():
        value = getattr(args, name, None)
        if value:
            raise KernelArgumentError(f"{OPERATION}: args.{name}={value!r} {reason}")
