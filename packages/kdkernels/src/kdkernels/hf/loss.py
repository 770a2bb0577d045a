"""`TopKDistillationLoss`: a `compute_loss_func` of `transformers.Trainer`."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdkernels.checks import IMPLS, KernelArgumentError, require_choice
from kdkernels.hf.arguments import refuse_unfit_arguments
from kdkernels.hf.collators import SignalCollator
from kdkernels.hf.columns import OPERATION, PLAIN, Teacher, TeacherColumns, take_teacher
from kdkernels.hf.projection import Projection, output_projection, replace_forward
from kdkernels.linear_distil_loss.api import DistilLoss, linear_distil_loss
from kdkernels.row_checks import check_loss_options

TEACHER_ROWS = ("logits", "labels")


class TopKDistillationLoss:
    """(1-alpha)·CE(student, label) + alpha·T² D(teacher's top-k, student), without the logits: for `transformers.Trainer`.

    Give it to `Trainer(compute_loss_func=...)`, for a masked or a causal language model. Each batch brings, beside
    `input_ids` and `labels`, what a teacher said at its positions: `teacher_topk_ids` and `teacher_topk_logprobs`,
    [B, S, K], as serving engines and RL trainers carry them, or made by `SignalCollator` of a recording. Positions whose
    label is -100 do not count.

    The loss is `kdkernels.linear_distil_loss`, which needs the hidden states before the output projection. While a batch
    with a teacher's columns goes through the model, they are taken out of the call, and the head (the linear layer of
    `get_output_embeddings()`) returns its input: `outputs.logits` are then hidden states [B, S, H], and no [B, S, V] is
    made. In all other calls the model is as it was: it generates, is saved and loaded as the plain model that it is.
    In evaluation the logits stay logits, for `compute_metrics`, unless `logits_in_evaluation=False`; a batch without a
    teacher's columns is then scored by the cross-entropy alone.

    Trainer must not drop the teacher's columns: set `remove_unused_columns=False` in its arguments. Its
    `num_items_in_batch` divides the sums, so that gradient accumulation and several processes give the gradient of one
    large batch. Mixed precision multiplies in the dtype in which the model does, and a compiled model (`torch_compile=True`)
    has no graph break. Trainer leaves label smoothing to a loss
    function, and this one has none. Give its arguments as `args`, and what does not go together is refused at once.

    A model whose logits are more than one linear layer (scaled, capped) is refused at its first batch. Weights of the head
    must be whole in each process: DistributedDataParallel, ZeRO stages 1 and 2, and FSDP whose root module holds the head and
    keeps it after the forward pass; no tensor parallelism, no ZeRO-3, no DataParallel.

    Args:
        model: the student, as given to Trainer; with an adapter of PEFT, the wrapped model.
        alpha: weight of the teacher, from 0 to 1.
        temperature: T of both distributions. Other than 1 it needs a column `teacher_log_partition`, or
            `tail="renormalise"`.
        tail: "bucket", "renormalise" or "drop", see `kdkernels.linear_distil_loss`.
        divergence: "forward_kl", "reverse_kl" or "jsd".
        beta: of "jsd".
        shift: compare position t with the label of t + 1. None for what transformers' own models do: causal ones shift, masked
            ones do not. False where the collator has shifted the labels.
        teacher_rows: of a shifted model, which row of the teacher belongs to position t: "logits" for row t, what a
            teacher's logits say there of token t + 1; "labels" for row t + 1, where row t is about token t, as in vLLM's
            `prompt_logprobs` and in axolotl.
        columns: the names of the teacher's columns; `AXOLOTL` and `VERL` are made.
        logits_in_evaluation: whether evaluation makes logits.
        args: of Trainer, to be checked.
        chunk_bytes: see `kdkernels.linear_distil_loss`.
        impl: likewise.

    Attributes:
        last: the `DistilLoss` of the last batch, detached: hard and soft part, counted rows, implementation.

    Raises:
        KernelArgumentError: an option, the model or the arguments do not fit; later, a batch does not.

    Example:
        >>> import torch
        >>> from transformers import BertConfig, BertForMaskedLM
        >>> from kdkernels.hf import TopKDistillationLoss
        >>> size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        >>> model = BertForMaskedLM(BertConfig(vocab_size=50, **size))
        >>> loss = TopKDistillationLoss(model, alpha=0.7)
        >>> ids = torch.randint(50, (2, 6, 4))
        >>> outputs = model(  # what Trainer does
        ...     input_ids=torch.randint(50, (2, 6)), teacher_topk_ids=ids, teacher_topk_logprobs=torch.full((2, 6, 4), -2.0)
        ... )
        >>> loss(outputs, torch.tensor([[-100, 3, -100, -100, 9, -100]] * 2)).backward()
        >>> list(outputs.logits.shape), loss.last.rows
        ([2, 6, 8], 4)
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        alpha: float = 0.5,
        temperature: float = 1.0,
        tail: str = "bucket",
        divergence: str = "forward_kl",
        beta: float = 0.5,
        shift: bool | None = None,
        teacher_rows: str = "logits",
        columns: TeacherColumns = PLAIN,
        logits_in_evaluation: bool = True,
        args: Any = None,
        chunk_bytes: int | None = None,
        impl: str = "auto",
    ) -> None:
        options = {
            "alpha": alpha,
            "temperature": temperature,
            "tail": tail,
            "divergence": divergence,
            "beta": beta,
        }
        check_loss_options(OPERATION, **options, log_partition=torch.empty(0))  # type: ignore[arg-type]  # words and numbers in one dict
        require_choice("impl", impl, IMPLS, operation=OPERATION)
        require_choice("teacher_rows", teacher_rows, TEACHER_ROWS, operation=OPERATION)
        if args is not None:
            refuse_unfit_arguments(args)
        self._model = model
        self._head = output_projection(model)
        self.columns = columns
        self.shift = _shifts_labels(model) if shift is None else shift
        self.teacher_rows = teacher_rows
        self.logits_in_evaluation = logits_in_evaluation
        self.last: DistilLoss | None = None
        self._options: dict[str, Any] = {**options, "chunk_bytes": chunk_bytes, "impl": impl}
        self._teacher: Teacher | None = None
        self._projection: Projection | None = None
        self._checked: set[bool] = set()
        self._restore: Callable[[], None] | None = None
        self._hooks = [
            model.register_forward_pre_hook(self._begin, with_kwargs=True),
            model.register_forward_hook(self._end, always_call=True),
        ]

    def signal_collator(self) -> SignalCollator:
        """Makes batches of a recording of teacherzoo, at this loss's temperature and with its columns."""
        needed = self._options["temperature"] if self._options["tail"] != "renormalise" else 1.0
        return SignalCollator(temperature=needed, columns=self.columns)

    def remove(self) -> None:
        """Let go of the model: a batch with a teacher's columns is then the model's own business."""
        for hook in self._hooks:
            hook.remove()

    def __call__(
        self, outputs: Any, labels: Tensor | None, num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """The loss of the batch that has just gone through the model.

        Args:
            outputs: of the model.
            labels: [B, S], -100 where nothing is learned.
            num_items_in_batch: divides the sums; None for the mean over this batch.

        Returns:
            A scalar.

        Raises:
            KernelArgumentError: the batch lacks labels or a teacher, or they do not fit the model's outputs.
        """
        teacher, projection = self._teacher, self._projection
        self._teacher = self._projection = None
        if labels is None:
            raise KernelArgumentError(
                f"{OPERATION}: the batch must have labels, -100 where nothing is learned; got none"
            )
        if isinstance(num_items_in_batch, Tensor) and num_items_in_batch.numel() > 1:
            raise _no_data_parallel()
        if self.shift:
            labels = F.pad(labels[:, 1:], (0, 1), value=-100)
        if teacher is None:
            return self._cross_entropy(outputs, labels, num_items_in_batch)
        if projection is None:
            raise KernelArgumentError(
                f"{OPERATION}: {type(self._model).__name__} did not call its output projection, so its logits are made "
                "elsewhere; call kdkernels.linear_distil_loss on its hidden states"
            )
        self._refuse_other_logits(outputs, projection.returned)
        return self._distil(projection, labels, teacher, num_items_in_batch)

    def _distil(
        self,
        projection: Projection,
        labels: Tensor,
        teacher: Teacher,
        divisor: Tensor | int | None,
    ) -> Tensor:
        hidden = projection.hidden
        if projection.weight.untyped_storage().nbytes() == 0:
            raise KernelArgumentError(
                f"{OPERATION}: the output projection must be whole after the forward pass; got weights that FSDP has scattered "
                "again: leave the head in the root module, with reshard_after_forward=False there, or use "
                "DistributedDataParallel"
            )
        if hidden.shape[:2] != labels.shape or teacher.ids.shape[:2] != labels.shape:
            raise KernelArgumentError(
                f"{OPERATION}: labels and the teacher's columns must be [B, S] and [B, S, K] for hidden states "
                f"{list(hidden.shape)}; got {list(labels.shape)} and {list(teacher.ids.shape)}"
            )
        if self.shift and self.teacher_rows == "labels":
            teacher = teacher.next_rows()
        if self._options["temperature"] == 1 or self._options["tail"] == "renormalise":
            teacher = teacher._replace(log_partition=None)
        elif teacher.log_partition is None:
            raise KernelArgumentError(
                f"{OPERATION}: temperature={self._options['temperature']!r} with tail={self._options['tail']!r} needs the "
                f"column {self.columns.log_partition}, log Σ p^(1/T) over the teacher's vocabulary; add it, or use "
                "tail='renormalise' or temperature=1"
            )
        rows = teacher.flatten()
        device = hidden.device.type
        with (
            nullcontext()
            if projection.autocast is None
            else torch.autocast(device, dtype=projection.autocast)
        ):
            result = linear_distil_loss(
                hidden.flatten(0, 1),
                projection.weight,
                projection.bias,
                labels.flatten(),
                rows.ids,
                rows.logprobs,
                log_partition=rows.log_partition,
                divisor=divisor,
                **self._options,
            )
        # A copy, because Trainer multiplies the loss in place by the number of processes.
        self.last = result._replace(loss=result.loss.detach().clone())
        return result.loss

    def _cross_entropy(self, outputs: Any, labels: Tensor, divisor: Tensor | int | None) -> Tensor:
        if self._model.training:
            raise KernelArgumentError(
                f"{OPERATION}: the batch must have {self.columns.ids} and {self.columns.logprobs} [B, S, K]; got neither: "
                "set remove_unused_columns=False in Trainer's arguments, let the collator keep them, or name them with "
                "columns=TeacherColumns(...)"
            )
        logits = _logits(outputs)
        total = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction="sum")
        # In evaluation, too, Trainer gives the number of labels; a batch without one has the loss 0.
        number = (labels != -100).sum() if divisor is None else torch.as_tensor(divisor)
        return total / number.clamp(min=1)

    def _begin(
        self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Before the model runs: take the teacher's columns out of its call, and let its head wait."""
        kwargs = dict(kwargs)
        self._projection = None
        self._teacher = take_teacher(kwargs, self.columns)
        if self._teacher is not None:
            if getattr(model, "_is_replica", False):
                raise _no_data_parallel()
            keep = not model.training and self.logits_in_evaluation
            self._restore = replace_forward(self._head, self._receive, keep_logits=keep)
        return args, kwargs

    def _receive(self, projection: Projection) -> None:
        self._projection = projection

    def _end(self, model: nn.Module, args: Any, outputs: Any) -> None:
        if self._restore is not None:
            self._restore()
            self._restore = None

    def _refuse_other_logits(self, outputs: Any, returned: Tensor) -> None:
        """Of the first batch of training and of evaluation: are the model's logits what its head returned?"""
        if self._model.training in self._checked:
            return
        logits = _logits(outputs)
        same = logits.shape == returned.shape and torch.allclose(
            logits.to(returned.dtype), returned, rtol=0, atol=0, equal_nan=True
        )
        if not same:
            raise KernelArgumentError(
                f"{OPERATION}: the logits of {type(self._model).__name__} must be what its output projection returns; this "
                "model changes them after it (a scale, a cap, a slice): compare them with kdkernels.topk_kl"
            )
        self._checked.add(self._model.training)


def _logits(outputs: Any) -> Tensor:
    """Of a `ModelOutput`, or of the tuple that a model returns without labels."""
    return outputs["logits"] if isinstance(outputs, Mapping) else outputs[0]


def _shifts_labels(model: nn.Module) -> bool:
    """Whether the model's own loss compares position t with label t + 1."""
    from transformers.models.auto import modeling_auto as names

    base: Any = getattr(model, "get_base_model", lambda: model)  # of an adapter
    name = type(base()).__name__
    causal = name in names.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
    if not causal and name not in names.MODEL_FOR_MASKED_LM_MAPPING_NAMES.values():
        raise KernelArgumentError(
            f"{OPERATION}: shift must be said of {name}, which is none of transformers' masked or causal language models: "
            "True where position t predicts token t + 1, else False"
        )
    return causal


def _no_data_parallel() -> KernelArgumentError:
    return KernelArgumentError(
        f"{OPERATION}: each process must run one model; got torch.nn.DataParallel over several GPUs: start with torchrun "
        "or accelerate launch, or show one GPU with CUDA_VISIBLE_DEVICES"
    )
