"""What a `transformers.Trainer` of ours is told: our decisions, the user's wishes that it can honour, and one device."""

from __future__ import annotations

import logging
import sys
from collections.abc import Collection, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from teacherzoo.nearest import nearest
from teacherzoo.processes import tell_of_locks

if TYPE_CHECKING:
    from transformers import TrainingArguments

LOGS_AND_LOADERS = frozenset(
    {
        # logs and checkpoints
        "logging_strategy", "logging_steps", "logging_first_step", "log_on_each_node", "log_level", "log_level_replica",
        "report_to", "run_name", "project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id",
        "save_total_limit", "save_on_each_node",
        # reading batches
        "dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers", "dataloader_prefetch_factor",
        "dataloader_multiprocessing_context",
    }
)  # fmt: skip
"""Fields of TrainingArguments that change nothing of what is learnt: a training that was killed goes on with others of these."""

# Fields of TrainingArguments that our trainings do what they say with.
HONOURED = LOGS_AND_LOADERS | {
    # the optimiser and its schedule
    "optim", "optim_args", "learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm",
    "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "gradient_accumulation_steps",
    # precision and memory
    "bf16", "fp16", "tf32", "torch_empty_cache_steps", "full_determinism", "debug", "use_cpu",
    # several processes
    "deepspeed", "ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_broadcast_buffers", "ddp_static_graph",
    "ddp_backend", "ddp_timeout",
}  # fmt: skip

_RECOMPUTED = "a forward pass whose attention a loss has captured cannot be run a second time in the backward pass"
_ORDERED = "the order of batches follows from the seed alone"
_BEST = "its evaluations do not choose between checkpoints"
_WHOLE = "losses read the vocabulary's weights whole; DeepSpeed's ZeRO stages 1 and 2 share the optimiser's state"
_BATCHED = "batches are made before the Trainer sees them"
_WHY_NOT = {
    "label_smoothing_factor": "the loss is computed inside the model, from labels as they are",
    "average_tokens_across_devices": "a step's loss is divided by the positions of all processes",
    "activation_checkpointing": _RECOMPUTED,
    "gradient_checkpointing": _RECOMPUTED,
    "fsdp": _WHOLE,
    "fsdp_config": _WHOLE,
    "parallelism_config": _WHOLE,
    "load_best_model_at_end": _BEST,
    "metric_for_best_model": _BEST,
    "greater_is_better": _BEST,
    "train_sampling_strategy": _ORDERED,
    "data_seed": _ORDERED,
    "dataloader_in_order": _ORDERED,
    "ignore_data_skip": _ORDERED,
    "per_device_train_batch_size": _BATCHED,
    "auto_find_batch_size": _BATCHED,
    "dataloader_drop_last": _BATCHED,
    "num_train_epochs": "the length of a training is a number of steps",
    "save_only_model": "a killed run resumes from the optimiser's state, too",
    "resume_from_checkpoint": "a run that was killed resumes by itself",
    "logging_nan_inf_filter": "a loss that is no number ends the training",
    "remove_unused_columns": "the loss needs every column",
}


# Of what a training decides, the user may ask for otherwise.
_OVERRIDABLE = frozenset(
    {"lr_scheduler_type", "save_total_limit", "logging_steps", "ddp_find_unused_parameters"}
)


