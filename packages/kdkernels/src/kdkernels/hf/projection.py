"""A language model whose output projection is left to the loss: what it would multiply, and by what."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kdkernels.checks import KernelArgumentError
from kdkernels.hf.columns import OPERATION


class Projection(NamedTuple):
    """The operands of logits = hidden weightᵀ + bias, as the head met them."""

    hidden: Tensor
    """[B, S, H]"""
    weight: Tensor
    bias: Tensor | None
    autocast: torch.dtype | None
    """The dtype in which the model multiplies under autocast, else None."""
    returned: Tensor
    """What the head returned in place of, or as, the logits."""


def output_projection(model: nn.Module) -> nn.Linear:
    """The linear layer that makes a language model's logits.

    Raises:
        KernelArgumentError: the model has none, or it is no plain linear layer.
    """
    name = type(model).__name__
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        raise KernelArgumentError(
            f"{OPERATION}: model must be a masked or causal language model; got the encoder-decoder {name}: call "
            "kdkernels.linear_distil_loss on its decoder's hidden states"
        )
    find: Callable[[], nn.Module | None] | None = getattr(model, "get_output_embeddings", None)
    head = None if find is None else find()
    if not isinstance(head, nn.Linear) or type(head).forward is not nn.Linear.forward:
        kind = "none" if head is None else f"{type(head).__module__}.{type(head).__qualname__}"
        raise KernelArgumentError(
            f"{OPERATION}: model must have a plain torch.nn.Linear as its output projection "
            f"(get_output_embeddings()); {name} has {kind}: open it as …ForMaskedLM or …ForCausalLM, and leave its head "
            "out of adapters and quantisation"
        )
    return head


def replace_forward(
    head: nn.Linear, receive: Callable[[Projection], None], *, keep_logits: bool
) -> Callable[[], None]:
    """Until the returned function is called, let a head hand its operands on instead of multiplying them.

    Args:
        head: the output projection.
        receive: called with the operands at each call of the head.
        keep_logits: multiply nevertheless, and return the logits; else the hidden states are returned.
    """

    def forward(hidden: Tensor) -> Tensor:
        if hasattr(head.weight, "ds_id"):
            raise KernelArgumentError(
                f"{OPERATION}: the output projection must be whole in each process; got weights that DeepSpeed ZeRO-3 "
                "scatters: use ZeRO stage 1 or 2"
            )
        device = hidden.device.type
        autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        passed, weight, bias = _joined(hidden, head.weight, head.bias)
        returned = nn.Linear.forward(head, hidden) if keep_logits else passed
        receive(Projection(passed, weight, bias, autocast, returned))
        return returned

    before = head.__dict__.get("forward")
    head.forward = forward  # type: ignore[method-assign, assignment]  # of this one layer, until `restore`

    def restore() -> None:
        if before is None:
            head.__dict__.pop("forward", None)
        else:
            head.forward = before  # type: ignore[method-assign]  # as it was

    return restore


def _joined(
    hidden: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The operands, as outputs of one node of the graph.

    Who looks for the parameters behind a model's outputs, as DistributedDataParallel does, then finds the head's behind
    the hidden states, although they are multiplied after the forward pass.
    """
    operands: list[Any] = [hidden, weight, bias]
    moving = [i for i, part in enumerate(operands) if part is not None and part.requires_grad]
    if torch.is_grad_enabled() and moving:
        joined = _Join.apply(*(operands[i] for i in moving))
        for i, part in zip(moving, joined, strict=True):
            operands[i] = part
    return operands[0], operands[1], operands[2]


class _Join(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *operands: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        return tuple(part.view_as(part) for part in operands)

    @staticmethod
    def backward(_: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        return gradients
