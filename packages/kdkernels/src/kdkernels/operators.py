"""What the losses have in common as operators of torch, which a compiled graph holds as single nodes.

An operator puts out the loss first and its gradients last; `backward` only multiplies them. A gradient that nobody wants
is an empty tensor.
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kdkernels.compiling import has_values
from kdkernels.reduction import scaled

P = ParamSpec("P")
Outputs = TypeVar("Outputs", bound=tuple[Tensor, ...])

# Of `torch.ops`: the package's name, under which a copy of it, as the Hub's kernels library loads one, differs.
NAMESPACE = __name__.rpartition(".")[0].replace(".", "_")


def loss_operator(
    name: str, operands: Sequence[int], *, fake: Callable[..., Any], rescaled: bool = False
) -> Callable[[Callable[P, Outputs]], Callable[P, Outputs]]:
    """Make an operator of torch of a function of tensors and numbers, differentiable once.

    A call outside of a graph runs the function itself: the operator's machinery would import the compiler. Either way it runs
    while the device of its first argument is current, on which Triton launches kernels wherever the tensors are.

    Args:
        name: of the operator.
        operands: places of the arguments whose gradients the last outputs are, in their order.
        fake: from the same arguments to outputs without values.
        rescaled: whether the output before the gradients holds what they are multiplied with; empty for nothing.

    Returns:
        A decorator.
    """
    kept = len(operands) + rescaled

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)  # zeros for outputs that nobody differentiates are large
        ctx.save_for_backward(*output[-kept:])
        ctx.dtypes = [None if inputs[place] is None else inputs[place].dtype for place in operands]
        ctx.arguments = len(inputs)

    @once_differentiable
    def multiplied(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        results: list[Tensor | None] = [None] * ctx.arguments
        saved = ctx.saved_tensors
        if rescaled and saved[0].numel():
            grad_output = grad_output / saved[0]
        for place, gradient, dtype in zip(
            operands, saved[kept - len(operands) :], ctx.dtypes, strict=True
        ):
            if ctx.needs_input_grad[place]:
                results[place] = scaled(gradient, grad_output, dtype, impl=ctx.impl)
        return tuple(results)

    def backward(ctx: Any, grad_output: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if grad_output is None:
            return (None,) * ctx.arguments
        return multiplied(ctx, no_constant(grad_output))

    def decorate(function: Callable[P, Outputs]) -> Callable[P, Outputs]:
        place_of_impl = list(inspect.signature(function).parameters).index("impl")

        @functools.wraps(function)
        def guarded(*arguments: Any) -> Any:
            with torch.cuda.device_of(arguments[0]):
                # The ignored error: these are the arguments of P, which no caller of a torch Function types.
                return function(*arguments)  # type: ignore[call-arg]

        operator = torch.library.custom_op(f"{NAMESPACE}::{name}", guarded, mutates_args=())
        operator.register_fake(fake)

        def keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            ctx.impl = inputs[place_of_impl]
            setup_context(ctx, inputs, output)

        operator.register_autograd(backward, setup_context=keep)

        def forward(ctx: Any, *arguments: Any) -> Any:
            output = guarded(*arguments)
            keep(ctx, arguments, output)
            return output

        methods = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
        outside: Any = type(name, (torch.autograd.Function,), methods)

        @functools.wraps(function)
        def call(*arguments: P.args, **_: P.kwargs) -> Outputs:
            if torch.compiler.is_compiling() or not has_values(arguments[0]):
                return operator(*arguments)
            return outside.apply(*arguments)

        return call

    return decorate


def no_constant(grad_output: Tensor) -> Tensor:
    """The gradient of an output, for a function that is differentiable once: requires a gradient itself where one is recorded.

    Of a constant, what is multiplied with it would pass for a constant in a second derivative, in silence.
    """
    if torch.is_grad_enabled() and not grad_output.requires_grad:
        return grad_output.detach().requires_grad_()
    return grad_output


def or_empty(gradient: Tensor | None, like: Tensor) -> Tensor:
    """What an operator puts out for a gradient, in rows one after the other; it has no None."""
    return like.new_empty(0) if gradient is None else gradient.contiguous()