def decided_arguments(
    folder: Path,
    *,
    steps: int,
    learning_rate: float,
    warmup_steps: int,
    seed: int,
    checkpoint_every: int,
    **more: Any,
) -> dict[str, Any]:
    """What a training decides for itself, for `trainer_arguments`.

    Args:
        folder: for checkpoints.
        steps: of the optimiser.
        learning_rate: at its peak; it falls linearly to 0.
        warmup_steps: in which it rises first.
        seed: of everything.
        checkpoint_every: steps between checkpoints; one is always made at the end.
        more: further fields of `TrainingArguments`, such as `weight_decay`.
    """
    return {
        "output_dir": str(folder),
        "max_steps": steps,
        "per_device_train_batch_size": 1,  # an item of the data set is a whole batch
        "learning_rate": learning_rate,
        "warmup_steps": warmup_steps,
        "lr_scheduler_type": "linear",
        "seed": seed,
        "save_strategy": "steps",
        "save_steps": checkpoint_every,
        "save_total_limit": 2,
        "logging_steps": max(1, min(50, steps // 20)),
        "ddp_find_unused_parameters": False,  # every loss reaches all that is trained
        "restore_callback_states_from_checkpoint": True,
        **more,
    }


def trainer_arguments(
    decided: Mapping[str, Any],
    asked: Mapping[str, Any],
    *,
    where: str,
    error: type[Exception],
    overridable: Collection[str] = (),
) -> TrainingArguments:
    """Arguments of a training that takes one batch a step and process, on one device.

    Beside `decided` it sets what every training of ours wants: no reporters unless asked for, no bars, no filter over NaN,
    all columns kept, the GPU where there is one. Where several GPUs are visible and no launcher started this process, the
    first is used, and a warning says how to use all: `Trainer` would replicate the model in threads, and cut up a batch
    that our data sets hand over whole.

    Args:
        decided: what the training has decided, see `decided_arguments`.
        asked: what the user asks for beside it.
        where: the user asked, for messages, such as `"train.arguments"`.
        error: to raise.
        overridable: further names among `decided` that the user may ask for otherwise.

    Returns:
        The arguments, their device chosen.

    Raises:
        Exception: `error`, see `refuse_unfit_arguments`; and where transformers does not take a value.
    """
    import torch
    from transformers import TrainingArguments

    refuse_unfit_arguments(decided, asked, where=where, error=error, overridable=overridable)
    if asked.get("deepspeed"):
        tell_of_locks()
    cuda = torch.cuda.is_available()
    common = {
        "report_to": [],
        "disable_tqdm": True,
        "logging_nan_inf_filter": False,
        "remove_unused_columns": False,
        "dataloader_pin_memory": cuda,
        "use_cpu": not cuda,
    }
    try:
        arguments = TrainingArguments(**{**common, **decided, **asked})
        _try(arguments)
    except (TypeError, ValueError, ImportError, RuntimeError) as refusal:
        raise error(f"{where}: {' '.join(str(refusal).split())}") from refusal
    _use_one_device(arguments)
    leave_deepspeed_alone()
    return arguments


def refuse_unfit_arguments(
    decided: Collection[str],
    asked: Mapping[str, Any],
    *,
    where: str,
    error: type[Exception],
    overridable: Collection[str] = (),
) -> None:
    """Before anything is spent: arguments that `TrainingArguments` does not have or our trainings do not honour.

    A field that is not honoured may be given at its default, which changes nothing.

    Args:
        decided: names that the training decides itself.
        asked: what the user asks for.
        where: see `trainer_arguments`.
        error: to raise.
        overridable: see `trainer_arguments`.

    Raises:
        Exception: `error`, naming the argument, and the name that was probably meant; also for a value of another kind than
            the default, and for a reporter that is not installed.
    """
    from transformers import TrainingArguments

    defaults = {
        field.name: field.default if field.default_factory is MISSING else field.default_factory()
        for field in fields(TrainingArguments)
        if field.init
    }
    for name, value in asked.items():
        if name in set(decided) - _OVERRIDABLE - set(overridable):
            raise error(f"{where}: {name} is decided elsewhere, by an option of its own; leave it out here.")  # fmt: skip
        if name not in defaults:
            raise error(f"{where}: `transformers.TrainingArguments` has no field {name!r}{nearest(name, HONOURED)}; leave it out, or name one that there is.")  # fmt: skip
        if name not in HONOURED and value != defaults[name]:
            reason = f": {_WHY_NOT[name]}" if name in _WHY_NOT else ""
            raise error(f"{where}: {name} is not supported by this training{reason}; leave it out.")
        _refuse_another_kind(name, value, defaults[name], where=where, error=error)
    steps = asked.get("gradient_accumulation_steps", 1)
    if not isinstance(steps, int) or steps < 1:
        raise error(f"{where}: gradient_accumulation_steps must be a whole number from 1, got {steps!r}.")  # fmt: skip
    _refuse_missing_reporters(asked.get("report_to"), where=where, error=error)


def has_bfloat16() -> bool:
    """Whether this machine multiplies bfloat16 in hardware."""
    import torch

    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    features = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, feature, lambda: False)() for feature in features)


def _refuse_another_kind(
    name: str, value: Any, default: Any, *, where: str, error: type[Exception]
) -> None:
    """Switches and numbers alone: other defaults, None among them, do not tell of what kind a value must be."""
    if isinstance(default, bool) and not isinstance(value, bool):
        raise error(f"{where}: {name} must be true or false, got {value!r}.")
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(default, int | float) and not isinstance(default, bool) and not number:
        raise error(f"{where}: {name} must be a number, got {value!r}.")


def _refuse_missing_reporters(reporters: Any, *, where: str, error: type[Exception]) -> None:
    if not reporters:
        return
    from transformers.integrations import get_reporting_integration_callbacks

    try:
        for reporter in get_reporting_integration_callbacks(reporters):
            reporter()
    except (RuntimeError, ValueError, ImportError) as refusal:
        raise error(f"{where}: report_to: {' '.join(str(refusal).split())}") from refusal


def _try(arguments: TrainingArguments) -> None:
    """Make the optimiser and the loader that they ask for, small and for nothing: what fails, fails before anything is spent."""
    import torch
    from transformers import Trainer

    if arguments.deepspeed is None:  # whose configuration may name an optimiser of its own
        optimiser, options = Trainer.get_optimizer_cls_and_kwargs(arguments)
        optimiser([torch.nn.Parameter(torch.zeros(2, 2))], **options)
    torch.utils.data.DataLoader(
        [0],  # type: ignore[arg-type]  # as long as it has a length
        num_workers=arguments.dataloader_num_workers,
        persistent_workers=arguments.dataloader_persistent_workers,
        prefetch_factor=arguments.dataloader_prefetch_factor,
        multiprocessing_context=arguments.dataloader_multiprocessing_context,
    )


def _use_one_device(arguments: TrainingArguments) -> None:
    _ = arguments.device  # counts the devices
    if arguments.n_gpu > 1:
        logging.getLogger("teacherzoo").warning(
            "%d GPUs are visible and one of them is used; `torchrun --nproc-per-node %d -m …` uses all.",
            arguments.n_gpu,
            arguments.n_gpu,
        )
        arguments._n_gpu = 1


def leave_deepspeed_alone() -> None:
    """Keep accelerate from importing DeepSpeed, for seconds and with a greeting, to ask whether a model is one of its engines.

    A model can be one only where DeepSpeed has been imported already.
    """
    from accelerate.utils import other

    other.is_deepspeed_available = lambda: "deepspeed" in sys.modules
